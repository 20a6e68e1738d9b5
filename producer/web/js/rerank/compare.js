/** Two runs side by side, with a line between the two ranks of each candidate. */

import { h, s } from "../dom.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { labelOf, runLabel } from "./labels.js";
import { imagesOf } from "./session.js";
import { thumbnail } from "./thumbnail.js";

const ROW_PX = 44;

/**
 * The comparison of two runs.
 * @param {import("./session.js").Run} before
 * @param {import("./session.js").Run} after
 */
export function comparison(before, after) {
  const left = ranks(before);
  const right = ranks(after);
  const rows = Math.max(left.size, right.size);
  return h(
    "div",
    { class: "compare" },
    column(before, right),
    s(
      "svg",
      {
        class: "links",
        viewBox: `0 0 100 ${rows * ROW_PX}`,
        preserveAspectRatio: "none",
        "aria-hidden": "true",
        height: rows * ROW_PX,
      },
      [...left].filter(([id]) => right.has(id)).map(([id, rank]) => link(rank, right.get(id))),
    ),
    column(after, left),
  );
}

/** Each candidate's rank, counted from 1, by its id. */
function ranks(run) {
  return new Map(run.answer.results.map((result, at) => [run.candidates[result.index].id, at + 1]));
}

function link(from, to) {
  const y = (rank) => (rank - 0.5) * ROW_PX;
  const kind = from === to ? "same" : from > to ? "up" : "down";
  return s("path", {
    class: kind,
    d: `M0 ${y(from)} C50 ${y(from)} 50 ${y(to)} 100 ${y(to)}`,
    "vector-effect": "non-scaling-stroke",
  });
}

function column(run, others) {
  return h(
    "div",
    { class: "column" },
    h("h3", {}, runLabel(run)),
    h(
      "ol",
      {},
      run.answer.results.map((result, at) => {
        const candidate = run.candidates[result.index];
        const other = others.get(candidate.id);
        return h(
          "li",
          { title: other ? t("compare.other", { rank: other }) : t("compare.absent") },
          h("span", { class: "rank" }, at + 1),
          thumbnail(imagesOf(candidate)),
          h("span", { class: "name" }, labelOf(candidate)),
          h("span", { class: "score" }, format.score(result.relevance_score)),
        );
      }),
    ),
  );
}
