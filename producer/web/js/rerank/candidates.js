/** The candidates: dropped, pasted, chosen from disk, or typed as lines. */

import { announce, fill, h, icon } from "../dom.js";
import { counted, t } from "../i18n.js";
import { imageFigure } from "./card.js";
import {
  acceptDrops,
  browseButton,
  fromTransfer,
  inFrameOrder,
  linesOf,
  sortFiles,
  unreadableLines,
} from "./drop.js";
import { addToQuery } from "./query.js";
import { videoFigure } from "./video.js";

const GROUP_SIZE = 24; // cards appear in groups of this size while hundreds of images are read

/** @typedef {import("./session.js").Candidate} Candidate */
/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./images.js").Intake} Intake */

/**
 * The section with all candidates.
 * @param {Session} session
 * @param {Intake} intake
 * @param {HTMLElement} examples shown while there are no candidates
 * @param {AbortSignal} signal
 */
export function candidatesBox(session, intake, examples, signal) {
  const cards = new Cards(session, intake, signal);
  const lines = linesBox(session);
  const unreadable = h("p", { class: "unreadable" });
  session.unreadable.watch((files) => fill(unreadable, unreadableLines(files).join(" ")), signal);
  session.candidates.watch((candidates) => {
    examples.hidden = candidates.length > 0;
    cards.show(candidates);
  }, signal);
  const take = (incoming) => addCandidates(session, intake, incoming);
  acceptDrops(document.body, take, signal); // anywhere on the page; the query and the video take their own
  document.addEventListener("paste", (event) => paste(event, session, intake), { signal });
  return h(
    "section",
    { class: "panel candidates", id: "candidates", "aria-labelledby": "candidates-label" },
    candidatesHead(session, signal),
    h(
      "div",
      { class: "drops" },
      candidateZone(take, lines),
      videoZone((incoming) => addVideo(session, intake, incoming), signal),
    ),
    unreadable,
    lines.element,
    examples,
    cards.element,
  );
}

/** The title, how many candidates there are, and the button that removes them. */
function candidatesHead(session, signal) {
  const count = h("span", { class: "count" });
  const clear = h(
    "button",
    { type: "button", class: "button quiet", onclick: () => session.candidates.set([]) },
    t("candidates.clear"),
  );
  const show = () => {
    const [ready, reading] = [session.candidates.now.length, session.reading.now];
    const parts = [
      ready > 0 && counted("candidates.count", ready),
      reading > 0 && counted("candidates.reading", reading),
    ];
    fill(count, parts.filter(Boolean).join(" · "));
    clear.hidden = ready === 0;
  };
  session.candidates.watch(show, signal);
  session.reading.listen(show, signal);
  return h(
    "div",
    { class: "panel-head" },
    h("h2", { class: "panel-title", id: "candidates-label" }, t("candidates")),
    count,
    clear,
  );
}

/** The drop zone for candidates, with the buttons that choose files and open the field for lines. */
function candidateZone(take, lines) {
  return h(
    "div",
    { class: "drop", id: "candidate-drop" },
    icon("add"),
    h("span", {}, t("candidates.drop")),
    h(
      "span",
      { class: "drop-buttons" },
      browseButton(
        t("candidates.browse"),
        { multiple: true, accept: "image/*,text/plain,.txt", id: "candidate-files" },
        async (files) => take(await sortFiles(files)),
      ),
      h(
        "button",
        {
          type: "button",
          class: "button",
          id: "add-text",
          "aria-expanded": String(!lines.element.hidden),
          onclick: (event) => lines.open(event.currentTarget),
        },
        t("candidates.text"),
      ),
    ),
  );
}

/** Pasted images go to the query if it has the focus; otherwise they, and pasted text, become candidates. */
async function paste(event, session, intake) {
  const inField = event.target.closest?.("input, textarea");
  const files = event.clipboardData?.files.length;
  if (!files && inField) return;
  event.preventDefault();
  const toQuery = event.target.closest?.("#query");
  const incoming = await fromTransfer(event.clipboardData);
  if (toQuery) addToQuery(session, intake, incoming);
  else addCandidates(session, intake, incoming);
}

