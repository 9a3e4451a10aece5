// Making pictures: one request at a time, shown while it runs and stored when it is finished.

import { file, streamPictures } from "./api.js";
import { comparedCache, drawComparison, sideName } from "./compare.js";
import { announce } from "./dom.js";
import { key } from "./key.js";
import { Pace } from "./pace.js";
import { previewInterval, requestBody, stepsTold, streamed } from "./settings.js";
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

  /** Makes the pictures of `values` from the pictures `inputs`. Rejects as `streamPictures` and `requestBody` do. */
  async generate(values, inputs, info, signal) {
    const body = requestBody(values, info, inputs.length);
    const pictures = [];
    let chosen = 0;
    const steps = stepsTold(body, info.model);
    const records = Array.from({ length: body.n ?? 1 }, () => newRecord(steps));
    const choose = (index) => {
      chosen = index;
      this.#timeline.show(records[index]);
      this.#caption(pictures[index] ?? null);
    };
    this.#forgetUrls();
    this.#stage.begin(records.length, ...sides(body, inputs), choose, this.#before(inputs.map(({ file }) => file)));
    choose(0);
    const on = {
      preview: (index, url, size) => this.#stage.update(index, url, `${values.prompt}, not finished yet`, size),
      completed: async (index, picture) => {
        pictures[index] = picture;
        this.#stage.finish(index, picture.url, values.prompt, picture.size);
        if (index === chosen) this.#caption(picture);
        await this.#gallery.add(picture);
      },
    };
    const interval = previewInterval(values.preview, steps);
    await this.#run(streamed(body, interval), { values, inputs }, records, on, signal);
    announce(pictures.length > 1 ? "The pictures are there" : "The picture is there");
  }

  /** Makes the uncached picture, then the cached one: in turn, so that neither affects the other's time. */
  async compare(values, inputs, info, signal) {
    const caches = ["off", comparedCache(values.cache, info.cache)];
    const compared = caches.map((cache) => ({ name: sideName(cache), values: { ...values, n: "1", cache }, picture: null }));
    const size = sides(requestBody(values, info, inputs.length), inputs);
    this.#stage.showComparison();
    for (const side of compared) {
      const body = requestBody(side.values, info, inputs.length);
      const records = [newRecord(stepsTold(body, info.model))];
      drawComparison(compared, size);
      this.#timeline.show(records[0]);
      const on = {
        preview: () => {},
        completed: (_, picture) => {
          side.picture = picture;
        },
      };
      await this.#run(streamed(body, 0), { values: side.values, inputs }, records, on, signal);
    }
    drawComparison(compared, compared[0].picture ? parsed(compared[0].picture.size) : size);
    for (const { picture } of compared) await this.#gallery.add(picture);
    announce("Both pictures are there");
  }

  /** Shows a stored picture. */
  restore(kept) {
    this.#forgetUrls();
    const picture = { ...kept, url: this.#urlOf(kept.blob) };
    this.#stage.begin(1, ...parsed(picture.size), undefined, this.#before(picture.inputs ?? []));
    this.#stage.finish(0, picture.url, picture.values.prompt, picture.size);
    this.#timeline.show(picture.record);
    this.#caption(picture);
  }

  /** Resets the display after a failure. */
  settle() {
    this.#stage.settle();
    this.#stage.caption(this.shown);
  }

  /** Streams a request; its steps go into `records`. */
  async #run(body, { values, inputs }, records, { preview, completed }, signal) {
    const begun = performance.now();
    const files = inputs.map(({ file }) => file);
    const pace = new Pace(records.length * records[0].numSteps);
    const keeping = [];
    this.#stage.progress("Sent…", null);
    const on = {
      accepted: (position) => this.#stage.progress(position > 0 ? `Queued, ${position} ahead` : "Queued…", null),
      preview,
      step: (event) => {
        noteStep(records[event.image_index ?? 0], event);
        pace.note(performance.now());
        this.#stage.progress(pace.text(), pace.share());
        this.#timeline.refresh();
      },
      completed: (event) => {
        const index = event.image_index ?? 0;
        keeping.push(completed(index, this.#taken(event, { values, inputs: files }, records[index], performance.now() - begun)));
      },
    };
    await streamPictures(body, files, key(), on, signal);
    this.#stage.progress(null, 0);
    await Promise.all(keeping);
  }

  /** A finished picture, to be shown and stored. */
  #taken(event, { values, inputs }, record, ms) {
    const blob = file(event);
    const { size, seed, model, timings, cache, warnings, output_format: format } = event;
    const url = this.#urlOf(blob);
    return { url, blob, values, inputs, record, ms, size, seed, model, timings, cache, warnings, format, created: Date.now() };
  }

  /** The source of an edit: a URL of its first picture. */
  #before(files) {
    return files.length > 0 ? this.#urlOf(files[0]) : null;
  }

  #caption(picture) {
    this.shown = picture;
    this.#stage.caption(picture);
  }

  /** A URL that is valid while the pictures of this request are shown. */
  #urlOf(blob) {
    const url = URL.createObjectURL(blob);
    this.#urls.push(url);
    return url;
  }

  #forgetUrls() {
    for (const url of this.#urls.splice(0)) URL.revokeObjectURL(url);
  }
}

/** The requested width and height. If the model decides, an estimate from the first picture until it is known. */
function sides(body, inputs) {
  return body.size ? parsed(body.size) : [inputs[0].width, inputs[0].height];
}
