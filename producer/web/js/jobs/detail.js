/** The page of one job, updated live until it ends. */

import { ApiError } from "../api.js";
import { ColumnChart, LineChart } from "../charts.js";
import { announce, fill, h, icon } from "../dom.js";
import { batchChart, latencyChart, queueChart } from "../fleet.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { refused } from "../notices.js";
import { isRefusal, pauseMs, poll } from "../poll.js";
import { addressOf } from "../router.js";
import { Downloads, downloadLink } from "./downloads.js";
import { isOver, jobName, pairsOfTotal, progressBar, shownState, stateChip } from "./parts.js";

const FLEET_MS = 2_000;
const RECONNECT_MS = 1_500;
const ERRORS_SHOWN = 100;
const ERRORS_MS = 10_000;
const SAMPLES = 900;

/** @typedef {import("../main.js").App} App */

/**
 * Show the page of a job.
 * @param {HTMLElement} root
 * @param {App} app
 * @param {string} id
 * @param {AbortSignal} signal
 */
export function showJob(root, app, id, signal) {
  const page = new JobPage(app, id, signal);
  fill(root, page.element);
  page.follow();
  const refresh = async () => {
    if (!page.over) page.showFleet(await app.fleet.refresh());
  };
  poll(refresh, FLEET_MS, signal, (error) => page.showFleetCharts(error?.status !== 403));
}

class JobPage {
  constructor(app, id, signal) {
    this.app = app;
    this.id = id;
    this.signal = signal;
    /** @type {any} */
    this.job = null;
    this.head = h("div", { class: "page-head" });
    this.facts = h("div", { class: "job-facts" });
    this.notice = h("div", { class: "notice-holder" });
    this.reason = h("div", { class: "notice-holder" });
    this.downloads = new Downloads(app.api, id);
    this.errors = h("section", { class: "panel job-errors", hidden: true, "aria-label": t("errors") });
    this.rate = new LineChart({ title: t("chart.rate"), about: t("chart.rate.job"), unit: t("unit.pairs") }, signal);
    this.queue = queueChart(signal);
    this.batch = batchChart(signal);
    this.latency = latencyChart(signal);
    this.scores = new ColumnChart(
      { title: t("chart.scores"), names: [t("scored")], ends: ["0", "1"], show: format.short },
      signal,
    );
    this.scores.element.hidden = true;
    /** Live charts; hidden for a job that had ended before the page was opened. */
    this.charts = h(
      "div",
      { class: "charts", hidden: true },
      [this.rate, this.queue, this.batch, this.latency].map((chart) => chart.element),
    );
    this.element = h(
      "div",
      { class: "job-page" },
      h("a", { class: "back", href: addressOf("jobs") }, icon("back"), t("tab.jobs")),
      this.head,
      this.notice,
      this.reason,
      this.facts,
      this.charts,
      this.scores.element,
      this.errors,
      this.downloads.element,
    );
    /** The state that the title and the buttons were built for. */
    this.headVersion = "";
    /** The number of errors when the list was fetched, and whether the job was over then. */
    this.listedErrors = "";
    this.loadingErrors = false;
    this.following = false;
    /** Whether an action is running; further clicks are ignored. */
    this.acting = false;
    this.errorsDueMs = 0;
    /** @type {any} */
    this.fleet = null;
  }

  /** Follow the job to its end, unless it is being followed. */
  async follow() {
    if (this.following) return;
    this.following = true;
    await this.followEvents();
    this.following = false;
  }

  /** Read the job's events; reconnect when the connection is lost. */
  async followEvents() {
    let wasRefused = false;
    while (!this.signal.aborted) {
      let waitMs = RECONNECT_MS;
      try {
        for await (const { event, data } of this.app.api.events(this.id, this.signal)) {
          if (wasRefused) fill(this.notice);
          wasRefused = false;
          if (event === "status") this.show(data);
          if (event === "end") break;
        }
        if (this.job && isOver(this.job)) return await this.end();
      } catch (error) {
        if (this.signal.aborted) return;
        const unknown = error instanceof ApiError && error.status === 404;
        wasRefused = unknown || isRefusal(error);
        if (wasRefused) fill(this.notice, refused(error));
        if (unknown) return;
        waitMs = pauseMs(error, RECONNECT_MS);
      }
      await new Promise((resolve) => setTimeout(resolve, waitMs));
    }
  }

