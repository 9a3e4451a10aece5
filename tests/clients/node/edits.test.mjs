// Tests of openai-node with models that edit pictures: several pictures, masks, streams.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI, { toFile } from "openai";
import { EDIT_URLS, MASK, PNG, pngSize, untilReady } from "./served.mjs";

const PROMPT = "make it night";
const picture = (name = "fox.png") => toFile(PNG, name, { type: "image/png" });

for (const [model, url] of Object.entries(EDIT_URLS)) {
  const options = { skip: !url && "only an address was given, without a model that edits" };
  const edit = async (changes) => {
    await untilReady(url);
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0, timeout: 120_000 });
    return client.images.edit({ prompt: PROMPT, size: "96x64", num_inference_steps: 2, seed: 3, ...changes });
  };

  test(`${model}: two pictures`, options, async () => {
    const answer = await edit({ image: [await picture(), await picture("again.png")] });
    assert.deepEqual(pngSize(Buffer.from(answer.data[0].b64_json, "base64")), [96, 64]);
    // The model uses the pictures as they are, or enlarges each to about a megapixel.
    assert.ok([2 * 24, 2 * 4056].includes(answer.usage.input_tokens_details.image_tokens));
  });

  test(`${model}: a mask`, options, async () => {
    const answer = await edit({ image: await picture(), mask: await toFile(MASK, "mask.png", { type: "image/png" }) });
    assert.ok(answer.warnings.length > 0, "it is said what was done with the mask");
    const whole = await edit({ image: await picture() });
    assert.notEqual(answer.data[0].b64_json, whole.data[0].b64_json);
    await assert.rejects(edit({ image: await picture(), mask: await picture("mask.png") }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError, error);
      assert.equal(error.param, "mask");
      return true;
    });
  });

  test(`${model}: a stream`, options, async () => {
    const types = [];
    for await (const event of await edit({ image: await picture(), stream: true, partial_images: 1 })) types.push(event.type);
    assert.deepEqual(types, ["image_edit.partial_image", "image_edit.completed"]);
  });
}
