/** The Jobs tab: all jobs, the newest first, and the way to a new one. */

import { fill, h, icon } from "../dom.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { modelNotice } from "../notices.js";
import { poll } from "../poll.js";
import { addressOf } from "../router.js";
import { newJobDialog } from "./create.js";
import { done, jobName, progressBar, stateChip } from "./parts.js";

const SHOWN = 100;
const LOOK_MS = 2_000;
const STATES = ["all", "running", "paused", "done", "cancelled"];

/**
 * Show the tab.
 * @param {HTMLElement} root
 * @param {import("../main.js").App} app
 * @param {AbortSignal} signal
 */
export function showJobs(root, app, signal) {
  const dialog = newJobDialog(app, signal);
  const body = h("tbody");
  const empty = h(
    "div",
    { class: "empty", hidden: true },
    h("p", {}, t("jobs.none")),
    h("pre", {}, h("code", {}, "rerank submit pairs.jsonl --name monday")),
  );
  const table = h(
    "div",
    { class: "table-holder", tabindex: "0", role: "region", "aria-label": t("tab.jobs") },
    h("table", { class: "jobs", "aria-label": t("tab.jobs") }, tableHead(), body),
  );
  const none = h("p", { class: "empty", hidden: true }, t("jobs.none.such"));
  /** @type {Map<string, HTMLTableRowElement>} by job, kept as long as it is shown */
  let rows = new Map();
  let jobs = [];
  let wanted = "all";
  const show = () => {
    const shown = jobs.filter(
      ({ state }) => wanted === "all" || state === wanted || (wanted === "running" && state === "finishing"),
    );
    rows = new Map(shown.map((job) => [job.id, rows.get(job.id) ?? emptyRow(job)]));
    for (const row of [...body.children]) if (rows.get(row.dataset.job) !== row) row.remove();
    shown.forEach((job, at) => {
      const row = rows.get(job.id);
      if (body.children[at] !== row) body.insertBefore(row, body.children[at] ?? null);
      fillRow(row, job);
    });
    empty.hidden = jobs.length > 0;
    none.hidden = jobs.length === 0 || shown.length > 0;
    table.hidden = shown.length === 0;
  };
  fill(
    root,
    h(
      "div",
      { class: "jobs-page" },
      h(
        "div",
        { class: "page-head" },
        h("h1", {}, t("tab.jobs")),
        stateFilter((state) => {
          wanted = state;
          show();
        }),
        h(
          "button",
          { type: "button", class: "button primary", id: "new-job", onclick: () => dialog.showModal() },
          icon("add"),
          t("job.new"),
        ),
      ),
      modelNotice(app, signal),
      table,
      none,
      empty,
      dialog,
    ),
  );
  poll(
    async () => {
      jobs = await app.api.jobs(SHOWN);
      show();
    },
    LOOK_MS,
    signal,
  );
}

function tableHead() {
  const columns = ["job", "job.state", "job.progress", "job.rate", "job.eta", "job.created"];
  return h(
    "thead",
    {},
    h(
      "tr",
      {},
      columns.map((key) => h("th", { scope: "col" }, t(key))),
    ),
  );
}

function stateFilter(choose) {
  const buttons = STATES.map((state) =>
    h(
      "button",
      {
        type: "button",
        "aria-pressed": String(state === "all"),
        onclick: () => {
          for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.state === state));
          choose(state);
        },
        "data-state": state,
      },
      t(`state.${state}`),
    ),
  );
  return h("div", { class: "segments", role: "group", "aria-label": t("job.state") }, buttons);
}

/** The row of a job with its link, which stays while the cells beside it change. */
function emptyRow(job) {
  return h(
    "tr",
    { "data-job": job.id },
    h(
      "th",
      { scope: "row" },
      h("a", { href: addressOf("jobs", job.id) }, jobName(job)),
      h("span", { class: "hint" }, job.model.split("/").at(-1)),
    ),
  );
}

function fillRow(row, job) {
  while (row.children.length > 1) row.lastElementChild.remove();
  row.append(...jobCells(job));
}

function jobCells(job) {
  const { progress } = job;
  const counts =
    progress.total === null
      ? format.number(done(progress))
      : `${format.number(done(progress))} / ${format.number(progress.total)}`;
  return [
    h("td", {}, stateChip(job.state)),
    h(
      "td",
      { class: "wide" },
      progressBar(job),
      h(
        "span",
        { class: "hint" },
        counts,
        progress.errors > 0 &&
          h("span", { class: "bad" }, ` · ${t("job.errors.n", { n: format.number(progress.errors) })}`),
        progress.rejected > 0 &&
          h("span", { class: "warn" }, ` · ${t("job.rejected.n", { n: format.number(progress.rejected) })}`),
      ),
    ),
    figure("job.rate", job.pairs_per_s ? `${format.short(job.pairs_per_s)} ${t("unit.pairs")}` : "–"),
    figure("job.eta", format.duration(job.eta_s)),
    figure("job.created", format.moment(job.created_s)),
  ];
}

/** A cell that says what it is where the columns have no heads. */
function figure(key, value) {
  return h("td", { class: "numeric", "data-label": t(key) }, value);
}
