/** The left side: instruction and query. */

import { announce, fill, h, icon } from "../dom.js";
import { counted, t } from "../i18n.js";
import { pictureFigure } from "./card.js";
import { acceptDrops, browseButton, inFrameOrder, sortFiles, unreadableLines } from "./drop.js";
import { fpsField } from "./video.js";

/** @type {import("./session.js").QueryKind[]} */
const KINDS = ["text", "image", "both", "video"];

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./pictures.js").Intake} Intake */

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

/** An instruction of those offered, or a profile: instruction, temperature and size of pictures together. */
function usePreset(session, chosen) {
  const instruction = session.offers.instructions.find(({ name }) => chosen === `instruction/${name}`);
  const profile = session.offers.profiles.find(({ name }) => chosen === `profiles/${name}`);
  if (instruction) session.instruction.set(instruction.text);
  if (!profile) return;
  session.instruction.set(profile.instruction ?? "");
  session.configure({ preset: profile.image_preset, temperature: profile.temperature });
}

/**
 * The query: text, a picture, both, or the frames of a video.
 * @param {Session} session
 * @param {Intake} intake
 * @param {AbortSignal} signal
 */
export function queryBox(session, intake, signal) {
  const body = h("div", { class: "query-body" });
  const said = h("p", { class: "unreadable" });
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
          class: "unseen",
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
    said,
  );
  session.querySaid.watch((text) => fill(said, text), signal);
  session.queryKind.watch((kind) => {
    for (const input of kinds.querySelectorAll("input")) input.checked = input.value === kind;
    fill(
      body,
      kind !== "text" && pictureInput(session, intake, kind, signal),
      (kind === "text" || kind === "both") && textInput(session, signal),
    );
  }, signal);
  acceptDrops(section, (brought) => takeQuery(session, intake, brought), signal);
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

function pictureInput(session, intake, kind, signal) {
  const film = kind === "video";
  const holder = h("div", { class: film ? "frames" : "query-picture" });
  const browse = browseButton(
    t(film ? "query.add.frames" : "query.add.picture"),
    { multiple: film, id: "query-files" },
    async (files) => takeQuery(session, intake, await sortFiles(files)),
  );
  session.queryPictures.watch((pictures) => {
    const shown = film ? pictures : pictures.slice(0, 1);
    fill(
      holder,
      shown.map((picture, at) => queryPicture(session, picture, film ? at + 1 : 0, signal)),
    );
  }, signal);
  return h(
    "div",
    { class: "query-pictures" },
    holder,
    h(
      "div",
      { class: "drop small" },
      icon("picture"),
      h("span", {}, t(film ? "query.drop.frames" : "query.drop.picture")),
      browse,
    ),
    film && fpsField("query-fps", session.queryFps.now, (fps) => session.queryFps.set(fps)),
  );
}

function queryPicture(session, picture, position, signal) {
  const label = t("remove.picture", { name: picture.file.name });
  return h(
    "div",
    { class: "picture-card" },
    position > 0 && h("span", { class: "position" }, position),
    pictureFigure(session, picture, signal),
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
          onclick: () => session.queryPictures.set(session.queryPictures.now.filter((other) => other !== picture)),
        },
        icon("remove"),
      ),
    ),
  );
}

/**
 * Take what was brought as the query. A picture turns a text query into picture and text.
 * @param {Session} session
 * @param {Intake} intake
 * @param {import("./drop.js").Brought} brought
 */
export async function takeQuery(session, intake, { pictures, lines, unknown }) {
  if (lines.length) session.queryText.set(lines.join(" "));
  const film = session.queryKind.now === "video";
  const ordered = film ? inFrameOrder(pictures) : pictures.slice(0, 1);
  const taken = await Promise.allSettled(ordered.map(({ file }) => intake.take(file)));
  const good = taken.filter((result) => result.status === "fulfilled").map((result) => result.value);
  const failed = ordered.filter((_, at) => taken[at].status === "rejected").map(({ file }) => file);
  const said = unreadableLines([...unknown, ...failed]);
  if (pictures.length > ordered.length) said.push(t("query.first", { name: ordered[0].file.name }));
  session.querySaid.set(said.join(" "));
  if (good.length) session.queryPictures.set(film ? [...session.queryPictures.now, ...good] : good);
  if (good.length && session.queryKind.now === "text")
    session.queryKind.set(session.queryText.now.trim() ? "both" : "image");
  announce([good.length && counted("announce.pictures", good.length), ...said].filter(Boolean).join(" "));
}