/**
 * Add lines and images as candidates, in their order; many images are added group by group.
 * @param {Session} session
 * @param {Intake} intake
 * @param {import("./drop.js").Incoming} incoming
 */
export async function addCandidates(session, intake, { images, lines, unknown }) {
  const failed = [...unknown];
  let added = lines.length;
  session.add(lines.map((text) => ({ text })));
  for await (const { read, unreadable } of readInGroups(session, intake, images)) {
    session.add(read.map(({ image, caption }) => ({ image, text: caption })));
    added += read.length;
    failed.push(...unreadable);
  }
  reportAdded(session, counted("announce.candidates", added), failed);
}

/**
 * Add images as the frames of one video candidate, in the order of their names.
 * @param {Session} session
 * @param {Intake} intake
 * @param {import("./drop.js").Incoming} incoming
 */
export async function addVideo(session, intake, { images, unknown }) {
  const failed = [...unknown];
  const frames = [];
  for await (const { read, unreadable } of readInGroups(session, intake, inFrameOrder(images))) {
    frames.push(...read.map(({ image }) => image));
    failed.push(...unreadable);
  }
  if (frames.length) session.add([{ video: { frames, fps: null } }]);
  reportAdded(session, counted("announce.video", frames.length), failed);
}

/** Read images group by group: those that were read, with their captions, and the files that could not be. */
async function* readInGroups(session, intake, images) {
  session.reading.change((count) => count + images.length);
  for (let at = 0; at < images.length; at += GROUP_SIZE) {
    const group = images.slice(at, at + GROUP_SIZE);
    const settled = await Promise.allSettled(group.map(({ file }) => intake.add(file)));
    const all = settled.map((result, n) => ({ ...group[n], image: result.value }));
    session.reading.change((count) => count - group.length);
    yield {
      read: all.filter(({ image }) => image),
      unreadable: all.filter(({ image }) => !image).map(({ file }) => file),
    };
  }
}

function reportAdded(session, text, failed) {
  session.unreadable.set(failed);
  announce([text, ...unreadableLines(failed)].filter(Boolean).join(" "));
}

/** The drop zone for the frames of one video. */
function videoZone(take, signal) {
  const browse = browseButton(t("candidates.frames"), { multiple: true, id: "video-files" }, async (files) =>
    take(await sortFiles(files)),
  );
  const element = h(
    "div",
    { class: "drop", id: "video-drop", title: t("candidates.video.about") },
    icon("video"),
    h("span", {}, t("candidates.video")),
    browse,
  );
  acceptDrops(element, take, signal);
  return element;
}

function linesBox(session) {
  const field = h("textarea", {
    id: "candidate-lines",
    rows: 4,
    "aria-label": t("candidates.lines"),
    placeholder: t("candidates.lines"),
    value: session.draft,
    oninput: () => (session.draft = field.value),
  });
  const element = h(
    "form",
    {
      class: "lines",
      hidden: !session.draft,
      onsubmit: (event) => {
        event.preventDefault();
        session.add(linesOf(field.value).map((text) => ({ text })));
        field.value = session.draft = "";
        field.focus();
      },
    },
    field,
    h("button", { class: "button", id: "add-lines" }, t("candidates.lines.add")),
  );
  const open = (button) => {
    element.hidden = !element.hidden;
    button.setAttribute("aria-expanded", String(!element.hidden));
    if (!element.hidden) field.focus();
  };
  return { element, open };
}

/** The grid of cards: one element per candidate, kept as long as the candidate exists. */
class Cards {
  constructor(session, intake, signal) {
    this.session = session;
    this.intake = intake;
    this.signal = signal;
    this.element = h("ul", { class: "cards" });
    /**
     * @type {Map<Candidate,
     *   {element: HTMLElement, stop: AbortController, refresh: (at: number, first: number) => void}>}
     */
    this.cards = new Map();
    session.examined.listen(() => this.refresh(), signal);
    session.settings.listen(() => this.refresh(), signal);
  }

