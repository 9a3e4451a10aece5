// Noise, the start of diffusion, as a placeholder before the first preview.

import { make } from "./dom.js";

const CELLS = 16; // along the shorter side

/** A canvas of coloured noise, `ratio` times as wide as high. */
export function noise(ratio) {
  const width = Math.round(CELLS * Math.max(1, ratio));
  const height = Math.round(CELLS * Math.max(1, 1 / ratio));
  const canvas = make("canvas", { class: "noise", width, height, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < pixels.data.length; i += 1) pixels.data[i] = i % 4 === 3 ? 255 : 128 + 48 * normal();
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** A normal random number from two uniform ones (Box-Muller). */
function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}
