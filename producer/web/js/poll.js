/** Repeated requests while the page is visible. */

/**
 * Call `task` now and `everyMs` after each completion until the signal is aborted, but not while the
 * page is hidden. Errors are ignored: `Api.reachable` shows that the connection is lost.
 * @param {() => Promise<void>} task
 * @param {number} everyMs
 * @param {AbortSignal} signal
 */
export function poll(task, everyMs, signal) {
  let timer = 0;
  const step = async () => {
    if (!document.hidden) await task().catch(() => {});
    if (!signal.aborted) timer = window.setTimeout(step, everyMs);
  };
  signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  step();
}
