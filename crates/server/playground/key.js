// The API key of a server that needs one, kept only in this browser.

import { byId } from "./dom.js";

const STORED = "latentd.key";

export function key() {
  return localStorage.getItem(STORED) ?? "";
}

/** Asks the user for a key, with the reason if one was refused. Resolves to whether there is a key. */
export function askForKey(problem = "") {
  const dialog = byId("key-dialog");
  byId("key").value = key();
  byId("key-problem").hidden = problem === "";
  byId("key-problem").textContent = problem;
  byId("forget-key").hidden = key() === "";
  dialog.returnValue = "";
  dialog.showModal();
  byId("key").select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(take(dialog.returnValue)), { once: true });
  });
}

function take(answer) {
  const given = byId("key").value.trim();
  if (answer === "forget" || (answer === "keep" && given === "")) localStorage.removeItem(STORED);
  else if (answer === "keep") localStorage.setItem(STORED, given);
  byId("key").value = "";
  return answer === "keep" && given !== "";
}
