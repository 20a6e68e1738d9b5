/** One job, watched live to its end. */

import { ApiError } from "../api.js";
import { ColumnChart, LineChart } from "../charts.js";
import { announce, fill, h, icon } from "../dom.js";
import { batchChart, latencyChart, queueChart } from "../fleet.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { poll } from "../poll.js";
import { addressOf } from "../router.js";
import { Downloads, downloadLink } from "./downloads.js";
import { done, isOver, jobName, progressBar, stateChip } from "./parts.js";

const FLEET_MS = 2_000;
const AGAIN_MS = 1_500;
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
  const look = async () => {
    if (!page.over) page.showFleet(await app.fleet.look());
  };
  poll(look, FLEET_MS, signal);
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
    /** What happens while somebody watches; of a job that was over before there is nothing to show. */
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
    /** What the buttons and the title were made for. */
    this.headOf = "";
    /** How many errors the list was asked for, and whether the job was over then. */
    this.toldErrors = "";
    this.askingErrors = false;
    this.following = false;
    /** Whether an action of the user is in hand: a second click does nothing. */
    this.acting = false;
    this.errorsDueMs = 0;
    /** @type {any} */
    this.fleet = null;
  }

  /** Follow the job to its end, once at a time. */
  async follow() {
    if (this.following) return;
    this.following = true;
    await this.followEvents();
    this.following = false;
  }

  /** Its events; where the connection is lost, take it up again. */
  async followEvents() {
    while (!this.signal.aborted) {
      try {
        for await (const { event, data } of this.app.api.events(this.id, this.signal)) {
          if (event === "status") this.show(data);
          if (event === "end") break;
        }
        if (this.job && isOver(this.job)) return await this.end();
      } catch (error) {
        if (this.signal.aborted) return;
        if (error instanceof ApiError && error.status === 404) return this.unknown(error);
      }
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }

  unknown(error) {
    fill(
      this.notice,
      h(
        "div",
        { class: "notice warn" },
        icon("warning"),
        h("div", {}, h("h3", {}, error.message), h("p", {}, error.hint)),
      ),
    );
  }

  async end() {
    this.show(await this.app.api.job(this.id));
    this.downloads.show();
    announce(t("announce.job", { name: jobName(this.job), state: t(`state.${this.job.state}`) }));
  }

  show(job) {
    const first = this.job === null;
    this.job = { ...this.job, ...job };
    if (first && this.fleet) this.showFleet(this.fleet); // it may have come before
    if (!this.over) this.charts.hidden = false;
    this.showHead();
    fill(this.reason, job.reason && h("p", { class: "reason" }, job.reason));
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

  /** The title and the buttons; not made anew under somebody's fingers without need. */
  showHead() {
    const of = `${this.job.state} ${this.canRetry}`;
    if (of === this.headOf) return;
    this.headOf = of;
    fill(this.head, this.title(), h("div", { class: "buttons" }, this.buttons()));
  }

  title() {
    return h(
      "div",
      { class: "title" },
      h("h1", {}, jobName(this.job)),
      stateChip(this.job.state),
      h("p", { class: "hint" }, `${this.job.id} · ${this.job.model}`),
    );
  }

  figures() {
    const { progress, pairs_per_s: rate, eta_s: eta, created_s: created, finished_s: finished } = this.job;
    const figure = (key, value, kind = "") =>
      h("div", { class: ["figure-box", kind] }, h("span", { class: "hint" }, t(key)), h("strong", {}, value));
    const total = progress.total === null ? "…" : format.number(progress.total);
    return h(
      "div",
      { class: "figures" },
      figure("job.done", `${format.number(done(progress))} / ${total}`),
      figure("scored", format.number(progress.scored)),
      figure("rejected", format.number(progress.rejected), progress.rejected > 0 ? "warn" : ""),
      figure("errors", format.number(progress.errors), progress.errors > 0 ? "bad" : ""),
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
          id: name === "resume" ? "job-pause" : `job-${name}`, // one takes the other's place, and its focus
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

  /** Whether something has no score, in a job that can be tried again: a catalog cannot. */
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
      this.follow(); // after a retry it goes on
    } catch (error) {
      fill(
        this.notice,
        h("p", { class: "reason bad", role: "alert" }, [error.message, error.hint].filter(Boolean).join(" – ")),
      );
    } finally {
      this.acting = false;
    }
  }

  /** Whether the job is known to be over: then its charts end. */
  get over() {
    return this.job !== null && isOver(this.job);
  }

  showFleet(fleet) {
    this.fleet = fleet;
    const of = (row) => row.model === this.job?.model;
    const workers = fleet.workers.filter(of);
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
      `⌀ ${format.score(scores.mean)} · > 0.9: ${format.percent(scores.share_above)} · < 0.1: ${format.percent(scores.share_below)}`,
    );
  }

  /** Show what failed. Asks one question at a time, every ERRORS_MS at most, and once at the end. */
  async showErrors() {
    const count = this.job.progress.errors + this.job.progress.rejected;
    const over = isOver(this.job);
    const news = `${count} ${over}`;
    this.errors.hidden = count === 0;
    if (count === 0 || news === this.toldErrors || this.askingErrors) return;
    if (!over && Date.now() < this.errorsDueMs) return;
    this.toldErrors = news;
    this.askingErrors = true;
    this.errorsDueMs = Date.now() + ERRORS_MS;
    const lines = await this.app.api.errors(this.id, ERRORS_SHOWN).catch(() => null);
    this.askingErrors = false;
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
    if (isOver(this.job)) this.showErrors(); // no event will ask for what came meanwhile
  }

  /** That the errors could not be had, and the way to ask again. */
  errorsAgain() {
    const ask = () => {
      this.toldErrors = "";
      this.errorsDueMs = 0;
      this.showErrors();
    };
    return h(
      "p",
      { class: "hint" },
      `${t("errors.missing")} `,
      h("button", { type: "button", class: "button", onclick: ask }, t("again")),
    );
  }
}

/** The failures of a line of results; a line of a catalog has one. */
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
