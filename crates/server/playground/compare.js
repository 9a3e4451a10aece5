// Comparison of two pictures of one seed, without and with the step cache: their times and their difference.

import { byId, make } from "./dom.js";
import { noise } from "./noise.js";
import { slider } from "./slider.js";
import { computedInWords } from "./stage.js";
import { duration } from "./words.js";

/** Factor that makes the difference visible. */
const GAIN = 8;
const VIEWS = ["Side by side", "Slider", "Difference"];

/** The preset to compare with: the chosen one, or a good one if that caches nothing. */
export function comparedCache(choice, cache) {
  const cachesNothing = choice === "off" || choice === "lossless" || (choice === "server" && !cache.enabled);
  return cachesNothing ? "balanced" : choice;
}

/** Label of a side of the comparison. */
export function sideName(cache) {
  return { off: "Uncached", server: "Cached, server’s own" }[cache] ?? `Cached, ${cache}`;
}

/** Milliseconds of denoising and decoding, without the queue and the prompt, which is encoded once for both. */
function workMs({ timings }) {
  return timings.denoise_ms + timings.vae_ms;
}

/** The comparison, complete or in progress: `sides` are `{ name, picture | null }`, uncached first. */
export function drawComparison(sides, [width, height]) {
  const host = byId("comparison");
  host.style.setProperty("--ratio", width / height);
  const isComplete = sides.every(({ picture }) => picture);
  const view = make("div", { class: "duo" });
  const head = make("div", { class: "head" }, verdict(sides));
  if (isComplete) head.append(viewTabs(view, sides, width / height));
  host.replaceChildren(head, view);
  showView(view, VIEWS[0], sides, width / height);
}

function verdict(sides) {
  const [uncached, cached] = sides.map(({ picture }) => picture);
  if (!uncached || !cached) {
    return make("p", { class: "verdict" }, "Comparing… ", make("small", {}, "one after the other and without previews, for the sake of the times"));
  }
  const speedup = workMs(uncached) / workMs(cached);
  const text = speedup >= 1 ? `${speedup.toFixed(2)}× faster` : `${(1 / speedup).toFixed(2)}× slower`;
  const likeness = make("small", { id: "likeness" });
  difference(uncached, cached).then(({ psnr }) => {
    likeness.textContent = Number.isFinite(psnr) ? `PSNR ${psnr.toFixed(1)} dB` : "the same picture, bit for bit";
  });
  return make("p", { class: "verdict" }, text, " ", likeness);
}

function viewTabs(view, sides, ratio) {
  const buttons = VIEWS.map((name, i) => make("button", { type: "button", "aria-pressed": i === 0 }, name));
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", other === button);
      showView(view, button.textContent, sides, ratio);
    });
  }
  return make("div", { class: "tabs", role: "group", "aria-label": "View" }, ...buttons);
}

function showView(view, name, sides, ratio) {
  view.classList.toggle("overlaid", name !== "Side by side");
  if (name === "Side by side") view.replaceChildren(...sides.map((one) => side(one, ratio)));
  if (name === "Slider") view.replaceChildren(slider(sides.map(seen), "How much of the uncached picture is shown"));
  if (name === "Difference") view.replaceChildren(differenceView(sides));
}

function seen({ name, picture }) {
  return { name, url: picture.url, alt: `${picture.values.prompt}, ${name}` };
}

function side({ name, picture }, ratio) {
  const image = picture ? make("img", { src: picture.url, alt: `${picture.values.prompt}, ${name}` }) : noise(ratio);
  const lines = picture ? [make("span", {}, `${duration(workMs(picture))}`), make("span", {}, computedInWords(picture.record) ?? "")] : [];
  return make("figure", {}, make("div", { class: picture ? "frame" : "frame waiting" }, image), make("figcaption", {}, make("b", {}, name), ...lines));
}

function differenceView([left, right]) {
  const canvas = make("canvas", { role: "img", "aria-label": `The difference of both pictures, ${GAIN} times as strong` });
  difference(left.picture, right.picture).then(({ pixels }) => {
    [canvas.width, canvas.height] = [pixels.width, pixels.height];
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  });
  const caption = make("p", { class: "ends" }, make("span", {}, `Difference, ${GAIN} times as strong: black is the same`));
  return make("div", { class: "slide still" }, make("div", { class: "frame" }, canvas), caption);
}

/** The amplified difference of two pictures, and their PSNR in dB. */
async function difference(one, other) {
  const [a, b] = await Promise.all([one, other].map(({ blob }) => pixelsOf(blob)));
  const pixels = new ImageData(a.width, a.height);
  let squares = 0;
  for (let i = 0; i < a.data.length; i += 1) {
    const isAlpha = i % 4 === 3;
    const apart = Math.abs(a.data[i] - b.data[i]);
    pixels.data[i] = isAlpha ? 255 : GAIN * apart;
    if (!isAlpha) squares += apart * apart;
  }
  const meanSquare = squares / (3 * a.width * a.height);
  return { pixels, psnr: 10 * Math.log10(255 ** 2 / meanSquare) };
}

async function pixelsOf(blob) {
  const bitmap = await createImageBitmap(blob);
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}
