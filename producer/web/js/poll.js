/** Asking again and again while somebody looks. */

/**
 * Call `ask` now and `everyMs` after each answer until the signal is aborted, not while the page is
 * hidden. What it throws is left to those who watch the connection.
 * @param {() => Promise<void>} ask
 * @param {number} everyMs
 * @param {AbortSignal} signal
 */
export function poll(ask, everyMs, signal) {
  let timer = 0;
  const turn = async () => {
    if (!document.hidden) await ask().catch(() => {});
    if (!signal.aborted) timer = window.setTimeout(turn, everyMs);
  };
  signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  turn();
}
