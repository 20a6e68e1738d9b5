/** Elements that the list of jobs and the page of a job share. */

import { h } from "../dom.js";
import { t } from "../i18n.js";

const OUTCOMES = ["scored", "rejected", "errors", "cancelled"];

/** Number of items that were processed, pairs and bad lines; cancelled ones were not. @param {any} progress */
function processed({ scored, rejected, errors }) {
  return scored + rejected + errors;
}

/** Number of pairs that were processed, of how many; a line that could not be read is none. @param {any} progress */
export function pairsOfTotal(progress) {
  const { total, bad_lines: bad = 0 } = progress;
  return { done: processed(progress) - bad, total: total === null ? null : total - bad };
}

/** @param {any} job */
export function jobName(job) {
  return job.name || job.id;
}

/** @param {any} job */
export function isOver({ state }) {
  return state === "done" || state === "cancelled";
}

/** The state for people: a job is not called done when nothing of it could be scored. @param {any} job */
export function shownState({ state, nothing_scored: nothing }) {
  return nothing ? "failed" : state;
}

/** A job's state as a chip. @param {any} job */
export function stateChip(job) {
  const state = shownState(job);
  return h("span", { class: ["chip", "state", state], "data-state": state }, t(`state.${state}`));
}

/** The progress bar, divided by outcome. @param {any} job */
export function progressBar(job) {
  const { progress } = job;
  const over = processed(progress) + progress.cancelled;
  const total = progress.total ?? Math.max(progress.fed, over, 1);
  const share = total ? over / total : 1;
  return h(
    "div",
    {
      class: ["progress", progress.total === null && !isOver(job) && "open-ended"],
      role: "progressbar",
      "aria-label": t("job.progress"),
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-valuenow": Math.floor(100 * share),
    },
    OUTCOMES.map(
      (name) => progress[name] > 0 && h("span", { class: `part ${name}`, vars: { "--share": progress[name] / total } }),
    ),
  );
}
