// Creating and finding elements.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element with properties (`class`, `data-…` and `aria-…` are attributes) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class" || name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function drawn(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function icon(name) {
  return drawn("svg", { "aria-hidden": "true" }, drawn("use", { href: `playground/icons.svg#${name}` }));
}

export function setIcon(button, name) {
  button.querySelector("use").setAttribute("href", `playground/icons.svg#${name}`);
}

/** Announces a text to screen readers. */
export function announce(text) {
  byId("announcer").textContent = text;
}

let toastTimer;

/** Shows a short text for two seconds, and announces it to screen readers. */
export function toast(text) {
  const element = byId("toast");
  element.textContent = text;
  element.classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => element.classList.remove("shown"), 2000);
}
