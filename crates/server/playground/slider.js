// Two stacked pictures, and a handle that sets how much of each is visible.

import { make } from "./dom.js";

/** `left` and `right` are `{ name, url, alt }`; `label` describes the handle. */
export function slider([left, right], label) {
  const range = make("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": label });
  const images = [left, right].map(({ url, alt }) => make("img", { src: url, alt }));
  const frame = make("div", { class: "frame" }, ...images);
  const cut = () => frame.style.setProperty("--cut", `${range.value}%`);
  range.addEventListener("input", cut);
  frame.addEventListener("pointermove", ({ offsetX }) => {
    range.value = (100 * offsetX) / frame.clientWidth;
    cut();
  });
  cut();
  return make("div", { class: "slide" }, frame, range, make("p", { class: "ends" }, make("span", {}, left.name), make("span", {}, right.name)));
}
