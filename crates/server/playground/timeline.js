// Draws a record of steps: one row for each branch, one cell for each step, and above it the diff and threshold.

import { drawn, make } from "./dom.js";
import { counts, rowName } from "./steps.js";
import { REASONS, count, figure } from "./words.js";

const LANE = 46; // height of the diffs' plot
const CELL = 20;
const ROW = LANE + CELL + 22;
const RIGHT = 42; // width of the threshold's label
const NARROWEST = 240; // narrower drawings are scaled down

export class Timeline {
  #host;
  #readout;
  #intro;
  #record = null;
  #selected = null;
  #isDue = false;

  constructor(host, readout) {
    this.#host = host;
    this.#readout = readout;
    this.#intro = readout.textContent;
    new ResizeObserver(() => this.refresh()).observe(host.parentElement);
    host.addEventListener("pointermove", (event) => this.#select(this.#stepAt(event)));
    host.addEventListener("pointerdown", (event) => this.#select(this.#stepAt(event)));
    host.addEventListener("pointerleave", () => this.#select(null));
    host.addEventListener("blur", () => this.#select(null));
    host.addEventListener("keydown", (event) => this.#press(event));
  }

  /** `null` shows the explanation of the timeline. */
  show(record) {
    this.#record = record;
    this.#selected = null;
    this.refresh();
  }

  /** Draws once before the next frame, however often the record changed. */
  refresh() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#draw();
    });
  }

  #draw() {
    const record = this.#record;
    const isEmpty = !record || record.rows.length === 0;
    this.#host.replaceChildren(...(isEmpty ? [] : [this.#svg(record)]));
    this.#describe();
    this.#tell();
  }

  #geometry(record) {
    const width = Math.max(this.#host.clientWidth || this.#host.parentElement.clientWidth, NARROWEST);
    const hasSegments = new Set(record.rows.map(({ segment }) => segment)).size > 1;
    const left = hasSegments ? 84 : 56;
    return { width, left, pitch: (width - left - RIGHT) / record.numSteps };
  }

  #svg(record) {
    const { width, left, pitch } = this.#geometry(record);
    const height = ROW * record.rows.length + 8;
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, hatch());
    record.rows.forEach((row, i) => svg.append(...drawnRow(record, row, ROW * i, { width, left, pitch })));
    svg.append(...ticks(record.numSteps, left, pitch, height));
    if (this.#selected !== null) {
      const x = left + pitch * this.#selected;
      svg.append(drawn("rect", { class: "column", x, y: 0, width: pitch, height: height - 18, rx: 3 }));
    }
    return svg;
  }

  /** To a screen reader the timeline is a slider over the steps, whose value describes the step. */
  #describe() {
    const record = this.#record;
    if (!record || record.rows.length === 0) {
      for (const name of ["role", "tabindex", "aria-label", "aria-valuemin", "aria-valuemax", "aria-valuenow", "aria-valuetext"]) {
        this.#host.removeAttribute(name);
      }
      return;
    }
    const step = this.#selected ?? 0;
    const attributes = {
      role: "slider",
      tabindex: "0",
      "aria-label": "Steps: what was computed and reused",
      "aria-valuemin": 1,
      "aria-valuemax": record.numSteps,
      "aria-valuenow": step + 1,
      "aria-valuetext": sentences(record, step).map(({ name, text }) => `${name} ${text}`).join(" "),
    };
    for (const [name, value] of Object.entries(attributes)) this.#host.setAttribute(name, value);
  }

  #tell() {
    const record = this.#record;
    if (!record || record.rows.length === 0) return this.#readout.replaceChildren(this.#intro);
    if (this.#selected === null) return this.#readout.replaceChildren(...summary(record));
    const lines = sentences(record, this.#selected);
    this.#readout.replaceChildren(
      make("b", {}, `Step ${this.#selected + 1} of ${record.numSteps}`),
      ...lines.flatMap(({ name, text }) => [make("br"), make("b", {}, name), ` ${text}`]),
    );
  }

  #stepAt({ clientX }) {
    const record = this.#record;
    if (!record || record.rows.length === 0) return null;
    const { width, left, pitch } = this.#geometry(record);
    const box = this.#host.getBoundingClientRect();
    const step = Math.floor((((clientX - box.left) / box.width) * width - left) / pitch);
    return step >= 0 && step < record.numSteps ? step : null;
  }

  #select(step) {
    if (step === this.#selected) return;
    this.#selected = step;
    this.refresh();
  }

  #press(event) {
    const last = (this.#record?.numSteps ?? 0) - 1;
    const now = this.#selected ?? -1;
    const wanted = { ArrowRight: now + 1, ArrowUp: now + 1, ArrowLeft: now - 1, ArrowDown: now - 1, Home: 0, End: last }[event.key];
    if (wanted === undefined || last < 0) return;
    event.preventDefault();
    this.#select(Math.min(Math.max(wanted, 0), last));
  }
}

