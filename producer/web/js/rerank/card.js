/** An image with its facts: the original, and what the model gets after resizing. */

import { h, fill, icon } from "../dom.js";
import * as format from "../format.js";
import { counted, t } from "../i18n.js";
import { lazyImage } from "./thumbnail.js";

/** @typedef {import("./session.js").ImageFile} ImageFile */
/** @typedef {import("./session.js").Session} Session */

/**
 * An image with its crop overlay and its facts, kept up to date.
 * @param {Session} session
 * @param {ImageFile} image
 * @param {AbortSignal} signal
 * @returns {HTMLElement}
 */
export function imageFigure(session, image, signal) {
  const overlay = h("div", { class: "crop", "aria-hidden": "true" });
  const facts = h("div", { class: "facts" });
  const shape = { "--w": image.width, "--h": image.height };
  const frame = h("div", { class: "frame", vars: shape }, lazyImage(image.file, { alt: image.file.name }), overlay);
  const show = () => {
    drawCrop(overlay, session, image);
    fill(facts, factLines(session, image));
  };
  image.touched.listen(show, signal);
  session.queryImages.listen(show, signal);
  session.settings.watch(show, signal);
  return h("div", { class: "figure" }, h("div", { class: "stage" }, frame), facts);
}

/** Shade what is cropped: the four bands around the box that is kept. */
function drawCrop(overlay, session, image) {
  const { box, cropped } = session.plan(image);
  overlay.hidden = cropped === 0;
  const [left, top, right, bottom] = box;
  const share = (value, whole) => `${(100 * value) / whole}%`;
  overlay.style.setProperty("--left", share(left, image.width));
  overlay.style.setProperty("--top", share(top, image.height));
  overlay.style.setProperty("--right", share(image.width - right, image.width));
  overlay.style.setProperty("--bottom", share(image.height - bottom, image.height));
  overlay.dataset.cropped = cropped.toFixed(4);
}

function factLines(session, image) {
  const { width, height, file } = image;
  const facts = session.facts(image);
  const plan = facts ?? session.plan(image);
  return [
    h(
      "p",
      { class: "measures" },
      `${format.size([width, height])} · ${format.aspect(width, height)} · ${format.bytes(file.size)}`,
    ),
    h("p", { class: "input-size", title: t("image.input.about") }, t("image.input", { size: format.size(plan.used) })),
    h(
      "p",
      { class: "input-size" },
      counted("tokens", plan.tokens),
      plan.cropped > 0 && h("span", { class: "cut" }, t("image.cropped", { share: format.percent(plan.cropped) })),
    ),
    h("p", { class: "quality-line" }, qualityChip(session, image)),
  ];
}

/** An image's quality, or why it is not known. @param {Session} session @param {ImageFile} image */
export function qualityChip(session, image) {
  const facts = session.facts(image);
  const error = session.error(image);
  if (error) return h("span", { class: "chip bad" }, icon("warning"), error);
  if (facts) return quality(facts.quality, session.settings.now.threshold);
  if (!image.uri) return h("span", { class: "chip" }, t("image.sent", { share: format.percent(image.sent) }));
  return h("span", { class: "chip" }, t("image.assessing"));
}

/**
 * A quality meter, marked when the value is below the threshold.
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
