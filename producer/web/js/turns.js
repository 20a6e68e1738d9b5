/** Work that is done a few at a time, in the order in which it came. */
export class Turns {
  /** @param {number} atATime */
  constructor(atATime) {
    this.free = atATime;
    /** @type {(() => void)[]} */
    this.waiting = [];
  }

  /**
   * Do `work` when its turn comes.
   * @template T
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  async take(work) {
    if (this.free > 0) this.free -= 1;
    else await new Promise((resolve) => this.waiting.push(() => resolve(null))); // whoever ends hands it on
    try {
      return await work();
    } finally {
      const next = this.waiting.shift();
      if (next) next();
      else this.free += 1;
    }
  }
}
