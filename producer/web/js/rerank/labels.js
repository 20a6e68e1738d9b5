/** Short names of candidates and runs, as lists and menus show them. */

import { counted, t } from "../i18n.js";
import { imagesOf } from "./session.js";

const QUERY_LETTERS = 24; // of the query, in a run's label

/** @typedef {import("./session.js").Candidate} Candidate */
/** @typedef {import("./session.js").Run} Run */

/** A candidate's text, else the name of its file. @param {Candidate} candidate */
export function labelOf(candidate) {
  return candidate.text.trim() || fileLabel(candidate);
}

/** A candidate's file name; for a video, the first frame's, and how many there are. @param {Candidate} candidate */
export function fileLabel(candidate) {
  const [first, ...others] = imagesOf(candidate);
  if (!first) return "";
  return others.length ? `${first.file.name} · ${counted("frames.count", others.length + 1)}` : first.file.name;
}

/** A run's number, the start of its query, and its main settings. @param {Run} run */
export function runLabel({ number, query, settings }) {
  const short = query.length > QUERY_LETTERS ? `${query.slice(0, QUERY_LETTERS).trim()}…` : query;
  const parts = [t(`preset.${settings.preset}`), t(`mode.${settings.mode}`), `T ${settings.temperature.toFixed(1)}`];
  return [t("run", { n: number }), short, ...parts].join(" · ");
}
