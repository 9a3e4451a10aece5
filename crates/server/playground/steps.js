// Record of the step cache's decisions: a plain value, so that the gallery can store it.

/** An empty record for a picture with `numSteps` steps. */
export function newRecord(numSteps) {
  return { numSteps, threshold: null, rows: [] };
}

/** Adds a progress event: each of its runs is a cell in a row. */
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

/** Label of a row: its branch, and its segment if there are several. */
export function rowName(record, row) {
  const segments = new Set(record.rows.map(({ segment }) => segment));
  return segments.size > 1 ? `${row.branch} ${row.segment}` : row.branch;
}
