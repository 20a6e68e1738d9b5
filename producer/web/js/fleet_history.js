/** The fleet and its recent history. Each request fetches only what is new and appends it. */

const MAX_ENTRIES = { limits: 200, packs: 100, history: 900 };

/**
 * @typedef {object} FleetState the fleet now, with its recent history
 * @property {any[]} workers
 * @property {any[]} queues
 * @property {Record<string, Record<string, number>>} [steps] by worker, then by step: seconds
 * @property {Record<string, any[]>} limits by worker, oldest first
 * @property {Record<string, any[]>} packs by worker, oldest first
 * @property {any[]} history oldest first
 */

/** Collects the fleet's history over successive requests. */
export class FleetHistory {
  /** @param {import("./api.js").Api} api */
  constructor(api) {
    this.api = api;
    this.since = 0;
    /** @type {FleetState} */
    this.state = { workers: [], queues: [], limits: {}, packs: {}, history: [] };
  }

  /** Fetch what is new. @returns {Promise<FleetState>} */
  async refresh() {
    const update = await this.api.fleet(this.since);
    const { limits, packs, history } = this.state;
    this.state = {
      ...update,
      limits: ofEach(update.workers, (id) => joined(limits[id], update.limits?.[id], MAX_ENTRIES.limits)),
      packs: ofEach(update.workers, (id) => joined(packs[id], update.packs?.[id], MAX_ENTRIES.packs)),
      history: joined(history, update.history, MAX_ENTRIES.history),
    };
    this.since = update.at_s ?? 0;
    return this.state;
  }
}

/** A value for each present worker; workers that are gone are dropped. */
function ofEach(workers, make) {
  return Object.fromEntries(workers.map(({ id }) => [id, make(id)]));
}

/** Old and new entries in order of time, without duplicates; only the last `limit`. */
function joined(old = [], added = [], limit) {
  const times = new Set(old.map(({ at_s: at }) => at));
  const all = [...old, ...added.filter(({ at_s: at }) => !times.has(at))];
  return all.sort((a, b) => a.at_s - b.at_s).slice(-limit);
}
