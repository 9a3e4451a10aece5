// Making pictures: one request at a time, shown as it comes and kept when it is done.

import { file, streamPictures } from "./api.js";
import { comparedCache, drawComparison, sideName } from "./compare.js";
import { announce } from "./dom.js";
import { key } from "./key.js";
import { Pace } from "./pace.js";
import { previewInterval, requestBody, streamed } from "./settings.js";
import { parsed } from "./sizes.js";
import { newRecord, noteStep } from "./steps.js";

export class Maker {
  #stage;
  #timeline;
  #gallery;
  #urls = [];
  /** The picture whose caption is shown. */
  shown = null;

  constructor(stage, timeline, gallery) {
    this.#stage = stage;
    this.#timeline = timeline;
    this.#gallery = gallery;
  }

  /** The pictures that `values` ask for. Rejects as `streamPictures` and `requestBody` do. */
  async generate(values, info, signal) {
    const body = requestBody(values, info);
    const pictures = [];
    let chosen = 0;
    const records = Array.from({ length: body.n ?? 1 }, () => newRecord(body.num_inference_steps));
    const choose = (index) => {
      chosen = index;
      this.#timeline.show(records[index]);
      this.#caption(pictures[index] ?? null);
    };
    this.#forgetUrls();
    this.#stage.begin(records.length, ...parsed(body.size), choose);
    choose(0);
    const on = {
      preview: (index, url) => this.#stage.update(index, url, `${values.prompt}, not finished yet`),
      completed: async (index, picture) => {
        pictures[index] = picture;
        this.#stage.update(index, picture.url, values.prompt);
        if (index === chosen) this.#caption(picture);
        await this.#gallery.add(picture);
      },
    };
    const interval = previewInterval(values.preview, body.num_inference_steps);
    await this.#run(streamed(body, interval), values, records, on, signal);
    announce(pictures.length > 1 ? "The pictures are there" : "The picture is there");
  }

  /** The uncached picture, then the cached one: one after the other, for the sake of the times. */
  async compare(values, info, signal) {
    const caches = ["off", comparedCache(values.cache, info.cache)];
    const sides = caches.map((cache) => ({ name: sideName(cache), values: { ...values, n: "1", cache }, picture: null }));
    const size = parsed(requestBody(values, info).size);
    this.#stage.showComparison();
    for (const side of sides) {
      const body = requestBody(side.values, info);
      const records = [newRecord(body.num_inference_steps)];
      drawComparison(sides, size);
      this.#timeline.show(records[0]);
      const on = {
        preview: () => {},
        completed: (_, picture) => {
          side.picture = picture;
        },
      };
      await this.#run(streamed(body, 0), side.values, records, on, signal);
    }
    drawComparison(sides, size);
    for (const { picture } of sides) await this.#gallery.add(picture);
    announce("Both pictures are there");
  }

  /** Shows a picture that was kept. */
  restore(kept) {
    this.#forgetUrls();
    const picture = { ...kept, url: this.#urlOf(kept.blob) };
    this.#stage.begin(1, ...parsed(picture.size));
    this.#stage.update(0, picture.url, picture.values.prompt);
    this.#timeline.show(picture.record);
    this.#caption(picture);
  }

  /** After a failure: back to what can be shown. */
  settle() {
    this.#stage.settle();
    this.#stage.caption(this.shown);
  }

  /** Streams a request; its steps go into `records`. */
  async #run(body, values, records, { preview, completed }, signal) {
    const begun = performance.now();
    const pace = new Pace(records.length * body.num_inference_steps);
    const keeping = [];
    this.#stage.progress("Sent…", null);
    const on = {
      accepted: (position) => this.#stage.progress(position > 0 ? `In line, ${position} ahead` : "In line…", null),
      preview,
      step: (event) => {
        noteStep(records[event.image_index ?? 0], event);
        pace.note(performance.now());
        this.#stage.progress(pace.text(), pace.share());
        this.#timeline.refresh();
      },
      completed: (event) => {
        const index = event.image_index ?? 0;
        keeping.push(completed(index, this.#taken(event, values, records[index], performance.now() - begun)));
      },
    };
    await streamPictures(body, key(), on, signal);
    this.#stage.progress(null, 0);
    await Promise.all(keeping);
  }

  /** A finished picture as it is shown and kept. */
  #taken(event, values, record, ms) {
    const blob = file(event);
    const { size, seed, model, timings, cache, warnings, output_format: format } = event;
    const url = this.#urlOf(blob);
    return { url, blob, values, record, ms, size, seed, model, timings, cache, warnings, format, created: Date.now() };
  }

  #caption(picture) {
    this.shown = picture;
    this.#stage.caption(picture);
  }

  /** A URL for as long as the pictures of this request are shown. */
  #urlOf(blob) {
    const url = URL.createObjectURL(blob);
    this.#urls.push(url);
    return url;
  }

  #forgetUrls() {
    for (const url of this.#urls.splice(0)) URL.revokeObjectURL(url);
  }
}
