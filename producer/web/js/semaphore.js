/** Limits how many tasks run at once; the rest wait, first come, first served. */
export class Semaphore {
  /** @param {number} limit */
  constructor(limit) {
    this.free = limit;
    /** @type {(() => void)[]} */
    this.waiting = [];
  }

  /**
   * Run a task as soon as a slot is free.
   * @template T
   * @param {() => Promise<T>} task
   * @returns {Promise<T>}
   */
  async run(task) {
    if (this.free > 0) this.free -= 1;
    else await new Promise((resolve) => this.waiting.push(() => resolve(null))); // a finished task passes its slot on
    try {
      return await task();
    } finally {
      const next = this.waiting.shift();
      if (next) next();
      else this.free += 1;
    }
  }
}
