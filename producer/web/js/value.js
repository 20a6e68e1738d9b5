/** Observable values, and values that persist in localStorage. */

/**
 * One observable value.
 * @template T
 */
export class Value {
  /** @param {T} initial */
  constructor(initial) {
    /** @type {T} */
    this.now = initial;
    /** @type {Set<(value: T) => void>} */
    this.watchers = new Set();
  }

  /**
   * Set the value and notify the watchers. Setting an object always notifies, as it may have been changed in place.
   * @param {T} value
   */
  set(value) {
    const same = Object.is(value, this.now) && (typeof value !== "object" || value === null);
    this.now = value;
    if (!same) for (const watcher of [...this.watchers]) watcher(value);
  }

  /**
   * Set a value computed from the current one.
   * @param {(value: T) => T} change
   */
  change(change) {
    this.set(change(this.now));
  }

  /**
   * Call `watcher` now and on each change, until the signal is aborted.
   * @param {(value: T) => void} watcher
   * @param {AbortSignal} signal
   */
  watch(watcher, signal) {
    this.listen(watcher, signal);
    if (!signal.aborted) watcher(this.now);
  }

  /**
   * Call `watcher` on each change, but not now.
   * @param {(value: T) => void} watcher
   * @param {AbortSignal} signal
   */
  listen(watcher, signal) {
    if (signal.aborted) return;
    this.watchers.add(watcher);
    signal.addEventListener("abort", () => this.watchers.delete(watcher), { once: true });
  }
}

/**
 * A value that persists in localStorage under `name`.
 * @param {string} name
 * @param {string} initial
 * @returns {Value<string>}
 */
export function remembered(name, initial) {
  const value = new Value(read(name) ?? initial);
  value.listen((text) => write(name, text), new AbortController().signal);
  return value;
}

function read(name) {
  try {
    return localStorage.getItem(`rerankfleet.${name}`);
  } catch {
    return null; // storage may be blocked
  }
}

function write(name, text) {
  try {
    localStorage.setItem(`rerankfleet.${name}`, text);
  } catch {
    // storage is blocked: the value lasts as long as the page
  }
}
