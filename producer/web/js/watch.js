/** What is known of the fleet and its past. A look asks only for what is new, and adds it to what is here. */

const KEPT = { limits: 200, packs: 100, history: 900 };

/**
 * @typedef {object} Look the fleet as it is now, with its past
 * @property {any[]} workers
 * @property {any[]} queues
 * @property {Record<string, Record<string, number>>} [steps] by worker, then by step: seconds
 * @property {Record<string, any[]>} limits by worker, the oldest first
 * @property {Record<string, any[]>} packs by worker, the oldest first
 * @property {any[]} history the oldest first
 */

/** The fleet as it was looked at so far. */
export class FleetWatch {
  /** @param {import("./api.js").Api} api */
  constructor(api) {
    this.api = api;
    this.since = 0;
    /** @type {Look} */
    this.known = { workers: [], queues: [], limits: {}, packs: {}, history: [] };
  }

  /** Look again. @returns {Promise<Look>} */
  async look() {
    const found = await this.api.fleet(this.since);
    const { limits, packs, history } = this.known;
    this.known = {
      ...found,
      limits: ofEach(found.workers, (id) => joined(limits[id], found.limits?.[id], KEPT.limits)),
      packs: ofEach(found.workers, (id) => joined(packs[id], found.packs?.[id], KEPT.packs)),
      history: joined(history, found.history, KEPT.history),
    };
    this.since = found.at_s ?? 0;
    return this.known;
  }
}

/** A value for each worker that is there; what is known of others is forgotten. */
function ofEach(workers, make) {
  return Object.fromEntries(workers.map(({ id }) => [id, make(id)]));
}

/** Old and new entries in the order of their times, none of them twice, the last `kept` of them. */
function joined(old = [], fresh = [], kept) {
  const known = new Set(old.map(({ at_s: at }) => at));
  const all = [...old, ...fresh.filter(({ at_s: at }) => !known.has(at))];
  return all.sort((a, b) => a.at_s - b.at_s).slice(-kept);
}
