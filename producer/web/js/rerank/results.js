/** The results of a run: the ranking, what has no score and why, and the export menu. */

import { announce, copyText, fill, focusOn, h, icon, offerFile } from "../dom.js";
import * as format from "../format.js";
import { counted, t } from "../i18n.js";
import { quality } from "./card.js";
import { comparison } from "./compare.js";
import { fileLabel, labelOf, runLabel } from "./labels.js";
import { bar, scorePanel } from "./panel.js";
import { imagesOf } from "./session.js";
import { asCsv, asCurl, asJson, asLine, asPython } from "./export.js";
import { thumbnail } from "./thumbnail.js";

const COPIED_MS = 2_000;

/** @typedef {import("./session.js").Run} Run */
/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./run.js").Runner} Runner */

/**
 * The results section; hidden before the first run.
 * @param {Session} session
 * @param {Runner} runner
 * @param {boolean} keyed whether the gateway requires a key
 * @param {AbortSignal} signal
 */
export function resultsBox(session, runner, keyed, signal) {
  const section = h("section", {
    class: "panel results",
    id: "results",
    tabindex: "-1",
    "aria-labelledby": "results-label",
  });
  const { shown, compared } = session;
  let count = session.runs.now.length;
  /** @type {Set<number>} candidates whose panels are open */
  const open = new Set();
  const show = () => {
    const run = session.runs.now[shown.now - 1];
    section.hidden = !run;
    if (!run) return;
    const other = session.runs.now[compared.now - 1];
    fill(
      section,
      toolbar(session, run, shown, compared, keyed),
      other ? comparison(other, run) : ranking(session, run, session.runs.now[shown.now - 2], open),
      unscoredSection(run, "rejected", (index) => runner.again(run, index, true)),
      unscoredSection(run, "errors", (index) => runner.again(run, index, false)),
    );
  };
  session.runs.listen((runs) => {
    show();
    if (runs.length > count) section.scrollIntoView({ block: "start" });
    count = runs.length;
  }, signal);
  session.view.listen(show, signal);
  shown.listen(show, signal);
  compared.watch(show, signal);
  return section;
}

// ---- the toolbar --------------------------------------------------------------------------------

function toolbar(session, run, shown, compared, keyed) {
  return h(
    "div",
    { class: "panel-head" },
    h("h2", { class: "panel-title", id: "results-label" }, t("results")),
    h("span", { class: "count" }, counted("results.count", run.answer.results.length)),
    h("div", { class: "tools" }, viewSwitch(session), runChoice(session, shown, compared), exportMenu(run, keyed)),
  );
}

function viewSwitch(session) {
  return h(
    "div",
    { class: "segments icons", role: "group", "aria-label": t("view") },
    ["list", "grid"].map((name) =>
      h(
        "button",
        {
          type: "button",
          id: `view-${name}`,
          "aria-pressed": String(session.view.now === name),
          title: t(`view.${name}`),
          "aria-label": t(`view.${name}`),
          onclick: () => session.view.set(name),
        },
        icon(name),
      ),
    ),
  );
}

function runChoice(session, shown, compared) {
  const runs = session.runs.now;
  if (runs.length < 2) return null;
  const choice = (id, label, value, extra = []) =>
    h(
      "select",
      { id, "aria-label": label, onchange: (event) => value.set(Number(event.target.value)) },
      extra,
      runs.map((run) => h("option", { value: run.number, selected: run.number === value.now }, runLabel(run))),
    );
  return [
    choice("run", t("run.shown"), shown),
    choice("compare", t("run.compare"), compared, [h("option", { value: 0 }, t("run.compare.none"))]),
  ];
}

function exportMenu(run, keyed) {
  const copy = (make) => async () => {
    await copyText(make(run, keyed));
    announce(t("announce.copied"));
    fill(label, t("copied"));
    setTimeout(() => fill(label, t("export")), COPIED_MS);
  };
  const save = (name, type, make) => () => offerFile(`rerank-${run.number}.${name}`, type, make(run));
  /** @type {[string, string, () => void][]} */
  const items = [
    ["copy", "copy.curl", copy(asCurl)],
    ["copy", "copy.python", copy(asPython)],
    ["copy", "copy.line", copy(asLine)],
    ["download", "export.json", save("json", "application/json", asJson)],
    ["download", "export.csv", save("csv", "text/csv", asCsv)],
  ];
  const label = h("span", {}, t("export"));
  const hasImages = [...run.queryImages, ...run.candidates.flatMap(imagesOf)].length > 0;
  const menu = h(
    "details",
    {
      class: "menu",
      onkeydown: (event) => event.key === "Escape" && (menu.open = false),
      onfocusout: (event) => !menu.contains(event.relatedTarget) && (menu.open = false),
    },
    h("summary", { class: "button", id: "export" }, icon("copy"), label),
    h(
      "div",
      { class: "menu-items" },
      items.map(([kind, key, act]) =>
        h(
          "button",
          {
            type: "button",
            "data-action": key,
            onclick: () => {
              act();
              menu.open = false;
            },
          },
          icon(kind),
          h("span", {}, t(key), key === "copy.line" && h("span", { class: "hint" }, t("copy.line.about"))),
        ),
      ),
      hasImages && h("p", { class: "hint" }, t("export.uploads")),
    ),
  );
  return menu;
}

