// The pictures to edit: dropped, pasted or chosen, shown as thumbnails.

import { byId, icon, make, toast } from "./dom.js";
import { count } from "./words.js";

/** Up to as many pictures as the model accepts, each `{ file, url, width, height }`. */
export class Inputs {
  #pictures = [];
  #bounds = { min: 0, max: 0 };
  #changed;

  constructor(changed) {
    this.#changed = changed;
    byId("choose").addEventListener("click", () => byId("files").click());
    byId("files").addEventListener("change", () => {
      this.add([...byId("files").files]);
      // Allows choosing the same file again.
      byId("files").value = "";
    });
    document.addEventListener("paste", (event) => this.#take(event, event.clipboardData));
    document.addEventListener("drop", (event) => this.#take(event, event.dataTransfer));
    for (const type of ["dragover", "dragleave", "drop"]) document.addEventListener(type, (event) => this.#hover(event));
  }

  /** Adapts to the model's limits; hidden if the model takes no pictures. */
  configure({ min_input_images: min, max_input_images: max }) {
    this.#bounds = { min, max };
    byId("inputs-field").hidden = max === 0;
    this.#draw();
  }

  get pictures() {
    return this.#pictures;
  }

  get files() {
    return this.#pictures.map(({ file }) => file);
  }

  /** Adds the files that are pictures, as many as fit. */
  async add(files) {
    for (const file of files) {
      // The server cannot decode a file that the browser cannot show, such as HEIC.
      const bitmap = await createImageBitmap(file).catch(() => null);
      if (bitmap === null) {
        toast(`${file.name} is not a readable picture`);
      } else if (this.#pictures.length === this.#bounds.max) {
        toast(`This model takes ${count(this.#bounds.max, "picture")} at most`);
      } else {
        this.#pictures.push({ file, url: URL.createObjectURL(file), width: bitmap.width, height: bitmap.height });
      }
      bitmap?.close();
    }
    this.#draw();
    this.#changed();
  }

  /** Replaces the present pictures. */
  async replace(files) {
    for (const { url } of this.#pictures.splice(0)) URL.revokeObjectURL(url);
    await this.add(files);
  }

  #remove(index) {
    const [{ url }] = this.#pictures.splice(index, 1);
    URL.revokeObjectURL(url);
    this.#draw();
    this.#changed();
    // Keeps the keyboard focus at the same position.
    const buttons = byId("inputs").querySelectorAll("button");
    (buttons[Math.min(index, buttons.length - 1)] ?? byId("choose")).focus();
  }

  #take(event, transfer) {
    const files = [...(transfer?.files ?? [])];
    if (byId("inputs-field").hidden || files.length === 0) return;
    event.preventDefault();
    this.add(files);
  }

  #hover(event) {
    if (byId("inputs-field").hidden || !event.dataTransfer?.types.includes("Files")) return;
    // Otherwise the browser opens the file in place of the page.
    event.preventDefault();
    const isOver = event.type === "dragover";
    byId("drop").classList.toggle("over", isOver);
  }

  #draw() {
    const { min, max } = this.#bounds;
    byId("inputs").replaceChildren(...this.#pictures.map((picture, index) => this.#thumb(picture, index)));
    byId("choose").disabled = this.#pictures.length >= max;
    const how = max === 1 ? "Drop, paste or choose one." : `Drop, paste or choose up to ${max}.`;
    byId("inputs-hint").textContent = min > 0 ? `This model edits pictures and needs one. ${how}` : `Without one, a new picture is made. ${how}`;
  }

  #thumb({ file, url }, index) {
    const image = make("img", { src: url, alt: `Picture ${index + 1} to edit: ${file.name}` });
    const remove = make("button", { type: "button", class: "icon", title: "Remove", "aria-label": `Remove picture ${index + 1}: ${file.name}` }, icon("delete"));
    remove.addEventListener("click", () => this.#remove(index));
    return make("li", {}, image, remove);
  }
}
