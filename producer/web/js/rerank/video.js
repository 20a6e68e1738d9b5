/** A candidate that is a video: its frames in order, how fast they follow each other, what the model sees. */

import { fill, h, icon } from "../dom.js";
import * as format from "../format.js";
import { counted, t } from "../i18n.js";
import { quality, qualityChip } from "./card.js";
import { imageOf } from "./thumbnail.js";

const FPS = 2; // what the authors assume where nobody says

/** @typedef {import("./session.js").Candidate} Candidate */
/** @typedef {import("./session.js").Session} Session */

/**
 * The frames of a candidate with their facts. A frame can be taken out; without any the candidate goes.
 * @param {Session} session
 * @param {Candidate} candidate
 * @param {AbortSignal} signal
 */
export function videoFigure(session, candidate, signal) {
  const { frames, fps } = candidate.video;
  const facts = h("div", { class: "facts" });
  const show = () => fill(facts, factLines(session, candidate.video));
  const pace = (value) => {
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
    fpsField(`fps-${candidate.id}`, fps, pace),
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
    imageOf(frame.file, { alt: frame.file.name, title: frame.file.name }),
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
    // of a long video not every frame is read, so some stay unknown
    const news = frames.find((frame) => session.error(frame) || !frame.uri) ?? first;
    return [...lines, h("p", { class: "quality-line" }, qualityChip(session, news))];
  }
  const tokens = known.reduce((total, facts) => total + facts.tokens, 0);
  const worst = Math.min(...known.map((facts) => facts.quality));
  return [
    ...lines,
    h(
      "p",
      { class: "seen", title: t("picture.seen.about") },
      `${t("picture.seen", { size: format.size(known[0].used) })} · ${counted("tokens", tokens)}`,
    ),
    known.length < frames.length &&
      h("p", { class: "seen" }, t("frames.read", { n: known.length, all: frames.length })),
    h("p", { class: "quality-line" }, quality(worst, session.settings.now.threshold)),
  ];
}

/**
 * A field of how many frames stand for a second.
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