// ---- the ranking --------------------------------------------------------------------------------

function ranking(session, run, previous, open) {
  const before = new Map(
    previous?.answer.results.map((result, at) => [previous.candidates[result.index].id, at + 1]) ?? [],
  );
  if (!run.answer.results.length) return h("p", { class: "empty" }, t("results.none"));
  return h(
    "ol",
    { class: ["ranking", `as-${session.view.now}`] },
    run.answer.results.map((result, at) => resultItem(run, result, at + 1, previous && before, open)),
  );
}

function headId(candidate) {
  return `head-${candidate.id}`;
}

function resultItem(run, result, rank, before, open) {
  const candidate = run.candidates[result.index];
  const id = `panel-${candidate.id}`;
  const panel = h("div", { id, class: "result-panel", hidden: true });
  const head = h(
    "button",
    {
      type: "button",
      id: headId(candidate),
      class: "result-head",
      "aria-expanded": "false",
      "aria-controls": id,
      onclick: () => toggle(panel.hidden),
    },
    h("span", { class: "rank" }, rank, before && rankChange(before.get(candidate.id), rank)),
    thumbnail(imagesOf(candidate)),
    h(
      "span",
      { class: "name" },
      labelOf(candidate),
      result.anyway && h("span", { class: "chip warn" }, t("anyway.done")),
      candidate.text.trim() && fileLabel(candidate) && h("span", { class: "hint" }, fileLabel(candidate)),
    ),
    bar(result.relevance_score),
    h("span", { class: "score" }, format.score(result.relevance_score)),
    icon("down"),
  );
  const item = h("li", { class: "result", "data-id": candidate.id }, head, panel);
  const toggle = (opened) => {
    head.setAttribute("aria-expanded", String(opened));
    panel.hidden = !opened;
    item.classList.toggle("open", opened);
    if (opened) fill(panel, scorePanel(run, result));
    if (opened) open.add(candidate.id);
    else open.delete(candidate.id);
  };
  if (open.has(candidate.id)) toggle(true);
  return item;
}

/** How a rank changed since the previous run. */
function rankChange(before, now) {
  if (before === undefined) return h("span", { class: "change new" }, t("rank.new"));
  const up = before - now;
  const label = t(up === 0 ? "rank.same" : up > 0 ? "rank.up" : "rank.down", { n: Math.abs(up) });
  const sign = up === 0 ? "=" : up > 0 ? `▲${up}` : `▼${-up}`;
  return h("span", { class: ["change", up > 0 && "up", up < 0 && "down"], title: label, "aria-label": label }, sign);
}

// ---- what has no score --------------------------------------------------------------------------

function unscoredSection(run, kind, again) {
  const entries = entriesOf(run, kind);
  if (!entries.length) return null;
  const count = entries.some(isOfQuery) ? run.candidates.length : entries.length;
  return h(
    "section",
    { class: ["unscored", kind], "aria-label": t(kind) },
    h("h3", {}, icon("warning"), counted(`${kind}.count`, count)),
    h(
      "ul",
      {},
      entries.map((entry) => unscoredItem(run, kind, entry, again)),
    ),
  );
}

/** What has no score. If all failed with one message and the query has images, the query is to blame. */
function entriesOf(run, kind) {
  const entries = run.answer[kind];
  const same = entries.length > 1 && entries.every(({ message }) => message === entries[0].message);
  const ofQuery = same && entries.length === run.candidates.length && run.queryImages.length > 0;
  return ofQuery ? [{ ...entries[0], index: null }] : entries;
}

/** Whether an entry is about the query, and so about all candidates. */
function isOfQuery({ index }) {
  return typeof index !== "number";
}

function unscoredItem(run, kind, entry, again) {
  const ofQuery = isOfQuery(entry);
  const candidate = run.candidates[entry.index];
  const images = ofQuery ? run.queryImages : imagesOf(candidate);
  const button = h(
    "button",
    {
      type: "button",
      id: `again-${kind}-${entry.index}`,
      class: ["button", "again"],
      onclick: async () => {
        if (button.ariaBusy) return; // a disabled button would lose the focus
        button.ariaBusy = "true";
        await again(ofQuery ? null : entry.index).catch((error) => fill(message, error.message));
        button.ariaBusy = null;
        if (!button.isConnected && candidate) focusOn(headId(candidate)); // its result
      },
    },
    t(kind === "rejected" ? "anyway" : "again"),
  );
  const facts = images.flatMap((image) => [...image.facts.values()].at(-1) ?? []);
  const value = entry.quality ?? (facts.length ? Math.min(...facts.map((fact) => fact.quality)) : null);
  const poor = entry.code.startsWith("low_quality") && typeof value === "number" && value < run.settings.threshold;
  const text = poor
    ? t("quality.below", { value: value.toFixed(2), threshold: run.settings.threshold.toFixed(2) })
    : entry.message;
  const hint = poor ? t("quality.hint") : entry.hint;
  const message = h("p", { class: "message" }, text);
  return h(
    "li",
    { "data-id": candidate?.id },
    thumbnail(images),
    h(
      "div",
      { class: "why" },
      h("p", { class: "name" }, ofQuery ? t("query.itself") : labelOf(candidate)),
      message,
      hint && h("p", { class: "hint" }, hint),
      poor && quality(value, run.settings.threshold),
    ),
    button,
  );
}
