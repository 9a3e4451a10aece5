// This browser's pictures, as thumbnails that restore their settings.

import { byId, icon, make, toast } from "./dom.js";
import { fileName } from "./stage.js";
import { openStore } from "./store.js";
import { duration, size } from "./words.js";

const THUMBNAIL = 320; // pixels of the longer side

export class Gallery {
  #store = null;
  #urls = [];
  #onRestore;

  constructor(onRestore) {
    this.#onRestore = onRestore;
    byId("clear-gallery").addEventListener("click", () => this.#clear());
  }

  async open() {
    try {
      this.#store = await openStore();
    } catch {
      byId("gallery-hint").textContent = "This browser keeps nothing, as in a private window: download what you like.";
    }
    await this.#draw();
  }

  async add(picture) {
    if (!this.#store) return;
    const { url, ...kept } = picture;
    try {
      await this.#store.add({ ...kept, thumbnail: await thumbnail(picture.blob) });
    } catch (error) {
      toast(`The picture was not kept: ${error.message}`);
    }
    await this.#draw();
  }

  async #draw() {
    const pictures = this.#store ? await this.#store.all() : [];
    for (const url of this.#urls) URL.revokeObjectURL(url);
    this.#urls = [];
    byId("clear-gallery").hidden = pictures.length === 0;
    const nothing = make("li", { class: "nothing" }, "What you make is kept here, with its settings.");
    byId("pictures").replaceChildren(...(pictures.length > 0 ? pictures.map((picture) => this.#item(picture)) : [nothing]));
  }

  #item(picture) {
    const { values } = picture;
    const image = make("img", { src: this.#url(picture.thumbnail), alt: "", loading: "lazy", decoding: "async" });
    const cache = values.cache === "server" ? "" : ` · ${values.cache}`;
    const how = `${size(picture.size)} · ${values.steps} steps${cache} · ${duration(picture.ms)}`;
    const restore = make(
      "button",
      { type: "button", class: "restore", title: `${values.prompt}\nseed ${picture.seed}` },
      make("span", { class: "thumb" }, image),
      make("span", { class: "what" }, values.prompt),
      make("span", { class: "how" }, how),
    );
    restore.addEventListener("click", () => this.#onRestore(picture));
    const download = make("a", { class: "icon", href: this.#url(picture.blob), download: fileName(picture), title: "Download", "aria-label": `Download: ${values.prompt}` }, icon("download"));
    const remove = make("button", { type: "button", class: "icon", title: "Delete", "aria-label": `Delete: ${values.prompt}` }, icon("delete"));
    remove.addEventListener("click", () => this.#delete(picture.id));
    return make("li", {}, restore, make("div", { class: "tools" }, download, remove));
  }

  async #delete(id) {
    const index = [...byId("pictures").children].findIndex((item) => item.contains(document.activeElement));
    await this.#store.delete(id);
    await this.#draw();
    // Keeps the keyboard focus at the same position.
    const items = byId("pictures").querySelectorAll(".restore");
    items[Math.min(Math.max(index, 0), items.length - 1)]?.focus();
    toast("Deleted");
  }

  async #clear() {
    if (!confirm("Delete all pictures of this browser?")) return;
    await this.#store.clear();
    await this.#draw();
  }

  #url(blob) {
    const url = URL.createObjectURL(blob);
    this.#urls.push(url);
    return url;
  }
}

async function thumbnail(blob) {
  const bitmap = await createImageBitmap(blob);
  const scale = THUMBNAIL / Math.max(bitmap.width, bitmap.height);
  if (scale >= 1) return blob;
  const canvas = new OffscreenCanvas(bitmap.width * scale, bitmap.height * scale);
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/webp", quality: 0.85 });
}
