/** The Fleet tab: workers, their batch sizes and the reasons for them, and the queues. */

import { ColumnChart, LineChart } from "./charts.js";
import { fill, h } from "./dom.js";
import * as format from "./format.js";
import { counted, t } from "./i18n.js";
import { noWorker, refused } from "./notices.js";
import { poll } from "./poll.js";

const POLL_MS = 2_000;
const PACKS_SHOWN = 60;
const STAGES = ["forward_s", "waiting_s", "preparing_s"];

/** @typedef {import("./main.js").App} App */

/**
 * Show the tab.
 * @param {HTMLElement} root
 * @param {App} app
 * @param {AbortSignal} signal
 */
export function showFleet(root, app, signal) {
  const totals = h("div", { class: "figures" });
  const workers = h("div", { class: "workers" });
  const queues = h("div", { class: "table-holder" });
  const notice = h("div", { class: "notice-holder", "aria-live": "polite" });
  const rate = new LineChart({ title: t("chart.rate"), unit: t("unit.pairs") }, signal);
  const queue = queueChart(signal);
  const batch = batchChart(signal);
  const latency = latencyChart(signal);
  const shown = h(
    "div",
    { class: "fleet-page" },
    totals,
    workers,
    h(
      "div",
      { class: "charts" },
      [rate, queue, batch, latency].map((chart) => chart.element),
    ),
    h("section", { class: "panel" }, h("h2", { class: "panel-title" }, t("queues")), queues),
  );
  const head = h("div", { class: "page-head" }, h("h1", {}, t("tab.fleet")));
  fill(root, h("div", { class: "fleet-page" }, head, notice, shown));
  poll(
    async () => {
      const fleet = await app.fleet.refresh();
      fill(totals, totalFigures(fleet));
      const cards = fleet.workers.map((worker) => workerCard(worker, fleet.steps?.[worker.id]));
      fill(workers, cards.length ? cards : noWorker(app.model()?.id));
      fill(queues, queueTable(fleet.queues));
      rate.show(seriesOf(fleet.history, "pairs_per_s"));
      queue.show(fleet.history);
      batch.show(fleet.limits, fleet.workers);
      latency.show(fleet.packs, fleet.workers);
    },
    POLL_MS,
    signal,
    (error) => {
      shown.hidden = error !== null;
      fill(notice, error && refused(error));
    },
  );
}

function totalFigures({ workers, queues }) {
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const figure = (key, value) =>
    h("div", { class: "figure-box" }, h("span", { class: "hint" }, t(key)), h("strong", {}, value));
  return [
    figure("fleet.workers", format.number(workers.length)),
    figure("fleet.devices", format.number(new Set(workers.map(({ host, device }) => `${host} ${device}`)).size)),
    figure("fleet.rate", `${format.short(sum(workers.map((worker) => worker.pairs_per_s)))} ${t("unit.pairs")}`),
    figure("fleet.queued", format.number(sum(queues.map(({ depth }) => depth)))),
  ];
}

function workerCard(worker, steps = {}) {
  const row = (key, value) => [h("dt", {}, t(key)), h("dd", {}, value)];
  return h(
    "article",
    { class: ["worker", worker.state], "data-worker": worker.id },
    h(
      "header",
      {},
      h("span", { class: ["lamp", worker.state === "ready" ? "good" : "warn"], "aria-hidden": "true" }),
      h("h3", {}, worker.model.split("/").at(-1)),
      h("span", { class: ["chip", "state", worker.state] }, t(`state.${worker.state}`)),
    ),
    h("p", { class: "hint" }, `${worker.host} · pid ${worker.pid} · ${worker.device}`),
    h(
      "dl",
      { class: "details" },
      row("worker.rate", `${format.short(worker.pairs_per_s)} ${t("unit.pairs")}`),
      row(
        "worker.batch",
        `${format.number(worker.batch_tokens)} ${t("unit.tokens")} · ${format.number(worker.batch_pairs)} ${t("pairs")}`,
      ),
      worker.waiting_for && row("worker.storage", worker.waiting_for),
      worker.batch_reason && row("worker.reason", worker.batch_reason),
      row("worker.precision", [worker.dtype, worker.attention].filter(Boolean).join(" · ") || "–"),
      row("worker.latency", packTimes(worker)),
      Object.keys(steps).length > 0 && row("worker.steps", stepTimes(steps)),
      worker.memory_bytes > 0 && row("worker.memory", format.bytes(worker.memory_bytes)),
      worker.ooms > 0 && row("worker.ooms", format.number(worker.ooms)),
      row("worker.shards", `${worker.shards} / ${worker.slots}`),
    ),
    shareLine("worker.busy", worker.busy_share, "busy"),
    shareLine("worker.preparing", worker.preparing_share, "preparing"),
  );
}

/** Median and 95th percentile of the pack latency; the mean if a worker reports nothing else. */
function packTimes({ latency_s: mean, latency_p50_s: median, latency_p95_s: p95 }) {
  if (!median) return format.duration(mean);
  return `p50 ${format.duration(median)} · p95 ${format.duration(p95)}`;
}

