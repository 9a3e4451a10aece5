// Formatting of numbers and errors.

/** `430 ms`, `4.31 s`, `2 min 5 s`, never broken between two lines. */
export function duration(ms) {
  if (ms < 999.5) return `${Math.round(ms)}\u00a0ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(ms < 9_995 ? 2 : 1)}\u00a0s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)}\u00a0min ${seconds % 60}\u00a0s`;
}

/** `128 × 96` from `128x96`. */
export function size(text) {
  return text.replace("x", " × ");
}

/** A diff or a threshold, with three significant digits. */
export function figure(value) {
  return String(Number(value.toPrecision(3)));
}

export function count(n, noun) {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}

/** An error and what to do about it, in a sentence or two. */
export function explained(error) {
  const advice = ADVICE[error.code]?.(error) ?? "";
  return `${error.message}${/[.!?]$/.test(error.message) ? "" : "."} ${advice}`.trim();
}

const ADVICE = {
  unreachable: () => "Is latentd still running?",
  cut_off: () => "The server may have been stopped, or a proxy cut the connection. Try again.",
  invalid_api_key: () => "Enter another key.",
  queue_full: ({ retryAfter }) => (retryAfter ? `Try again in ${count(retryAfter, "second")}.` : "Try again soon."),
  deadline_exceeded: () => "Ask for fewer steps or a smaller size.",
  model_loading: () => "Try again in a few seconds.",
  shutting_down: () => "The server is stopping. Try again once it is back.",
  out_of_memory: () => "Ask for a smaller size or fewer pictures.",
  request_too_large: () => "Ask for a smaller size.",
  internal_error: ({ requestId }) => (requestId ? `The request was ${requestId}.` : ""),
};

/** Why a step was computed or reused, by the reasons of the crate `cache`. */
export const REASONS = {
  uncached: "this request has no step cache",
  warmup: "warmup steps always are",
  mask: "the steps mask says so",
  last_step: "the last step always is",
  static_mask: "the steps mask says so",
  max_cached_steps: "the request has reused as many steps as it may",
  max_continuous_cached_steps: "enough steps in a row were reused",
  accumulated_diff: "the small diffs have added up",
  zero_threshold: "a threshold of 0 allows no reuse",
  nothing_stored: "nothing is stored yet",
  shape_changed: "the number of tokens changed",
  always_similar: "the threshold allows every reuse",
  similar: "little changed",
  different: "too much changed",
  other_branch: "the other branch is",
  plan: "the plan computes it",
  plan_skips: "the plan skips it",
  off_course: "it differs from the runs that the plan was made from",
};
