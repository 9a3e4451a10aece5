// The servers that run.sh started, and helpers to read pictures from answers.
import { spawn } from "node:child_process";

export const URL = process.env.LATENTD_URL.replace(/\/$/, "");
// A server with an API key and a limit of one request per second. Undefined if run.sh got only an address.
export const KEYED_URL = process.env.LATENTD_KEYED_URL;
export const KEY = process.env.LATENTD_KEY;
// Servers whose models edit: one that only edits, and one that also generates from text.
export const EDIT_URLS = { "Qwen-Image-Edit-Plus": process.env.LATENTD_EDITS_URL, "FLUX.2-klein": process.env.LATENTD_KLEIN_URL };
// The binary, for tests that start and stop their own server.
export const BINARY = process.env.LATENTD_BINARY;

export const PROMPT = "a fox on a green background";
// Few steps, because these tests check the API, not the picture.
export const STEPS = 4;

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// /health answers 503 until the model is loaded and warm.
export async function untilReady(url, seconds = 120) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await sleep(200)) {
    const answer = await fetch(`${url}/health`).catch(() => null);
    if (answer?.ok) return;
  }
  throw new Error(`${url}/health never came up`);
}

// The served model's entry in /info.
export async function servedModel() {
  return (await (await fetch(`${URL}/info`)).json()).model;
}

export async function editsPictures() {
  return (await servedModel()).max_input_images > 0;
}

// Starts a server for one test, which may stop it.
export async function ownServer(...flags) {
  const server = spawn(BINARY, ["serve", "--host", "127.0.0.1", "--port", "0", ...flags], {
    env: { ...process.env, NO_COLOR: "1" },
  });
  const address = await new Promise((resolve, reject) => {
    let written = "";
    const read = (chunk) => {
      written += chunk;
      const found = written.match(/127\.0\.0\.1:\d+/);
      if (found) resolve(found[0]);
    };
    server.stdout.on("data", read);
    server.stderr.on("data", read);
    server.on("exit", () => reject(new Error(`the server named no address:\n${written}`)));
  });
  await untilReady(`http://${address}`);
  return { url: `http://${address}`, process: server };
}

// Width and height of a PNG.
export function pngSize(file) {
  const view = Buffer.from(file);
  if (view.subarray(1, 4).toString() !== "PNG") throw new Error("no PNG");
  return [view.readUInt32BE(16), view.readUInt32BE(20)];
}

// A mask of 96x64 pixels. Its left half is transparent, i.e. editable.
export const MASK = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAGAAAABACAYAAADlNHIOAAAAhUlEQVR42u3RAQkAAADCMPuX1hzCDk+w5L+eDwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAzkjvSmKgFaIgAAAABJRU5ErkJggg==",
  "base64",
);

// A picture of 96x64 red pixels.
export const PNG = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAGAAAABACAIAAABqVuVZAAAAaUlEQVR42u3QMQ0AAAgDsCmZfynIwgE3R5MqaKblEAWCBAkSJEiQIEEIEiRIkCBBggQhSJAgQYIECRKEIEGCBAkSJEiQIAQJEiRIkCBBghAkSJAgQYIECUKQIEGCBAkSJEgQggQJEvTPAtRhYWlmsLmuAAAAAElFTkSuQmCC",
  "base64",
);