  async end() {
    this.show(await this.app.api.job(this.id));
    this.downloads.show();
    announce(t("announce.job", { name: jobName(this.job), state: t(`state.${shownState(this.job)}`) }));
  }

  show(job) {
    const first = this.job === null;
    this.job = { ...this.job, ...job };
    if (first && this.fleet) this.showFleet(this.fleet); // it may have arrived first
    if (!this.over) this.charts.hidden = false;
    this.showHead();
    fill(
      this.reason,
      job.reason && h("p", { class: "reason" }, job.reason),
      job.passed_over && h("p", { class: "hint", id: "job-passed-over" }, job.passed_over),
    );
    fill(this.facts, progressBar(this.job), this.figures());
    if (!isOver(job)) this.sample(job.pairs_per_s);
    this.rate.show([{ name: "", points: this.samples }]);
    this.showScores();
    this.showErrors();
  }

  get samples() {
    return this.app.rates.get(this.id) ?? [];
  }

  sample(rate) {
    this.app.rates.set(this.id, [...this.samples, [Date.now() / 1000, rate]].slice(-SAMPLES));
  }

  /** The title and the buttons; rebuilt only when they change, so that clicks are not lost. */
  showHead() {
    const version = `${shownState(this.job)} ${this.canRetry}`;
    if (version === this.headVersion) return;
    this.headVersion = version;
    fill(this.head, this.title(), h("div", { class: "buttons" }, this.buttons()));
  }

  title() {
    return h(
      "div",
      { class: "title" },
      h("h1", {}, jobName(this.job)),
      stateChip(this.job),
      h("p", { class: "hint" }, [this.job.id, this.job.model, this.job.owner].filter(Boolean).join(" · ")),
    );
  }

  figures() {
    const { progress, pairs_per_s: rate, eta_s: eta, created_s: created, finished_s: finished } = this.job;
    const figure = (key, value, kind = "") =>
      h("div", { class: ["figure-box", kind] }, h("span", { class: "hint" }, t(key)), h("strong", {}, value));
    const { done, total } = pairsOfTotal(progress);
    return h(
      "div",
      { class: "figures" },
      figure("job.done", `${format.number(done)} / ${total === null ? "…" : format.number(total)}`),
      figure("scored", format.number(progress.scored)),
      figure("rejected", format.number(progress.rejected), progress.rejected > 0 ? "warn" : ""),
      figure("errors", format.number(progress.errors), progress.errors > 0 ? "bad" : ""),
      progress.bad_lines > 0 && figure("job.bad_lines", format.number(progress.bad_lines), "bad"),
      progress.cancelled > 0 && figure("state.cancelled", format.number(progress.cancelled)),
      figure("job.rate", `${format.short(rate)} ${t("unit.pairs")}`),
      isOver(this.job)
        ? figure("job.took", format.duration((finished ?? created) - created))
        : figure("job.eta", format.duration(eta)),
    );
  }

  buttons() {
    const { state } = this.job;
    const act = (name, sign) =>
      h(
        "button",
        {
          type: "button",
          id: name === "resume" ? "job-pause" : `job-${name}`, // each replaces the other and takes its focus
          class: "button",
          "data-action": name,
          onclick: () => this.act(name),
        },
        icon(sign),
        t(`job.${name}`),
      );
    return [
      state === "running" && act("pause", "pause"),
      state === "paused" && act("resume", "play"),
      !isOver(this.job) && act("cancel", "stop"),
      this.canRetry && act("retry", "replace"),
      this.results(!isOver(this.job)),
    ];
  }

  /** Whether there is something to retry; catalog jobs cannot be retried. */
  get canRetry() {
    const { progress, catalog } = this.job;
    return isOver(this.job) && !catalog && progress.errors + progress.rejected + progress.cancelled > 0;
  }

  results(partial) {
    return downloadLink(this.app.api, {
      address: this.app.api.resultsAddress(this.id, partial),
      file: `${jobName(this.job)}.jsonl`,
      label: t(partial ? "job.partial" : "job.results"),
      props: { class: "button", "data-action": "results" },
    });
  }

