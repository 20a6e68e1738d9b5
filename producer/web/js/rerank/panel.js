/** The details of one score: its sub-scores, what the model got, and its provenance. */

import { h } from "../dom.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { quality } from "./card.js";

const PARTS = ["visual_match", "text_alignment", "cross_modal_consistency"];

/**
 * The panel of a result.
 * @param {import("./session.js").Run} run
 * @param {any} result
 */
export function scorePanel(run, result) {
  return h(
    "div",
    { class: "score-panel" },
    h(
      "div",
      { class: "parts" },
      part("overall", result.relevance_score),
      PARTS.map((name) => part(name, result.explain?.[name] ?? null, !result.explain)),
    ),
    h("dl", { class: "details" }, detailRows(run, result)),
    h("dl", { class: "details provenance" }, provenanceRows(run)),
  );
}

function part(name, value, notRequested = false) {
  const missing = t(notRequested ? "part.not_requested" : `${name}.missing`);
  const known = value !== null;
  return h(
    "div",
    { class: ["part", name], title: t(`${name}.about`) },
    h("span", { class: "part-name" }, t(name)),
    known ? bar(value) : h("span", { class: "hint" }, missing),
    h("span", { class: "part-value" }, known ? format.score(value) : t("na")),
  );
}

/**
 * A score as a bar.
 * @param {number} value 0..1
 */
export function bar(value) {
  return h("span", { class: "bar", vars: { "--share": value }, "aria-hidden": "true" });
}

function detailRows(run, result) {
  const [image] = result.images ?? [];
  return [
    row("margin", format.number(result.margin, 3)),
    image && row("detail.original", result.images.map(({ original }) => format.size(original)).join(", ")),
    image && row("detail.used", result.images.map(({ used }) => format.size(used)).join(", ")),
    image && row("detail.cropped", result.images.map(({ cropped }) => format.percent(cropped)).join(", ")),
    image && row("detail.tokens", result.images.map(({ tokens }) => format.number(tokens)).join(", ")),
    typeof result.quality === "number" && row("detail.quality", quality(result.quality, run.settings.threshold)),
    typeof result.plain_margin === "number" && row("detail.plain_margin", format.number(result.plain_margin, 3)),
    result.truncated_tokens > 0 && row("detail.truncated", format.number(result.truncated_tokens)),
  ]
    .filter(Boolean)
    .flat();
}

function provenanceRows({ answer }) {
  const rows = Object.entries(answer.provenance ?? {}).filter(([, value]) => value);
  const seconds = answer.timings?.total_s;
  return [
    ...rows.flatMap(([name, value]) => row(`provenance.${name}`, String(value))),
    ...(seconds ? row("detail.time", format.duration(seconds)) : []),
  ];
}

function row(name, value) {
  return [h("dt", {}, t(name)), h("dd", {}, value)];
}
