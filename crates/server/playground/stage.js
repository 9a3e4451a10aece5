// The picture display, during and after a request.

import { byId, make } from "./dom.js";
import { noise } from "./noise.js";
import { parsed } from "./sizes.js";
import { slider } from "./slider.js";
import { counts } from "./steps.js";
import { count, duration, size as sizeInWords } from "./words.js";

/** One frame a picture, a strip to choose among several, a caption for the chosen one. */
export class Stage {
  #chosen = 0;
  #images = [];
  #ratio = 1;
  #before = null;
  #onChoose = () => {};

  /**
   * Empty frames for `n` pictures of this size; `onChoose(i)` is called when another one is chosen. With a URL of
   * their source, finished pictures are shown over that.
   */
  begin(n, width, height, onChoose = () => {}, before = null) {
    this.#show("frames");
    this.#chosen = 0;
    this.#onChoose = onChoose;
    this.#images = Array.from({ length: n }, () => null);
    this.#before = before;
    this.#size(width / height);
    this.#draw();
    byId("caption").hidden = true;
    bringIntoView(byId("mat"));
  }

  /** Shows `url` as the finished picture `index`, of size `WIDTHxHEIGHT`. */
  finish(index, url, alt, size) {
    this.update(index, url, alt, size);
    if (this.#before === null) return;
    this.#images[index].isDone = true;
    this.#draw();
  }

  /** Shows `url` as the state of picture `index`, of size `WIDTHxHEIGHT`. */
  update(index, url, alt, size) {
    const [width, height] = parsed(size);
    this.#size(width / height);
    this.#images[index] = { url, alt };
    const shown = byId("frames").querySelector(":scope > .frame img");
    // The element stays: a new one would flash between two previews.
    if (index === this.#chosen && shown) Object.assign(shown, { src: url, alt });
    else this.#draw();
    const thumb = byId("frames").querySelectorAll(".strip img")[index];
    if (thumb) thumb.src = url;
  }

  /** Facts and actions for a finished picture; `null` hides them. */
  caption(picture) {
    byId("caption").hidden = picture === null;
    if (picture === null) return;
    byId("facts").replaceChildren(...facts(picture));
    byId("download").href = picture.url;
    byId("download").download = fileName(picture);
  }

  /** `share` of the work, 0 to 1, or `null` if unknown. */
  progress(text, share) {
    byId("progress").hidden = text === null;
    byId("progress-text").textContent = text ?? "";
    if (share === null) byId("progress-bar").removeAttribute("value");
    else byId("progress-bar").value = share;
  }

  showComparison() {
    this.#show("comparison");
    byId("caption").hidden = true;
    bringIntoView(byId("mat"));
  }

  /** Resets after a failure: shows the pictures so far, or the welcome. */
  settle() {
    this.#show(this.#images.some((image) => image !== null) ? "frames" : "welcome");
  }

  #show(id) {
    for (const part of ["welcome", "frames", "comparison"]) byId(part).hidden = part !== id;
  }

  #size(ratio) {
    this.#ratio = ratio;
    byId("frames").style.setProperty("--ratio", ratio);
  }

  #frame(image) {
    if (image?.isDone) {
      const sides = [{ name: "Before", url: this.#before, alt: "The picture that was edited" }, { name: "After", ...image }];
      return slider(sides, "How much of the picture before the edit is shown");
    }
    const picture = image ? make("img", { src: image.url, alt: image.alt }) : noise(this.#ratio);
    return make("div", { class: image ? "frame" : "frame waiting" }, picture);
  }

  #draw() {
    const frame = this.#frame(this.#images[this.#chosen]);
    const strip = this.#images.length > 1 ? make("div", { class: "strip", role: "group", "aria-label": "Pictures" }, ...this.#images.map((_, i) => this.#thumb(i))) : null;
    byId("frames").replaceChildren(frame, ...(strip ? [strip] : []));
  }

  #thumb(index) {
    const image = this.#images[index];
    const button = make("button", { type: "button", "aria-pressed": index === this.#chosen, "aria-label": `Picture ${index + 1}` });
    button.append(make("img", { alt: "", src: image?.url ?? "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=" }));
    button.addEventListener("click", () => {
      this.#chosen = index;
      this.#draw();
      byId("frames").querySelectorAll(".strip button")[index].focus();
      this.#onChoose(index);
    });
    return button;
  }
}

/** On a phone the picture is below the form. */
function bringIntoView(element) {
  const { top, bottom } = element.getBoundingClientRect();
  const isBelow = top > 0.3 * innerHeight && bottom > innerHeight;
  if (isBelow || bottom < 0) element.scrollIntoView({ block: "start" });
}

export function fileName(picture) {
  const words = picture.values.prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ["picture"];
  return `${words.slice(0, 8).join("-")}-${picture.seed}.${picture.format}`;
}

/** The number of computed steps of the first branch, in words. */
export function computedInWords(record) {
  const row = record?.rows[0];
  if (!row) return null;
  const { computed, reused } = counts(row);
  return reused > 0 ? `${computed} of ${count(record.numSteps, "step")} computed` : count(record.numSteps, "step");
}

function facts(picture) {
  const fact = (value, label) => make("li", {}, make("b", {}, value), label ? ` ${label}` : "");
  const list = [fact(sizeInWords(picture.size), ""), make("li", {}, "seed ", make("b", {}, String(picture.seed)))];
  list.push(fact(duration(picture.ms), ""));
  const steps = computedInWords(picture.record);
  if (steps) list.push(make("li", {}, steps));
  const speedup = picture.cache?.speedup_estimate;
  if (speedup > 1.005) list.push(fact(`${speedup.toFixed(2)}×`, "fewer blocks"));
  for (const warning of picture.warnings ?? []) list.push(make("li", { class: "note" }, warning));
  return list;
}
