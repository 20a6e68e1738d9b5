/** The instruction and the query. */

import { announce, fill, h, icon } from "../dom.js";
import { counted, t } from "../i18n.js";
import { imageFigure } from "./card.js";
import { acceptDrops, browseButton, inFrameOrder, sortFiles, unreadableLines } from "./drop.js";
import { fpsField } from "./video.js";

/** @type {import("./session.js").QueryKind[]} */
const KINDS = ["text", "image", "both", "video"];

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./images.js").Intake} Intake */

/**
 * The instruction with its presets.
 * @param {Session} session
 * @param {AbortSignal} signal
 */
export function instructionBox(session, signal) {
  const field = h("textarea", {
    id: "instruction",
    rows: 2,
    value: session.instruction.now,
    placeholder: session.offers.defaults.instruction ?? t("instruction.default"),
    "aria-describedby": "instruction-hint",
    oninput: () => session.instruction.set(field.value),
  });
  session.instruction.listen((text) => field.value !== text && (field.value = text), signal);
  const presets = h(
    "select",
    {
      id: "instruction-preset",
      "aria-label": t("instruction.presets"),
      onchange: () => {
        usePreset(session, presets.value);
        presets.value = "";
      },
    },
    h("option", { value: "" }, t("instruction.presets")),
    optionGroup("instruction", session.offers.instructions),
    optionGroup("profiles", session.offers.profiles),
  );
  return h(
    "section",
    { class: "panel", "aria-labelledby": "instruction-label" },
    h(
      "div",
      { class: "panel-head" },
      h("label", { id: "instruction-label", class: "panel-title", for: "instruction" }, t("instruction")),
      presets,
    ),
    field,
    h("p", { class: "hint", id: "instruction-hint" }, t("instruction.hint")),
  );
}

function optionGroup(kind, offers) {
  if (!offers.length) return null;
  return h(
    "optgroup",
    { label: t(kind) },
    offers.map(({ name, about }) =>
      h("option", { value: `${kind}/${name}`, title: about }, name.replaceAll(/[-_]/g, " ")),
    ),
  );
}

/** Apply an offered instruction, or a profile: instruction, temperature and image size together. */
function usePreset(session, choice) {
  const instruction = session.offers.instructions.find(({ name }) => choice === `instruction/${name}`);
  const profile = session.offers.profiles.find(({ name }) => choice === `profiles/${name}`);
  if (instruction) session.instruction.set(instruction.text);
  if (!profile) return;
  session.instruction.set(profile.instruction ?? "");
  session.configure({ preset: profile.image_preset, temperature: profile.temperature });
}

/**
 * The query: text, an image, both, or the frames of a video.
 * @param {Session} session
 * @param {Intake} intake
 * @param {AbortSignal} signal
 */
export function queryBox(session, intake, signal) {
  const body = h("div", { class: "query-body" });
  const message = h("p", { class: "unreadable" });
  const kinds = h(
    "div",
    { class: "segments", role: "radiogroup", "aria-label": t("query.kind") },
    KINDS.map((kind) =>
      h(
        "label",
        {},
        h("input", {
          type: "radio",
          name: "query-kind",
          value: kind,
          class: "visually-hidden",
          onchange: () => session.queryKind.set(kind),
        }),
        h("span", {}, t(`query.${kind}`)),
      ),
    ),
  );
  const section = h(
    "section",
    { class: "panel query", id: "query", tabindex: "-1", "aria-labelledby": "query-label" },
    h("div", { class: "panel-head" }, h("h2", { class: "panel-title", id: "query-label" }, t("query"))),
    kinds,
    body,
    message,
  );
  session.queryMessage.watch((text) => fill(message, text), signal);
  session.queryKind.watch((kind) => {
    for (const input of kinds.querySelectorAll("input")) input.checked = input.value === kind;
    fill(
      body,
      kind !== "text" && imageInput(session, intake, kind, signal),
      (kind === "text" || kind === "both") && textInput(session, signal),
    );
  }, signal);
  acceptDrops(section, (incoming) => addToQuery(session, intake, incoming), signal);
  return section;
}

function textInput(session, signal) {
  const field = h("textarea", {
    id: "query-text",
    rows: 2,
    "aria-label": t("query.text"),
    placeholder: t("query.placeholder"),
    value: session.queryText.now,
    oninput: () => session.queryText.set(field.value),
  });
  session.queryText.listen((text) => field.value !== text && (field.value = text), signal);
  return field;
}

function imageInput(session, intake, kind, signal) {
  const isVideo = kind === "video";
  const holder = h("div", { class: isVideo ? "frames" : "query-image" });
  const browse = browseButton(
    t(isVideo ? "query.add.frames" : "query.add.image"),
    { multiple: isVideo, id: "query-files" },
    async (files) => addToQuery(session, intake, await sortFiles(files)),
  );
  session.queryImages.watch((images) => {
    const shown = isVideo ? images : images.slice(0, 1);
    fill(
      holder,
      shown.map((image, at) => queryImage(session, image, isVideo ? at + 1 : 0, signal)),
    );
  }, signal);
  return h(
    "div",
    { class: "query-images" },
    holder,
    h(
      "div",
      { class: "drop small" },
      icon("image"),
      h("span", {}, t(isVideo ? "query.drop.frames" : "query.drop.image")),
      browse,
    ),
    isVideo && fpsField("query-fps", session.queryFps.now, (fps) => session.queryFps.set(fps)),
  );
}

function queryImage(session, image, position, signal) {
  const label = t("remove.image", { name: image.file.name });
  return h(
    "div",
    { class: "image-card" },
    position > 0 && h("span", { class: "position" }, position),
    imageFigure(session, image, signal),
    h(
      "div",
      { class: "card-tools" },
      h(
        "button",
        {
          type: "button",
          class: "tool",
          "aria-label": label,
          title: label,
          onclick: () => session.queryImages.set(session.queryImages.now.filter((other) => other !== image)),
        },
        icon("remove"),
      ),
    ),
  );
}

/**
 * Use what was dropped, pasted or chosen as the query. Adding an image to a text query makes it image and text.
 * @param {Session} session
 * @param {Intake} intake
 * @param {import("./drop.js").Incoming} incoming
 */
export async function addToQuery(session, intake, { images, lines, unknown }) {
  if (lines.length) session.queryText.set(lines.join(" "));
  const isVideo = session.queryKind.now === "video";
  const ordered = isVideo ? inFrameOrder(images) : images.slice(0, 1);
  const settled = await Promise.allSettled(ordered.map(({ file }) => intake.add(file)));
  const added = settled.filter((result) => result.status === "fulfilled").map((result) => result.value);
  const failed = ordered.filter((_, at) => settled[at].status === "rejected").map(({ file }) => file);
  const messages = unreadableLines([...unknown, ...failed]);
  if (images.length > ordered.length) messages.push(t("query.first", { name: ordered[0].file.name }));
  session.queryMessage.set(messages.join(" "));
  if (added.length) session.queryImages.set(isVideo ? [...session.queryImages.now, ...added] : added);
  if (added.length && session.queryKind.now === "text")
    session.queryKind.set(session.queryText.now.trim() ? "both" : "image");
  announce([added.length && counted("announce.images", added.length), ...messages].filter(Boolean).join(" "));
}
