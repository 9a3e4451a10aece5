// Tests of openai-node: pictures, streams, edits, refusals, keys, retries.
import assert from "node:assert/strict";
import { createReadStream, writeFileSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, test } from "node:test";
import OpenAI, { toFile } from "openai";
import { BINARY, KEY, KEYED_URL, PNG, PROMPT, STEPS, URL } from "./served.mjs";
import { editsPictures, ownServer, pngSize, sleep, untilReady } from "./served.mjs";

const client = (options = {}) =>
  new OpenAI({ baseURL: `${URL}/v1`, apiKey: "unused", maxRetries: 0, timeout: 120_000, ...options });

// A client, and the list of the statuses that it receives, retries included.
function countedClient(options) {
  const statuses = [];
  const counted = async (...request) => {
    const answer = await fetch(...request);
    statuses.push(answer.status);
    return answer;
  };
  return [client({ fetch: counted, ...options }), statuses];
}

const generate = (changes = {}) => client().images.generate({ prompt: PROMPT, num_inference_steps: STEPS, ...changes });
const size = (picture) => pngSize(Buffer.from(picture.b64_json, "base64"));

before(() => untilReady(URL));

test("pictures with seeds that count up", async () => {
  const answer = await generate({ n: 3, seed: 5 });
  assert.deepEqual(answer.data.map((picture) => picture.seed), [5, 6, 7]);
  assert.deepEqual(size(answer.data[0]), [128, 128]);
  const alone = await generate({ seed: 6 });
  assert.equal(alone.data[0].b64_json, answer.data[1].b64_json);
  assert.equal(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens);
});

test("the raw response has the request's id", async () => {
  const { data, response, request_id } = await client()
    .images.generate({ prompt: PROMPT, num_inference_steps: STEPS })
    .withResponse();
  assert.equal(data.data.length, 1);
  assert.equal(response.headers.get("x-request-id"), request_id);
  assert.ok(request_id);
});

test("a url is fetched without a key", async () => {
  const [picture] = (await generate({ response_format: "url" })).data;
  const answer = await fetch(picture.url);
  assert.equal(answer.headers.get("content-type"), "image/png");
  assert.deepEqual(pngSize(await answer.arrayBuffer()), [128, 128]);
});

test("a refusal names its field", async () => {
  for (const [changes, param] of [[{ size: "big" }, "size"], [{ n: 11 }, "n"], [{ prompt: "" }, "prompt"]]) {
    await assert.rejects(generate(changes), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError, error);
      assert.deepEqual([error.param, error.type], [param, "invalid_request_error"]);
      assert.equal(typeof error.code, "string");
      assert.ok(error.requestID);
      return true;
    });
  }
});

test("an unknown model is not found", async () => {
  await assert.rejects(generate({ model: "no-such-model" }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError, error);
    assert.deepEqual([error.code, error.param], ["model_not_found", "model"]);
    return true;
  });
  const [model] = (await client().models.list()).data;
  assert.equal((await client().models.retrieve(model.id)).id, model.id);
});

test("previews and then the picture", async () => {
  const stream = await generate({ stream: true, partial_images: 2, num_inference_steps: 8, seed: 5 });
  const events = [];
  for await (const event of stream) events.push(event);
  const partial = "image_generation.partial_image";
  assert.deepEqual(events.map((event) => event.type), [partial, partial, "image_generation.completed"]);
  for (const event of events) assert.deepEqual(size(event), [128, 128]);
  const plain = await generate({ num_inference_steps: 8, seed: 5 });
  assert.equal(events[2].b64_json, plain.data[0].b64_json);
});

test("an error in the middle of a stream is raised with its code", { skip: !BINARY && "no binary was given" }, async (t) => {
  const server = await ownServer("--drain-timeout", "1");
  t.after(() => server.process.kill("SIGKILL"));
  const stream = await client({ baseURL: `${server.url}/v1` }).images.generate({
    prompt: PROMPT, stream: true, stream_progress: true, num_inference_steps: 1000,
  });
  let events = 0;
  const read = async () => {
    for await (const _ of stream) if (events++ === 0) server.process.kill("SIGTERM");
  };
  await assert.rejects(read(), (error) => {
    assert.ok(error instanceof OpenAI.APIError && !(error instanceof OpenAI.APIConnectionError), error);
    assert.equal(error.code, "shutting_down");
    return true;
  });
});

test("an edit, from a buffer and from a stream without a length, or a refusal", async () => {
  const path = join(mkdtempSync(join(tmpdir(), "latentd-")), "fox.png");
  writeFileSync(path, PNG);
  const images = [await toFile(PNG, "fox.png", { type: "image/png" }), createReadStream(path), [await toFile(PNG, "a.png")]];
  for (const image of images) {
    const edit = client().images.edit({ image, prompt: PROMPT, num_inference_steps: STEPS });
    if (await editsPictures()) {
      assert.ok((await edit).usage.input_tokens_details.image_tokens > 0);
      continue;
    }
    await assert.rejects(edit, (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError, error);
      assert.equal(error.code, "unsupported_value");
      return true;
    });
  }
});

test("an upload that is too large is a 413, not a broken connection", async () => {
  const image = await toFile(Buffer.alloc(80 << 20), "large.png", { type: "image/png" });
  await assert.rejects(client().images.edit({ image, prompt: PROMPT }), (error) => {
    assert.equal(error.status, 413, error);
    return true;
  });
});

test("what will fail again is asked once", async () => {
  const [hasty, statuses] = countedClient({ maxRetries: 2 });
  const late = hasty.images.generate(
    { prompt: PROMPT, num_inference_steps: 1000 },
    { headers: { "x-request-timeout": "0.001" } },
  );
  await assert.rejects(late, OpenAI.RateLimitError);
  assert.deepEqual(statuses, [429]);
});

const keyed = { skip: !KEYED_URL && "no server with a key was given" };

test("a wrong key is an authentication error", keyed, async () => {
  await untilReady(KEYED_URL);
  const stranger = client({ baseURL: `${KEYED_URL}/v1`, apiKey: "sk-wrong" });
  await assert.rejects(stranger.models.list(), (error) => {
    assert.ok(error instanceof OpenAI.AuthenticationError, error);
    assert.equal(error.code, "invalid_api_key");
    return true;
  });
});

test("over its limit the client waits as told and gets its picture", keyed, async () => {
  await sleep(1100);
  const [patient, statuses] = countedClient({ baseURL: `${KEYED_URL}/v1`, apiKey: KEY, maxRetries: 2 });
  for (let i = 0; i < 2; i++) {
    const answer = await patient.images.generate({ prompt: PROMPT, num_inference_steps: STEPS });
    assert.equal(answer.data.length, 1);
  }
  assert.ok(statuses.includes(429), statuses);
  assert.equal(statuses.at(-1), 200);
});
