// What the step cache did, step by step: a plain value, so that the gallery can keep it.

/** Of a picture with `numSteps` steps, none of them done. */
export function newRecord(numSteps) {
  return { numSteps, threshold: null, rows: [] };
}

/** Adds a progress event: each of its runs is a row's cell. */
export function noteStep(record, event) {
  record.threshold = event.residual_diff_threshold;
  for (const run of event.runs) {
    rowOf(record, run).runs[event.step_index] = { reused: run.reused, reason: run.reason, diff: run.residual_diff };
  }
}

function rowOf(record, { branch, segment }) {
  const known = record.rows.find((row) => row.branch === branch && row.segment === segment);
  if (known) return known;
  const row = { branch, segment, runs: [] };
  record.rows.push(row);
  return row;
}

export function counts(row) {
  const done = row.runs.filter(Boolean);
  const reused = done.filter((run) => run.reused).length;
  return { computed: done.length - reused, reused };
}

/** What to call a row: its branch, and its segment where there are several. */
export function rowName(record, row) {
  const segments = new Set(record.rows.map(({ segment }) => segment));
  return segments.size > 1 ? `${row.branch} ${row.segment}` : row.branch;
}