/** The mean time of each step, in processing order. */
function stepTimes(steps) {
  return Object.entries(steps)
    .map(([step, seconds]) => `${t(`step.${step}`)} ${format.duration(seconds)}`)
    .join(" · ");
}

function shareLine(key, share, kind) {
  return h(
    "div",
    { class: "share-line" },
    h("span", { class: "hint" }, t(key)),
    h("span", { class: ["bar", kind], vars: { "--share": share }, "aria-hidden": "true" }),
    h("span", { class: "amount" }, format.percent(share)),
  );
}

function queueTable(queues) {
  const waiting = queues.filter(({ depth, priority }) => depth > 0 || priority !== "bulk");
  if (!waiting.length) return h("p", { class: "empty" }, t("queues.none"));
  return h(
    "table",
    {},
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["model", "queue.priority", "queue.depth"].map((key) => h("th", { scope: "col" }, t(key))),
      ),
    ),
    h(
      "tbody",
      {},
      waiting.map(({ model, priority, depth }) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, model.split("/").at(-1)),
          h("td", {}, t(`priority.${priority}`)),
          h("td", { class: "numeric" }, format.number(depth)),
        ),
      ),
    ),
  );
}

// ---- charts that the page of a job shows, too --------------------------------------------------------

function seriesOf(history, field) {
  return [{ name: "", points: history.map((sample) => [sample.at_s, sample[field] ?? 0]) }];
}

/** The queue depth over time. @param {AbortSignal} signal */
export function queueChart(signal) {
  const chart = new LineChart(
    { title: t("chart.queue"), about: t("chart.queue.about"), unit: t("unit.shards") },
    signal,
  );
  return { element: chart.element, show: (history) => chart.show(seriesOf(history, "queue")) };
}

/** The batch size of each worker over time; each change is marked with its reason. @param {AbortSignal} signal */
export function batchChart(signal) {
  const chart = new LineChart(
    { title: t("chart.batch"), about: t("chart.batch.about"), unit: t("unit.tokens"), step: true },
    signal,
  );
  const reasons = h("ul", { class: "reasons" });
  chart.element.append(reasons);
  const show = (limits, workers) => {
    const now = Date.now() / 1000;
    const sized = workers.filter(({ batch_tokens: tokens }) => tokens > 0); // others are still loading
    fill(
      reasons,
      sized.map((worker) => batchReason(worker, sized.length > 1)),
    );
    const rows = sized.map((worker) => ({ worker, steps: limits[worker.id] ?? [] }));
    chart.show(
      rows.map(({ worker, steps }) => ({
        name: deviceName(worker),
        points: batchPoints(worker, steps, now),
      })),
      rows.flatMap(({ steps }, series) =>
        steps.map((step) => ({
          at_s: step.at_s,
          value: step.tokens,
          series,
          label: `${format.number(step.tokens)} ${t("unit.tokens")}: ${step.reason || t("chart.batch.start")}`,
        })),
      ),
    );
  };
  return { element: chart.element, show };
}

/** Why a worker's batch size is what it is. */
function batchReason(worker, named) {
  if (!worker.batch_reason) return null;
  return h("li", {}, named && h("strong", {}, `${deviceName(worker)}: `), worker.batch_reason);
}

function deviceName({ device, pid }) {
  return `${device} · ${pid}`;
}

/** The changes, extended to now; a worker without changes has had the same size all along. */
function batchPoints(worker, steps, now) {
  const last = steps.at(-1)?.tokens ?? worker.batch_tokens;
  const first = steps.length ? [] : [[now - 60, last]];
  return [...first, ...steps.map(({ at_s, tokens }) => [at_s, tokens]), [now, last]];
}

/** How the time of the latest packs was spent. @param {AbortSignal} signal */
export function latencyChart(signal) {
  const chart = new ColumnChart(
    {
      title: t("chart.latency"),
      about: t("chart.latency.about"),
      names: STAGES.map((stage) => t(`stage.${stage}`)),
      ends: [t("chart.latency.earlier"), t("chart.latency.now")],
      show: format.duration,
    },
    signal,
  );
  const show = (packs, workers) => {
    const all = workers
      .flatMap(({ id }) => packs[id] ?? [])
      .sort((a, b) => a.at_s - b.at_s)
      .slice(-PACKS_SHOWN);
    chart.show(
      all.map((pack) => ({ values: STAGES.map((stage) => pack[stage] ?? 0), label: packLabel(pack) })),
      all.length ? counted("chart.latency.packs", all.length) : "",
    );
  };
  return { element: chart.element, show };
}

function packLabel(pack) {
  const stages = STAGES.map((stage) => `${t(`stage.${stage}`)} ${format.duration(pack[stage] ?? 0)}`);
  return [counted("pairs.count", pack.pairs), ...stages].join(" · ");
}
