// The page's requests to the server. Paths are relative, so that a proxy may serve the page below a prefix.

import { readEvents } from "./sse.js";

/** An error in OpenAI's format, or a failure to reach the server (`status` 0). */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, retryAfter = null, requestId = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter, requestId });
  }
}

export function url(path) {
  return new URL(path, document.baseURI);
}

/** `GET /info`: the model, its defaults and limits, and what requests may contain. */
export async function readInfo() {
  const response = await reach(url("info"), { cache: "no-store" });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/**
 * Makes pictures, streamed: `POST /v1/images/generations`, or `/v1/images/edits` if there are `files` to edit.
 *
 * `on.accepted(queuePosition | null)`, `on.preview(imageIndex, dataUrl, size)`, `on.step(event)` and
 * `on.completed(event)` are called as events arrive. Rejects with an ApiError, or with the AbortError of `signal`.
 */
export async function streamPictures(body, files, key, on, signal) {
  const isEdit = files.length > 0;
  // The browser sets a form's type, because that contains the boundary.
  const headers = isEdit ? {} : { "content-type": "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  const request = { method: "POST", headers, body: isEdit ? form(body, files) : JSON.stringify(body), signal };
  const response = await reach(url(`v1/images/${isEdit ? "edits" : "generations"}`), request);
  if (!response.ok) throw await refusal(response);
  on.accepted(number(response.headers.get("x-queue-position")));
  let missing = body.n ?? 1;
  for await (const event of events(response, signal)) {
    // `image_generation.` or `image_edit.`, then the kind of event.
    switch (event.type.split(".").at(-1)) {
      case "partial_image":
        on.preview(event.image_index ?? 0, dataUrl(event), event.size);
        break;
      case "progress":
        on.step(event);
        break;
      case "completed":
        missing -= 1;
        on.completed(event);
        break;
      case "error":
        throw new ApiError(event.error.message, event.error);
    }
  }
  if (missing > 0) throw new ApiError("The connection ended before the picture was there", { code: "cut_off" });
}

/** The form of an edit: its text and number fields, and its pictures. */
function form(body, files) {
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) form.append(name, value);
  for (const file of files) form.append("image[]", file);
  return form;
}

/** The picture of an event, as a URL. */
function dataUrl(event) {
  return `data:image/${event.output_format};base64,${event.b64_json}`;
}

/** The picture of an event, as a file. */
export function file(event) {
  const bytes = Uint8Array.from(atob(event.b64_json), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: `image/${event.output_format}` });
}

/** The events of an answer; a broken connection becomes an ApiError too. */
async function* events(response, signal) {
  try {
    yield* readEvents(response.body);
  } catch (error) {
    if (signal?.aborted || error instanceof SyntaxError) throw error;
    throw new ApiError("The connection broke before the picture was there", { code: "cut_off" });
  }
}

async function reach(address, request) {
  try {
    return await fetch(address, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(`${address.host} does not answer`, { code: "unreachable" });
  }
}

async function refusal(response) {
  const { error = {} } = await response.json().catch(() => ({}));
  return new ApiError(error.message ?? `The server answered ${response.status}`, {
    status: response.status,
    code: error.code,
    param: error.param,
    retryAfter: number(response.headers.get("retry-after")),
    requestId: response.headers.get("x-request-id"),
  });
}

function number(text) {
  return text === null ? null : Number(text);
}
