/** A candidate that is a video: its frames in order, its frame rate, and what the model gets. */

import { fill, h, icon } from "../dom.js";
import * as format from "../format.js";
import { counted, t } from "../i18n.js";
import { quality, qualityChip } from "./card.js";
import { lazyImage } from "./thumbnail.js";

const FPS = 2; // the model authors' default

/** @typedef {import("./session.js").Candidate} Candidate */
/** @typedef {import("./session.js").Session} Session */

/**
 * The frames of a candidate with their facts. Frames can be removed; removing the last one removes the candidate.
 * @param {Session} session
 * @param {Candidate} candidate
 * @param {AbortSignal} signal
 */
export function videoFigure(session, candidate, signal) {
  const { frames, fps } = candidate.video;
  const facts = h("div", { class: "facts" });
  const show = () => fill(facts, factLines(session, candidate.video));
  const setFps = (value) => {
    candidate.video = { frames, fps: value };
    show();
    session.candidates.change((all) => [...all]);
  };
  for (const frame of frames) frame.touched.listen(show, signal);
  session.settings.watch(show, signal);
  return h(
    "div",
    { class: "figure" },
    h(
      "ol",
      { class: "filmstrip", "aria-label": t("video.frames") },
      frames.map((frame, at) => frameItem(session, candidate, frame, at)),
    ),
    facts,
    fpsField(`fps-${candidate.id}`, fps, setFps),
  );
}

function frameItem(session, candidate, frame, at) {
  const label = t("remove.frame", { n: at + 1, name: frame.file.name });
  const remove = () => {
    const { frames, fps } = candidate.video;
    const rest = frames.filter((other) => other !== frame);
    if (rest.length) session.replace(candidate.id, { video: { frames: rest, fps } });
    else session.remove(candidate.id);
  };
  return h(
    "li",
    { class: "frame-item" },
    lazyImage(frame.file, { alt: frame.file.name, title: frame.file.name }),
    h("span", { class: "frame-number", "aria-hidden": "true" }, at + 1),
    h("button", { type: "button", class: "tool", "aria-label": label, title: label, onclick: remove }, icon("remove")),
  );
}

function factLines(session, { frames, fps }) {
  const [first] = frames;
  const known = frames.map((frame) => session.facts(frame)).filter((facts) => facts !== null);
  const bytes = frames.reduce((total, { file }) => total + file.size, 0);
  const lines = [
    h(
      "p",
      { class: "measures" },
      [
        counted("frames.count", frames.length),
        format.size([first.width, first.height]),
        format.aspect(first.width, first.height),
        format.bytes(bytes),
        format.duration(frames.length / (fps ?? FPS)),
      ].join(" · "),
    ),
  ];
  if (!known.length) {
    // the worker samples long videos, so the facts of some frames stay unknown
    const pending = frames.find((frame) => session.error(frame) || !frame.uri) ?? first;
    return [...lines, h("p", { class: "quality-line" }, qualityChip(session, pending))];
  }
  const tokens = known.reduce((total, facts) => total + facts.tokens, 0);
  const worst = Math.min(...known.map((facts) => facts.quality));
  return [
    ...lines,
    h(
      "p",
      { class: "input-size", title: t("image.input.about") },
      `${t("image.input", { size: format.size(known[0].used) })} · ${counted("tokens", tokens)}`,
    ),
    known.length < frames.length &&
      h("p", { class: "input-size" }, t("frames.used", { n: known.length, all: frames.length })),
    h("p", { class: "quality-line" }, quality(worst, session.settings.now.threshold)),
  ];
}

/**
 * The field for the frame rate.
 * @param {string} id
 * @param {number | null} fps
 * @param {(fps: number | null) => void} change
 */
export function fpsField(id, fps, change) {
  const input = h("input", {
    type: "number",
    id,
    class: "fps",
    min: 0.1,
    step: "any",
    inputmode: "decimal",
    placeholder: FPS,
    value: fps ?? "",
    onchange: () => change(Number(input.value) > 0 ? Number(input.value) : null),
  });
  return h("label", { class: "fps-field", for: id, title: t("video.fps.about") }, t("video.fps"), input);
}
