/** Repeated requests while the page is visible. */

import { ApiError } from "./api.js";

const REFUSED_MS = 30_000; // a right may be given while the page is open

/**
 * Call `task` now and `everyMs` after each completion until the signal is aborted, but not while the
 * page is hidden. `onRefusal` gets the error while the gateway refuses it, and null once it does not.
 * Other errors are ignored: `Api.reachable` shows that the connection is lost.
 * @param {() => Promise<void>} task
 * @param {number} everyMs
 * @param {AbortSignal} signal
 * @param {(error: ApiError | null) => void} [onRefusal]
 */
export function poll(task, everyMs, signal, onRefusal = () => {}) {
  let timer = 0;
  const step = async () => {
    let waitMs = everyMs;
    if (!document.hidden) {
      try {
        await task();
        if (!signal.aborted) onRefusal(null);
      } catch (error) {
        if (isRefusal(error) && !signal.aborted) onRefusal(error);
        waitMs = pauseMs(error, everyMs);
      }
    }
    if (!signal.aborted) timer = window.setTimeout(step, waitMs);
  };
  signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  step();
}

/** Whether the gateway answered that the key, or the page, may not ask for this, or not so often. */
export function isRefusal(error) {
  return error instanceof ApiError && [403, 429].includes(error.status);
}

/** When to ask again after an error. @param {any} error @param {number} usualMs */
export function pauseMs(error, usualMs) {
  if (!isRefusal(error)) return usualMs;
  return Math.max(usualMs, error.retryAfterS ? 1000 * error.retryAfterS : REFUSED_MS);
}
