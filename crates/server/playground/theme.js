// Light or dark theme: the system's choice until the user presses the button.

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
  // A choice equal to the system's is dropped, so that the page follows the system again.
  if (wanted === systemTheme()) localStorage.removeItem(STORED);
  else localStorage.setItem(STORED, wanted);
  apply(localStorage.getItem(STORED));
}

apply(localStorage.getItem(STORED));
addEventListener("DOMContentLoaded", () => document.getElementById("theme-button").addEventListener("click", flip));