  async act(name) {
    if (this.acting) return;
    this.acting = true;
    fill(this.notice);
    try {
      this.show(await this.app.api.act(this.id, name));
      this.follow(); // a retry continues the job
    } catch (error) {
      fill(
        this.notice,
        h("p", { class: "reason bad", role: "alert" }, [error.message, error.hint].filter(Boolean).join(" – ")),
      );
    } finally {
      this.acting = false;
    }
  }

  /** Whether the job is known to be over. */
  get over() {
    return this.job !== null && isOver(this.job);
  }

  /** Whether the key may see what the charts of the fleet show. @param {boolean} may */
  showFleetCharts(may) {
    for (const chart of [this.queue, this.batch, this.latency]) chart.element.hidden = !may;
  }

  showFleet(fleet) {
    this.fleet = fleet;
    const isOfJob = (row) => row.model === this.job?.model;
    const workers = fleet.workers.filter(isOfJob);
    this.queue.show(fleet.history);
    this.batch.show(fleet.limits, workers);
    this.latency.show(fleet.packs, workers);
  }

  showScores() {
    const { scores } = this.job;
    this.scores.element.hidden = !scores?.count;
    if (!scores?.count) return;
    const width = 1 / scores.bins.length;
    this.scores.show(
      scores.bins.map((count, at) => ({
        values: [count],
        label: `${(at * width).toFixed(2)}–${((at + 1) * width).toFixed(2)}: ${format.number(count)}`,
      })),
      t("chart.scores.summary", {
        mean: format.score(scores.mean),
        above: format.percent(scores.share_above),
        below: format.percent(scores.share_below),
      }),
    );
  }

  /** Show what failed. Fetches one list at a time, at most every ERRORS_MS, and once more at the end. */
  async showErrors() {
    const count = this.job.progress.errors + this.job.progress.rejected;
    const over = isOver(this.job);
    const version = `${count} ${over}`;
    this.errors.hidden = count === 0;
    if (count === 0 || version === this.listedErrors || this.loadingErrors) return;
    if (!over && Date.now() < this.errorsDueMs) return;
    this.listedErrors = version;
    this.loadingErrors = true;
    this.errorsDueMs = Date.now() + ERRORS_MS;
    const lines = await this.app.api.errors(this.id, ERRORS_SHOWN).catch(() => null);
    this.loadingErrors = false;
    const title = h("h2", { class: "panel-title" }, t("errors.list", { n: format.number(count) }));
    if (!lines) return fill(this.errors, title, this.errorsAgain());
    const failures = lines.flatMap(failuresOf).slice(0, ERRORS_SHOWN);
    fill(
      this.errors,
      title,
      h("ul", { class: "error-list" }, failures.map(failureItem)),
      failures.length === ERRORS_SHOWN &&
        count > ERRORS_SHOWN &&
        h("p", { class: "hint" }, t("errors.first", { n: ERRORS_SHOWN })),
    );
    if (isOver(this.job)) this.showErrors(); // no later event would fetch what arrived meanwhile
  }

  /** A message that the errors could not be loaded, with a button to retry. */
  errorsAgain() {
    const retry = () => {
      this.listedErrors = "";
      this.errorsDueMs = 0;
      this.showErrors();
    };
    return h(
      "p",
      { class: "hint" },
      `${t("errors.missing")} `,
      h("button", { type: "button", class: "button", onclick: retry }, t("again")),
    );
  }
}

/** The failures of a line of results; a catalog's line has at most one. */
function failuresOf(line) {
  const failures = line.errors ?? (line.error ? [line.error] : []);
  const of = line.id ?? [line.query_id, line.image_id].filter((id) => id !== undefined && id !== null).join(" · ");
  return failures.map((failure) => ({ ...failure, of }));
}

function failureItem({ line, index, code, message, hint, of }) {
  const place = [of, line && t("errors.line", { n: line }), typeof index === "number" && `#${index}`]
    .filter(Boolean)
    .join(" · ");
  return h(
    "li",
    {},
    h("span", { class: "chip" }, code),
    h("span", { class: "hint" }, place),
    h("p", {}, message),
    hint && h("p", { class: "hint" }, hint),
  );
}
