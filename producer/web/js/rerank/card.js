/** A picture with what there is to know of it: as it is, and as the model will see it. */

import { h, fill, icon } from "../dom.js";
import * as format from "../format.js";
import { counted, t } from "../i18n.js";
import { imageOf } from "./thumbnail.js";

/** @typedef {import("./session.js").Picture} Picture */
/** @typedef {import("./session.js").Session} Session */

/**
 * The picture with its crop overlay and its facts, kept up to date.
 * @param {Session} session
 * @param {Picture} picture
 * @param {AbortSignal} signal
 * @returns {HTMLElement}
 */
export function pictureFigure(session, picture, signal) {
  const overlay = h("div", { class: "crop", "aria-hidden": "true" });
  const facts = h("div", { class: "facts" });
  const image = imageOf(picture.file, { alt: picture.file.name });
  const frame = h("div", { class: "frame", vars: { "--w": picture.width, "--h": picture.height } }, image, overlay);
  const show = () => {
    drawCrop(overlay, session, picture);
    fill(facts, factLines(session, picture));
  };
  picture.touched.listen(show, signal);
  session.queryPictures.listen(show, signal);
  session.settings.watch(show, signal);
  return h("div", { class: "figure" }, h("div", { class: "stage" }, frame), facts);
}

/** Shade what is cut away: four bands around the box that is kept. */
function drawCrop(overlay, session, picture) {
  const { box, cropped } = session.plan(picture);
  overlay.hidden = cropped === 0;
  const [left, top, right, bottom] = box;
  const share = (value, whole) => `${(100 * value) / whole}%`;
  overlay.style.setProperty("--left", share(left, picture.width));
  overlay.style.setProperty("--top", share(top, picture.height));
  overlay.style.setProperty("--right", share(picture.width - right, picture.width));
  overlay.style.setProperty("--bottom", share(picture.height - bottom, picture.height));
  overlay.dataset.cropped = cropped.toFixed(4);
}

function factLines(session, picture) {
  const { width, height, file } = picture;
  const facts = session.facts(picture);
  const plan = facts ?? session.plan(picture);
  return [
    h(
      "p",
      { class: "measures" },
      `${format.size([width, height])} · ${format.aspect(width, height)} · ${format.bytes(file.size)}`,
    ),
    h("p", { class: "seen", title: t("picture.seen.about") }, t("picture.seen", { size: format.size(plan.used) })),
    h(
      "p",
      { class: "seen" },
      counted("tokens", plan.tokens),
      plan.cropped > 0 && h("span", { class: "cut" }, t("picture.cropped", { share: format.percent(plan.cropped) })),
    ),
    h("p", { class: "quality-line" }, qualityChip(session, picture)),
  ];
}

/** A picture's quality, or why it is not known yet. @param {Session} session @param {Picture} picture */
export function qualityChip(session, picture) {
  const facts = session.facts(picture);
  const error = session.error(picture);
  if (error) return h("span", { class: "chip bad" }, icon("warning"), error);
  if (facts) return quality(facts.quality, session.settings.now.threshold);
  if (!picture.uri) return h("span", { class: "chip" }, t("picture.sent", { share: format.percent(picture.sent) }));
  return h("span", { class: "chip waiting" }, t("picture.examining"));
}

/**
 * A meter of quality; marked when below the threshold.
 * @param {number} value
 * @param {number} threshold
 */
export function quality(value, threshold) {
  const poor = value < threshold;
  const label = t(poor ? "quality.below" : "quality.is", { value: value.toFixed(2), threshold: threshold.toFixed(2) });
  return h(
    "span",
    { class: ["chip", "quality", poor && "poor"], title: label },
    h("span", { class: "meter", vars: { "--share": value }, "aria-hidden": "true" }),
    h("span", {}, t("quality.short", { value: value.toFixed(2) })),
    poor && h("span", { class: "verdict" }, t("quality.poor")),
  );
}
