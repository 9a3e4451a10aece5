// The settings form: its values, the server's limits, and the resulting request.

import { byId, drawn, make, setIcon } from "./dom.js";
import { parsed, shapes } from "./sizes.js";
import { figure } from "./words.js";

const STORED = "latentd.settings";
const MAX_SLIDER_STEPS = 100;
/** Largest random seed, short enough to read aloud. */
const ROLLED = 2 ** 32;

/** A setting with an invalid value. */
export class Unusable extends Error {
  constructor(param, message) {
    super(message);
    this.param = param;
  }
}

/** The fields' elements, by request parameter. */
const FIELDS = {
  prompt: "prompt",
  negative_prompt: "negative",
  num_inference_steps: "steps",
  sampler: "sampler",
  true_cfg_scale: "guidance",
  guidance_scale: "guidance",
  image: "choose",
  seed: "seed",
  size: "width",
  n: "n",
  output_format: "format",
};

export class Settings {
  #info = null;
  #changed;

  constructor(changed) {
    this.#changed = changed;
    byId("steps-range").addEventListener("input", () => (byId("steps").value = byId("steps-range").value));
    byId("steps").addEventListener("input", () => (byId("steps-range").value = byId("steps").value));
    byId("seed").addEventListener("input", () => this.#keepSeed(byId("seed").value !== ""));
    byId("lock").addEventListener("click", () => this.#keepSeed(!this.#isSeedKept()));
    byId("dice").addEventListener("click", () => this.#rollSeed());
    byId("composer").addEventListener("input", () => this.#note());
    for (const id of ["lock", "dice"]) byId(id).addEventListener("click", () => this.#note());
  }

  /** Applies the server's defaults and limits, then the settings of the last visit. */
  configure(info) {
    this.#info = info;
    this.#offerSizes(info);
    this.#offerPresets(info.cache);
    byId("sampler").replaceChildren(...info.samplers.map((name) => make("option", { value: name }, SAMPLERS[name] ?? name)));
    byId("steps").max = info.limits.max_inference_steps;
    byId("steps-range").max = Math.min(info.limits.max_inference_steps, MAX_SLIDER_STEPS);
    byId("prompt").maxLength = info.limits.max_prompt_chars;
    byId("guidance-field").hidden = info.model.guidance === "none";
    const { default_num_inference_steps: steps, default_sampler: sampler, default_negative_prompt: negative } = info.model;
    this.restore({ steps, sampler, guidance: defaultWeight(info.model), negative: negative?.trim(), size: info.model.default_size, ...stored(info.model.id) });
  }

  /** The form's values. */
  values() {
    const checked = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;
    const shape = checked("shape");
    return {
      prompt: byId("prompt").value,
      size: shape === "custom" ? `${byId("width").value}x${byId("height").value}` : shape,
      steps: byId("steps").value,
      sampler: byId("sampler").value,
      seed: byId("seed").value.trim(),
      keepSeed: this.#isSeedKept(),
      cache: checked("cache") ?? "server",
      negative: byId("negative").value,
      guidance: byId("guidance").value,
      n: byId("n").value,
      format: byId("format").value,
      preview: byId("preview").value,
    };
  }

  /** Fills the form; fields that `values` does not name keep their value. */
  restore(values) {
    for (const id of ["prompt", "negative", "guidance", "steps", "sampler", "n", "format", "preview", "seed"]) {
      if (values[id] !== undefined && values[id] !== null) byId(id).value = values[id];
    }
    byId("steps-range").value = byId("steps").value;
    if (values.size) this.#restoreSize(values.size);
    const preset = [...document.querySelectorAll('input[name="cache"]:enabled')].find(({ value }) => value === values.cache);
    if (preset) preset.checked = true;
    if (values.keepSeed !== undefined) this.#keepSeed(values.keepSeed);
    this.#note();
  }

  /** Sets whether there are pictures to edit, from which the model can choose the size. */
  offerAutoSize(isOffered) {
    const auto = document.querySelector('input[value="auto"][name="shape"]');
    if (!auto || auto.parentElement.hidden === !isOffered) return;
    auto.parentElement.hidden = !isOffered;
    if (isOffered) auto.checked = true;
    else if (auto.checked) this.#restoreSize(this.#info.model.default_size);
    this.#note();
  }

  /** Rolls a seed for the next request, unless the seed is locked. */
  prepareSeed() {
    if (!this.#isSeedKept() || byId("seed").value.trim() === "") this.#rollSeed();
    this.#note();
  }

  /** Focuses a parameter's field and marks it as invalid. */
  blame(param) {
    const field = byId(FIELDS[param]);
    if (!field) return;
    if (field.matches("input, textarea, select")) field.setAttribute("aria-invalid", "true");
    if (byId("more").contains(field)) byId("more").open = true;
    if (!field.closest("[hidden]")) field.focus();
  }

  #note() {
    for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
    byId("custom-size").hidden = document.querySelector('input[name="shape"]:checked')?.value !== "custom";
    if (!this.#info) return;
    byId("preset-hint").replaceChildren(...presetHint(this.values().cache, this.#info.cache));
    store(this.#info.model.id, this.values());
    this.#changed();
  }

  #isSeedKept() {
    return byId("lock").getAttribute("aria-pressed") === "true";
  }

  #keepSeed(isKept) {
    byId("lock").setAttribute("aria-pressed", isKept);
    setIcon(byId("lock"), isKept ? "locked" : "unlocked");
    byId("seed").parentElement.classList.toggle("passing", !isKept);
  }

  #rollSeed() {
    byId("seed").value = Math.floor(Math.random() * ROLLED);
  }

  #offerSizes(info) {
    const offered = shapes(info.model.default_size, info.limits.max_pixels);
    const chips = offered.map(({ name, width, height }) => shapeChip(name, width, height));
    const auto = shapeChip("auto", 1, 1);
    auto.hidden = true;
    byId("sizes").replaceChildren(auto, ...chips, shapeChip("custom", 1, 1));
  }

  #restoreSize(size) {
    const chips = [...document.querySelectorAll('input[name="shape"]')];
    // An `auto` size from pictures has no meaning without them.
    const isAuto = size === "auto" && chips[0].parentElement.hidden;
    const meant = isAuto ? this.#info.model.default_size : size;
    (chips.find(({ value }) => value === meant) ?? chips.at(-1)).checked = true;
    if (meant !== "auto") [byId("width").value, byId("height").value] = parsed(meant);
  }

  #offerPresets(cache) {
    const words = [["server", cache.enabled ? "Server’s own" : "None"]];
    if (cache.enabled) words.push(["off", "Off"]);
    for (const preset of cache.presets) words.push([preset, preset[0].toUpperCase() + preset.slice(1)]);
    const chips = words.map(([value, label]) => {
      const disabled = !cache.request_config_allowed && value !== "server";
      return make("label", {}, make("input", { type: "radio", name: "cache", value, disabled, checked: value === "server" }), label);
    });
    byId("presets").replaceChildren(...chips);
  }
}

/** The request for the form's values and `numInputs` pictures. Throws only what the server cannot explain better. */
export function requestBody(values, info, numInputs) {
  const { model } = info;
  if (numInputs < model.min_input_images) throw new Unusable("image", "Add a picture first: this model edits pictures.");
  if (values.prompt.trim() === "") throw new Unusable("prompt", `Write a prompt first: what should ${numInputs > 0 ? "be changed" : "the picture show"}?`);
  const isAuto = values.size === "auto" && numInputs > 0;
  if (!isAuto && !/^\d+x\d+$/.test(values.size)) throw new Unusable("size", "Give the picture a width and a height in pixels.");
  const body = { model: model.id, prompt: values.prompt };
  if (!isAuto) body.size = values.size;
  if (values.n !== "1") body.n = Number(values.n);
  body.num_inference_steps = wholeNumber("num_inference_steps", values.steps || String(model.default_num_inference_steps));
  if (values.sampler !== model.default_sampler) body.sampler = values.sampler;
  if (values.seed !== "") body.seed = wholeNumber("seed", values.seed);
  if (values.guidance !== "" && Number(values.guidance) !== defaultWeight(model)) body[weightName(model)] = Number(values.guidance);
  if (values.negative.trim() !== (model.default_negative_prompt ?? "").trim()) body.negative_prompt = values.negative;
  if (values.cache !== "server") body.cache = values.cache;
  if (values.format !== "png") body.output_format = values.format;
  return body;
}

/** Steps of each picture as the server counts them: runs of the transformer. */
export function stepsTold(body, model) {
  const isHeun = (body.sampler ?? model.default_sampler) === "heun";
  return isHeun ? 2 * body.num_inference_steps - 1 : body.num_inference_steps;
}

/** Default weight of the model's guidance. */
function defaultWeight(model) {
  return model[`default_${weightName(model)}`];
}

/** The parameter that holds the weight of the model's guidance. */
function weightName({ guidance }) {
  return guidance === "true_cfg" ? "true_cfg_scale" : "guidance_scale";
}

/** The body, with the options for everything this page shows meanwhile. `interval` 0 disables previews. */
export function streamed(body, interval) {
  const previews = interval > 0 ? { preview_interval: interval } : { partial_images: 0 };
  return { ...body, stream: true, ...previews, stream_progress: true, return_timings: true, return_cache_stats: true };
}

export function previewInterval(choice, numSteps) {
  if (choice === "off") return 0;
  return choice === "auto" ? Math.max(1, Math.round(numSteps / 10)) : Number(choice);
}

function wholeNumber(param, text) {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new Unusable(param, `${param === "seed" ? "The seed" : "Steps"} must be a whole number. Given: ${text}`);
  }
  return value;
}

function shapeChip(name, width, height) {
  const isCustom = name === "custom";
  const isAuto = name === "auto";
  const longest = Math.max(width, height);
  const [w, h] = [(width / longest) * 18, (height / longest) * 18];
  const outline = drawn("rect", { x: 12 - w / 2, y: 12 - h / 2, width: w, height: h, rx: 2.5 });
  if (isCustom) outline.setAttribute("stroke-dasharray", "3.2 3.2");
  const value = isCustom || isAuto ? name : `${width}x${height}`;
  const title = isCustom ? "Width and height of your own" : isAuto ? "The model sizes it by the pictures to edit" : `${width} × ${height}`;
  const input = make("input", { type: "radio", name: "shape", value });
  return make("label", { title }, input, drawn("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, outline), isCustom ? "Custom" : isAuto ? "Auto" : name);
}

const SAMPLERS = {
  euler: "Euler",
  heun: "Heun, two runs a step",
  dpmpp_2m: "DPM++ 2M",
  unipc: "UniPC",
};

const HINTS = {
  off: "Every step is computed.",
  lossless: "Reuses nothing: the picture is the uncached one.",
  high: "Reuses where almost nothing changes. Hard to tell from the uncached picture.",
  balanced: "About half of the steps. Looks the same at a second look.",
  fast: "Reuses most steps. Details may differ.",
  ultra: "Reuses as much as it can.",
};

function presetHint(choice, cache) {
  if (!cache.request_config_allowed) {
    const flag = make("code", {}, "--allow-request-cache-config");
    return ["This server decides on its step cache itself. Started with ", flag, ", it lets each request choose, and the comparison works."];
  }
  if (choice !== "server") return [HINTS[choice] ?? "A preset of this server."];
  if (!cache.enabled) return ["Every step is computed: the server was started without a step cache."];
  const threshold = cache.config?.residual_diff_threshold;
  return [`The settings that the server was started with${threshold == null ? "" : `: a threshold of ${figure(threshold)}`}.`];
}

/** Storage key of the served model: other models have other sizes and steps. */
function stored(model) {
  const kept = JSON.parse(localStorage.getItem(STORED) ?? "null");
  return kept?.model === model ? kept.values : {};
}

function store(model, values) {
  localStorage.setItem(STORED, JSON.stringify({ model, values }));
}
