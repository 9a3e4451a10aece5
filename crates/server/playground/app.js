// Connects the parts: user actions, server answers and the display.

import { ApiError, readInfo } from "./api.js";
import { refreshAudits, showAudits } from "./audits.js";
import { CodePanel } from "./code.js";
import { byId, make, toast } from "./dom.js";
import { examplePrompts } from "./examples.js";
import { Gallery } from "./gallery.js";
import { Inputs } from "./inputs.js";
import { askForKey, key } from "./key.js";
import { Maker } from "./making.js";
import { Settings, Unusable, requestBody } from "./settings.js";
import { Stage } from "./stage.js";
import { Timeline } from "./timeline.js";
import { explained } from "./words.js";

const INFO_AGAIN_MS = 1500;

const stage = new Stage();
const timeline = new Timeline(byId("timeline"), byId("readout"));
const code = new CodePanel();
const gallery = new Gallery(restore);
const maker = new Maker(stage, timeline, gallery);
const settings = new Settings(settingsChanged);
const inputs = new Inputs(inputsChanged);

/** The server's `/info`; `null` until its model is loaded. */
let info = null;
/** AbortController of the running request. */
let running = null;

start();

async function start() {
  byId("modifier").textContent = /Mac|iP(hone|ad)/.test(navigator.platform) ? "⌘" : "Ctrl";
  byId("generate").disabled = true;
  byId("compare").disabled = true;
  byId("composer").addEventListener("submit", (event) => act(event, "generate"));
  byId("compare").addEventListener("click", (event) => act(event, "compare"));
  byId("cancel").addEventListener("click", () => running?.abort());
  byId("key-button").addEventListener("click", () => askForKey());
  byId("reuse-seed").addEventListener("click", () => {
    settings.restore({ seed: String(maker.shown.seed), keepSeed: true });
    toast(`Seed ${maker.shown.seed} is kept`);
  });
  addEventListener("keydown", shortcut);
  await Promise.all([gallery.open(), connect()]);
}

/** Polls /info until the model is loaded. */
async function connect() {
  while (true) {
    const answer = await readInfo().catch((error) => error);
    const isReady = !(answer instanceof Error) && answer.model.default_size !== null;
    showModel(answer, isReady);
    if (isReady) return welcome(answer);
    await new Promise((resolve) => setTimeout(resolve, INFO_AGAIN_MS));
  }
}

function showModel(answer, isReady) {
  const isLost = answer instanceof Error;
  byId("model").dataset.state = isLost ? "lost" : isReady ? "ready" : "loading";
  byId("model").title = isLost ? "" : answer.model.id;
  // Without the owner, for which a phone has no room.
  byId("model-name").textContent = isLost ? "No answer from the server" : `${answer.model.id.split("/").at(-1)}${isReady ? "" : " is loading…"}`;
}

function welcome(answer) {
  info = answer;
  byId("key-button").hidden = !info.auth_required;
  settings.configure(info);
  showAudits(info.cache_audits);
  inputs.configure(info.model);
  if (info.model.min_input_images > 0) byId("welcome-text").textContent = "Add a picture and say what to change, such as:";
  const examples = examplePrompts(info.model);
  byId("examples").replaceChildren(...examples.slice(0, 6).map((prompt) => make("li", {}, exampleButton(prompt))));
  byId("example").addEventListener("click", () => tryExample(examples));
  byId("generate").disabled = false;
  byId("compare").disabled = !info.cache.request_config_allowed;
}

function exampleButton(prompt) {
  const button = make("button", { type: "button" }, prompt);
  button.addEventListener("click", (event) => {
    settings.restore({ prompt });
    act(event, "generate");
  });
  return button;
}

function tryExample(examples) {
  const next = (examples.indexOf(byId("prompt").value) + 1) % examples.length;
  settings.restore({ prompt: examples[next] });
  byId("prompt").focus();
}

function settingsChanged() {
  byId("problem").hidden = true;
  let body = null;
  try {
    body = requestBody(settings.values(), info, inputs.pictures.length);
  } catch (error) {
    if (!(error instanceof Unusable)) throw error;
  }
  code.show(body, info.auth_required, inputs.files.map(({ name }) => name));
}

function inputsChanged() {
  settings.offerAutoSize(inputs.pictures.length > 0);
  settingsChanged();
}

function shortcut(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !byId("key-dialog").open) act(event, "generate");
  if (event.key === "Escape" && running && !byId("key-dialog").open) running.abort();
}

/** Runs the maker's `generate` or `compare`, with the controls in their busy state; shows a failure. */
async function act(event, action) {
  event.preventDefault();
  if (!info || running) return;
  if (info.auth_required && key() === "" && !(await askForKey())) return;
  running = new AbortController();
  showRunning(true);
  byId("problem").hidden = true;
  try {
    settings.prepareSeed();
    await maker[action](settings.values(), [...inputs.pictures], info, running.signal);
  } catch (error) {
    await failed(error);
  } finally {
    running = null;
    stage.progress(null, 0);
    showRunning(false);
    if (info.cache_audits) refreshAudits();
  }
}

function showRunning(isRunning) {
  const hadFocus = ["generate", "cancel", "compare"].includes(document.activeElement?.id);
  byId("generate").hidden = isRunning;
  byId("cancel").hidden = !isRunning;
  byId("compare").disabled = isRunning || !info.cache.request_config_allowed;
  if (hadFocus) byId(isRunning ? "cancel" : "generate").focus();
}

async function failed(error) {
  maker.settle();
  if (error.name === "AbortError") return toast("Cancelled");
  if (!(error instanceof ApiError || error instanceof Unusable)) throw error;
  if (error.code === "invalid_api_key") return askForKey(explained(error));
  byId("problem").textContent = explained(error);
  byId("problem").hidden = false;
  if (error.param) settings.blame(error.param);
}

/** Shows a picture from the gallery and restores its settings. */
async function restore(kept) {
  if (running) return;
  await inputs.replace(kept.inputs ?? []);
  settings.restore({ ...kept.values, seed: String(kept.seed), n: "1", keepSeed: true });
  maker.restore(kept);
}