/** One row's label, diffs and cells, below `top`. */
function drawnRow(record, row, top, { width, left, pitch }) {
  const gap = pitch > 7 ? 3 : pitch > 3 ? 1 : 0;
  const y = top + LANE + 6;
  const label = drawn("text", { x: 0, y: y + 14 });
  label.append(row.branch);
  const parts = [label];
  if (rowName(record, row) !== row.branch) {
    const segment = drawn("text", { x: 0, y: y - 4 });
    segment.append(row.segment.replace(/_?transformer_blocks$/, "") || "main");
    parts.push(segment);
  }
  const scale = scaleOf(record, row);
  if (record.threshold > 0) parts.push(...thresholdLine(record.threshold, top + LANE * (1 - record.threshold / scale), left, width));
  for (let step = 0; step < record.numSteps; step += 1) {
    const x = left + pitch * step;
    const run = row.runs[step];
    parts.push(cell(run, { x: x + gap / 2, y, width: pitch - gap, branch: row.branch, step }));
    if (run?.diff != null) parts.push(...diffDot(run.diff, record.threshold, scale, x + pitch / 2, top, pitch));
  }
  return parts;
}

/** The threshold is in the middle of the plot, so that it does not move while diffs arrive. */
function scaleOf(record, row) {
  if (record.threshold > 0) return 2 * record.threshold;
  return Math.max(...row.runs.map((run) => run?.diff ?? 0)) || 1;
}

function cell(run, { x, y, width, branch, step }) {
  const state = run ? (run.reused ? "reused" : "computed") : "pending";
  const inset = state === "reused" ? 0.625 : 0;
  const box = { x: x + inset, y: y + inset, width: Math.max(width - 2 * inset, 0.5), height: CELL - 2 * inset, rx: Math.min(3, width / 4) };
  return drawn("rect", { class: `cell ${state}`, ...box, "data-branch": branch, "data-step": step });
}

/** Hollow below the threshold, solid above it; a triangle at the top is beyond the scale. */
function diffDot(diff, threshold, scale, x, top, pitch) {
  const radius = Math.min(3.5, Math.max(1.5, pitch / 4));
  const y = top + LANE * (1 - Math.min(diff / scale, 1));
  const stem = pitch < 3 ? "" : drawn("line", { class: "stem", x1: x, x2: x, y1: top + LANE, y2: y + radius });
  if (diff > scale) return [stem, drawn("path", { class: "dot", d: `M${x - radius - 1} ${top + 2 * radius + 2}h${2 * radius + 2}l${-radius - 1} ${-2 * radius - 1}z` })];
  return [stem, drawn("circle", { class: diff < threshold ? "dot below" : "dot", cx: x, cy: Math.max(y, top + radius), r: radius })];
}

function thresholdLine(threshold, y, left, width) {
  const label = drawn("text", { x: width - RIGHT + 8, y: y + 4 });
  label.append(figure(threshold));
  return [drawn("line", { class: "threshold", x1: left, x2: width - RIGHT + 3, y1: y, y2: y }), label];
}

/** Step numbers along the bottom. */
function ticks(numSteps, left, pitch, height) {
  const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((every) => every * pitch >= 26) ?? 1000;
  const shown = Array.from({ length: numSteps }, (_, i) => i + 1).filter((step) => step === 1 || step % every === 0);
  return shown.map((step) => {
    const text = drawn("text", { x: left + pitch * (step - 0.5), y: height - 4, "text-anchor": "middle" });
    text.append(step);
    return text;
  });
}

function hatch() {
  const pattern = drawn("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  pattern.append(drawn("line", { class: "hatch", x1: 0, x2: 0, y1: 0, y2: 5 }));
  return drawn("defs", {}, pattern);
}

/** A sentence about `step` for each row. */
function sentences(record, step) {
  return record.rows.map((row) => {
    const name = rowName(record, row);
    const run = row.runs[step];
    if (!run) return { name, text: "has yet to come." };
    const reason = REASONS[run.reason] ?? run.reason;
    const diff = run.diff == null ? "" : `, diff ${figure(run.diff)}${against(run.diff, record.threshold)}`;
    return { name, text: `${run.reused ? "reused" : "computed"}: ${reason}${diff}.` };
  });
}

function against(diff, threshold) {
  return threshold > 0 ? ` ${diff < threshold ? "<" : "≥"} ${figure(threshold)}` : "";
}

function summary(record) {
  return record.rows.flatMap((row, i) => {
    const { computed, reused } = counts(row);
    const text = ` ${count(computed, "step")} computed, ${reused} reused. `;
    return [...(i > 0 ? [make("br")] : []), make("b", {}, rowName(record, row)), text];
  });
}
