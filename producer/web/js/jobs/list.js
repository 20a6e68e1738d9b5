/** The Jobs tab: all jobs, newest first, and the button for a new one. */

import { fill, h, icon } from "../dom.js";
import * as format from "../format.js";
import { counted, t } from "../i18n.js";
import { modelNotice, refused } from "../notices.js";
import { poll } from "../poll.js";
import { addressOf } from "../router.js";
import { newJobDialog } from "./create.js";
import { jobName, pairsOfTotal, progressBar, stateChip } from "./parts.js";

const SHOWN = 100;
const POLL_MS = 2_000;
const STATES = ["all", "running", "paused", "done", "cancelled"];

/**
 * Show the tab.
 * @param {HTMLElement} root
 * @param {import("../main.js").App} app
 * @param {AbortSignal} signal
 */
export function showJobs(root, app, signal) {
  const dialog = newJobDialog(app, signal);
  const list = new JobList();
  const notice = h("div", { class: "notice-holder", "aria-live": "polite" });
  const create = h(
    "button",
    { type: "button", class: "button primary", id: "new-job", onclick: () => dialog.showModal() },
    icon("add"),
    t("job.new"),
  );
  fill(
    root,
    h(
      "div",
      { class: "jobs-page" },
      h(
        "div",
        { class: "page-head" },
        h("h1", {}, t("tab.jobs")),
        stateFilter((state) => list.filter(state)),
        create,
      ),
      modelNotice(app, signal),
      notice,
      list.elements,
      dialog,
    ),
  );
  const refresh = async () => list.show(await app.api.jobs(SHOWN));
  poll(refresh, POLL_MS, signal, (error) => {
    create.disabled = error?.status === 403;
    if (error) list.hide();
    fill(notice, error && refused(error));
  });
}

/** The table of jobs, and the message shown instead while it has no rows. */
class JobList {
  constructor() {
    this.jobs = [];
    this.state = "all";
    /** @type {Map<string, HTMLTableRowElement>} by job, kept as long as it is shown */
    this.rows = new Map();
    this.body = h("tbody");
    this.table = h(
      "div",
      { class: "table-holder", tabindex: "0", role: "region", "aria-label": t("tab.jobs") },
      h("table", { class: "jobs", "aria-label": t("tab.jobs") }, tableHead(), this.body),
    );
    this.noMatch = h("p", { class: "empty", hidden: true }, t("jobs.none.state"));
    this.empty = h(
      "div",
      { class: "empty", hidden: true },
      h("p", {}, t("jobs.none")),
      h("pre", {}, h("code", {}, "rerank submit pairs.jsonl --name monday")),
    );
  }

  get elements() {
    return [this.table, this.noMatch, this.empty];
  }

  /** Show only jobs in a state, or "all". @param {string} state */
  filter(state) {
    this.state = state;
    this.show(this.jobs);
  }

  /** @param {any[]} jobs */
  show(jobs) {
    this.jobs = jobs;
    const shown = jobs.filter((job) => this.matches(job));
    this.rows = new Map(shown.map((job) => [job.id, this.rows.get(job.id) ?? emptyRow(job)]));
    for (const row of [...this.body.children]) if (this.rows.get(row.dataset.job) !== row) row.remove();
    shown.forEach((job, at) => {
      const row = this.rows.get(job.id);
      if (this.body.children[at] !== row) this.body.insertBefore(row, this.body.children[at] ?? null);
      fillRow(row, job);
    });
    this.empty.hidden = jobs.length > 0;
    this.noMatch.hidden = jobs.length === 0 || shown.length > 0;
    this.table.hidden = shown.length === 0;
  }

  /** Show nothing, not even that there is none. */
  hide() {
    for (const element of this.elements) element.hidden = true;
  }

  matches({ state }) {
    return this.state === "all" || state === this.state || (this.state === "running" && state === "finishing");
  }
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

/** A job's row with its link; the link stays while the other cells change. */
function emptyRow(job) {
  return h(
    "tr",
    { "data-job": job.id },
    h(
      "th",
      { scope: "row" },
      h("a", { href: addressOf("jobs", job.id) }, jobName(job)),
      h("span", { class: "hint" }, [job.model.split("/").at(-1), job.owner].filter(Boolean).join(" · ")),
    ),
  );
}

function fillRow(row, job) {
  while (row.children.length > 1) row.lastElementChild.remove();
  row.append(...jobCells(job));
}

function jobCells(job) {
  const { progress } = job;
  const { done, total } = pairsOfTotal(progress);
  const counts = total === null ? format.number(done) : `${format.number(done)} / ${format.number(total)}`;
  return [
    h("td", {}, stateChip(job)),
    h(
      "td",
      { class: "wide" },
      progressBar(job),
      h(
        "span",
        { class: "hint" },
        counts,
        progress.errors > 0 &&
          h("span", { class: "bad" }, ` · ${counted("job.errors.n", progress.errors)}`),
        progress.bad_lines > 0 && h("span", { class: "bad" }, ` · ${counted("job.bad_lines.n", progress.bad_lines)}`),
        progress.rejected > 0 &&
          h("span", { class: "warn" }, ` · ${t("job.rejected.n", { n: format.number(progress.rejected) })}`),
      ),
    ),
    figure("job.rate", job.pairs_per_s ? `${format.short(job.pairs_per_s)} ${t("unit.pairs")}` : "–"),
    figure("job.eta", format.duration(job.eta_s)),
    figure("job.created", format.moment(job.created_s)),
  ];
}

/** A cell with its label, shown where the table has no header row. */
function figure(key, value) {
  return h("td", { class: "numeric", "data-label": t(key) }, value);
}
