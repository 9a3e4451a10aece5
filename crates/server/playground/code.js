// The panel with the request as curl and as Python.

import { byId, toast } from "./dom.js";
import { curl, python } from "./snippets.js";

const LANGUAGES = { "tab-curl": ["curl", curl], "tab-python": ["Python", python] };

export class CodePanel {
  #chosen = "tab-curl";
  #body = null;
  #needsKey = false;
  #files = [];

  constructor() {
    const tabs = Object.keys(LANGUAGES).map(byId);
    for (const tab of tabs) {
      tab.addEventListener("click", () => this.#choose(tab.id));
      tab.addEventListener("keydown", ({ key }) => {
        if (key !== "ArrowLeft" && key !== "ArrowRight") return;
        const other = tabs.find(({ id }) => id !== tab.id);
        this.#choose(other.id);
        other.focus();
      });
    }
    byId("copy").addEventListener("click", () => copy(byId("snippet").textContent));
  }

  /** Shows `body` and the names of the files to edit; `null` stands for a request that cannot be sent yet. */
  show(body, needsKey, files) {
    this.#body = body;
    this.#files = files;
    this.#needsKey = needsKey;
    this.#draw();
  }

  #choose(id) {
    this.#chosen = id;
    for (const other of Object.keys(LANGUAGES)) {
      byId(other).setAttribute("aria-selected", other === id);
      byId(other).tabIndex = other === id ? 0 : -1;
    }
    byId("snippet").setAttribute("aria-labelledby", id);
    this.#draw();
  }

  #draw() {
    const [name, write] = LANGUAGES[this.#chosen];
    byId("copy-label").textContent = `Copy as ${name}`;
    byId("copy").disabled = this.#body === null;
    byId("snippet").textContent = this.#body ? write(document.baseURI, this.#body, this.#needsKey, this.#files) : "Write a prompt, and the request stands here.";
  }
}

async function copy(text) {
  // Pages from another machine without TLS have no clipboard API; the deprecated command works there.
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else copyBySelection(text);
  toast("Copied");
}

function copyBySelection(text) {
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  byId("copy").focus();
}