  show(candidates) {
    const focused = [...this.element.children].findIndex((card) => card.contains(document.activeElement));
    const kept = new Set(candidates);
    for (const [candidate, card] of this.cards) {
      if (kept.has(candidate)) continue;
      card.stop.abort();
      card.element.remove();
      this.cards.delete(candidate);
    }
    candidates.forEach((candidate, at) => {
      const card = this.cards.get(candidate) ?? this.make(candidate);
      if (this.element.children[at] !== card.element)
        this.element.insertBefore(card.element, this.element.children[at] ?? null);
    });
    this.refresh();
    if (focused >= 0 && !this.element.contains(document.activeElement)) this.focusNear(focused);
  }

  /** The focused card is gone: move the focus to the one that took its place. */
  focusNear(at) {
    const card = this.element.children[Math.min(at, this.element.children.length - 1)];
    const next = card?.querySelector("button, textarea") ?? document.querySelector("#candidate-drop button");
    next.focus({ preventScroll: true });
  }

  refresh() {
    const { duplicates } = this.session;
    this.session.candidates.now.forEach((candidate, at) =>
      this.cards.get(candidate)?.refresh(at, duplicates.get(candidate.id) ?? 0),
    );
  }

  make(candidate) {
    const stop = new AbortController();
    this.signal.addEventListener("abort", () => stop.abort(), { signal: stop.signal });
    const badges = h("div", { class: "badges" });
    const position = h("span", { class: "position" });
    const element = h(
      "li",
      { class: ["card", kindOf(candidate)], "data-id": candidate.id },
      position,
      candidate.image && imageFigure(this.session, candidate.image, stop.signal),
      candidate.video && videoFigure(this.session, candidate, stop.signal),
      this.words(candidate),
      badges,
      this.tools(candidate),
    );
    const refresh = (at, first) => {
      fill(position, at + 1);
      fill(badges, first > 0 && h("span", { class: "chip warn duplicate" }, t("duplicate", { n: first })));
      element.classList.toggle("poor", this.session.poorCandidate(candidate));
    };
    const card = { element, stop, refresh };
    this.cards.set(candidate, card);
    return card;
  }

  words(candidate) {
    const isCaption = kindOf(candidate) !== "with-text";
    const label = t(isCaption ? "caption" : "candidate.text");
    return h("textarea", {
      class: "words",
      rows: isCaption ? 1 : 3,
      "aria-label": label,
      placeholder: label,
      value: candidate.text,
      oninput: (event) => {
        candidate.text = event.target.value;
        this.refresh();
      },
    });
  }

  /** Replace a candidate's image; if the new file cannot be read, the old image stays. */
  async replace(candidate, file) {
    const image = await this.intake.add(file).catch(() => null);
    if (image) this.session.replace(candidate.id, { image });
    reportAdded(this.session, "", image ? [] : [file]);
  }

  tools(candidate) {
    const name = candidate.image?.file.name ?? (candidate.video ? t("video") : candidate.text.slice(0, 30));
    const remove = t("remove.candidate", { name });
    const replace = t("replace.candidate", { name });
    const input = h("input", {
      type: "file",
      accept: "image/*",
      class: "visually-hidden",
      tabindex: "-1",
      "aria-hidden": "true",
      onchange: () => this.replace(candidate, input.files[0]),
    });
    return h(
      "div",
      { class: "card-tools" },
      candidate.image &&
        h(
          "button",
          { type: "button", class: "tool", "aria-label": replace, title: replace, onclick: () => input.click() },
          icon("replace"),
        ),
      candidate.image && input,
      h(
        "button",
        {
          type: "button",
          class: "tool",
          "aria-label": remove,
          title: remove,
          onclick: () => this.session.remove(candidate.id),
        },
        icon("remove"),
      ),
    );
  }
}

function kindOf({ image, video }) {
  return image ? "with-image" : video ? "with-video" : "with-text";
}
