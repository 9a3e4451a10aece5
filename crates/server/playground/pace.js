// Progress of a request, and its remaining time at the pace so far.

export class Pace {
  #steps;
  #done = 0;
  #first = null;
  #last = null;

  /** `steps` counts those of all pictures. */
  constructor(steps) {
    this.#steps = steps;
  }

  /** A step was done at `now`, in milliseconds. */
  note(now) {
    this.#done += 1;
    this.#first ??= now;
    this.#last = now;
  }

  share() {
    return this.#done / this.#steps;
  }

  text() {
    if (this.#done >= this.#steps) return "Decoding…";
    const steps = `Step ${this.#done} of ${this.#steps}`;
    const left = this.#remaining();
    return left === null ? steps : `${steps}, about ${roughly(left)} left`;
  }

  /** The time of the first step includes the queue, so the pace is measured between steps. */
  #remaining() {
    if (this.#done < 2) return null;
    return ((this.#last - this.#first) / (this.#done - 1)) * (this.#steps - this.#done);
  }
}

/** Whole seconds, as the pace is not more accurate. */
function roughly(ms) {
  const seconds = Math.ceil(ms / 1000);
  return seconds < 90 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
}
