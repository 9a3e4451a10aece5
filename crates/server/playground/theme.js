// Light or dark: the system's choice until the button says otherwise.

const STORED = "latentd.theme";

function systemTheme() {
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** `null` follows the system. */
function apply(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

function flip() {
  const shown = document.documentElement.dataset.theme ?? systemTheme();
  const wanted = shown === "dark" ? "light" : "dark";
  // Back at the system's choice, it is followed again.
  if (wanted === systemTheme()) localStorage.removeItem(STORED);
  else localStorage.setItem(STORED, wanted);
  apply(localStorage.getItem(STORED));
}

apply(localStorage.getItem(STORED));
addEventListener("DOMContentLoaded", () => document.getElementById("theme-button").addEventListener("click", flip));
