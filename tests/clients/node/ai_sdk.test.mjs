// Tests of the Vercel AI SDK with its OpenAI and its OpenAI-compatible providers.
import assert from "node:assert/strict";
import { before, test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateImage } from "ai";
import { KEYED_URL, PNG, PROMPT, STEPS, URL, editsPictures, pngSize, servedModel, untilReady } from "./served.mjs";

const providers = {
  openai: (url = URL, apiKey = "unused") => createOpenAI({ baseURL: `${url}/v1`, apiKey }).image(id),
  compatible: (url = URL, apiKey = "unused") =>
    createOpenAICompatible({ name: "latentd", baseURL: `${url}/v1`, apiKey }).imageModel(id),
};
// Each provider sends the fields under its own name.
const fields = (fields) => ({ openai: fields, latentd: fields });

// The OpenAI provider requests one picture at a time, except from OpenAI's own models.
let id;
before(async () => {
  await untilReady(URL);
  id = (await servedModel()).id;
});

for (const [name, model] of Object.entries(providers)) {
  test(`${name}: four pictures, none like another`, async () => {
    const { images, warnings } = await generateImage({
      model: model(), prompt: PROMPT, n: 4, size: "96x64", providerOptions: fields({ num_inference_steps: STEPS }),
    });
    assert.equal(images.length, 4);
    for (const image of images) {
      assert.equal(image.mediaType, "image/png");
      assert.deepEqual(pngSize(image.uint8Array), [96, 64]);
    }
    assert.equal(new Set(images.map((image) => image.base64)).size, 4);
    assert.deepEqual(warnings, []);
  });

  test(`${name}: a refusal is its error, with our words`, async () => {
    const bad = generateImage({ model: model(), prompt: PROMPT, size: "0x0", maxRetries: 2 });
    await assert.rejects(bad, (error) => {
      assert.ok(APICallError.isInstance(error), error);
      assert.deepEqual([error.statusCode, error.isRetryable], [400, false]);
      assert.match(error.message, /size/);
      return true;
    });
  });

  test(`${name}: an edit or a refusal`, async () => {
    // This is queried before the edit starts. A rejection while nothing awaits the edit would fail the test as
    // unhandled.
    const edits = await editsPictures();
    const edit = generateImage({ model: model(), prompt: { images: [PNG], text: PROMPT }, maxRetries: 0 });
    if (edits) {
      assert.equal((await edit).images.length, 1);
      return;
    }
    await assert.rejects(edit, (error) => {
      assert.equal(error.statusCode, 400, error);
      assert.match(error.responseBody, /unsupported_value/);
      return true;
    });
  });

  test(`${name}: a wrong key`, { skip: !KEYED_URL && "no server with a key was given" }, async () => {
    await untilReady(KEYED_URL);
    const refused = generateImage({ model: model(KEYED_URL, "sk-wrong"), prompt: PROMPT, maxRetries: 2 });
    await assert.rejects(refused, (error) => {
      assert.deepEqual([error.statusCode, error.isRetryable], [401, false]);
      return true;
    });
  });
}

test("compatible: a seed by provider option makes the picture again", async () => {
  const again = async () => {
    const providerOptions = fields({ num_inference_steps: STEPS, seed: 7 });
    return (await generateImage({ model: providers.compatible(), prompt: PROMPT, providerOptions })).image.base64;
  };
  assert.equal(await again(), await again());
});
