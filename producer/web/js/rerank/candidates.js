/** The candidates: dropped in by the dozen, pasted, browsed for, or typed as lines. */

import { announce, fill, h, icon } from "../dom.js";
import { counted, t } from "../i18n.js";
import { pictureFigure } from "./card.js";
import {
  acceptDrops,
  browseButton,
  fromTransfer,
  inFrameOrder,
  linesOf,
  sortFiles,
  unreadableLines,
} from "./drop.js";
import { takeQuery } from "./query.js";
import { videoFigure } from "./video.js";

const TAKEN_TOGETHER = 24; // cards come in such groups while hundreds are read

/** @typedef {import("./session.js").Candidate} Candidate */
/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./pictures.js").Intake} Intake */

/**
 * The section with all candidates.
 * @param {Session} session
 * @param {Intake} intake
 * @param {HTMLElement} examples what is offered while there are none
 * @param {AbortSignal} signal
 */
export function candidatesBox(session, intake, examples, signal) {
  const cards = new Cards(session, intake, signal);
  const count = h("span", { class: "count" });
  const clear = h(
    "button",
    { type: "button", class: "button quiet", onclick: () => session.candidates.set([]) },
    t("candidates.clear"),
  );
  const lines = linesBox(session);
  const take = (brought) => takeCandidates(session, intake, brought);
  const bring = h(
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
  const film = videoDrop((brought) => takeVideo(session, intake, brought), signal);
  const unreadable = h("p", { class: "unreadable" });
  const section = h(
    "section",
    { class: "panel candidates", id: "candidates", "aria-labelledby": "candidates-label" },
    h(
      "div",
      { class: "panel-head" },
      h("h2", { class: "panel-title", id: "candidates-label" }, t("candidates")),
      count,
      clear,
    ),
    h("div", { class: "drops" }, bring, film),
    unreadable,
    lines.element,
    examples,
    cards.element,
  );
  const showCount = () => {
    const [ready, reading] = [session.candidates.now.length, session.reading.now];
    const said = [
      ready > 0 && counted("candidates.count", ready),
      reading > 0 && counted("candidates.reading", reading),
    ];
    fill(count, said.filter(Boolean).join(" · "));
  };
  session.candidates.watch((candidates) => {
    showCount();
    clear.hidden = candidates.length === 0;
    examples.hidden = candidates.length > 0;
    cards.show(candidates);
  }, signal);
  session.reading.listen(showCount, signal);
  session.unreadable.watch((files) => fill(unreadable, unreadableLines(files).join(" ")), signal);
  acceptDrops(document.body, take, signal); // wherever it falls, but for the query
  document.addEventListener("paste", (event) => paste(event, session, intake), { signal });
  return section;
}

/** Pasted pictures go to the query when it has the focus, else they are candidates, as is pasted text. */
async function paste(event, session, intake) {
  const inField = event.target.closest?.("input, textarea");
  const files = event.clipboardData?.files.length;
  if (!files && inField) return;
  event.preventDefault();
  const toQuery = event.target.closest?.("#query");
  const brought = await fromTransfer(event.clipboardData);
  if (toQuery) takeQuery(session, intake, brought);
  else takeCandidates(session, intake, brought);
}

/**
 * Add what was brought, in its order; of many pictures a group at a time.
 * @param {Session} session
 * @param {Intake} intake
 * @param {import("./drop.js").Brought} brought
 */
export async function takeCandidates(session, intake, { pictures, lines, unknown }) {
  const failed = [...unknown];
  let added = lines.length;
  session.add(lines.map((text) => ({ text })));
  for await (const { taken, unread } of takeInGroups(session, intake, pictures)) {
    session.add(taken.map(({ picture, caption }) => ({ picture, text: caption })));
    added += taken.length;
    failed.push(...unread);
  }
  tellTaken(session, counted("announce.candidates", added), failed);
}

/**
 * Make the pictures that were brought into one candidate, a video, in the order of their names.
 * @param {Session} session
 * @param {Intake} intake
 * @param {import("./drop.js").Brought} brought
 */
export async function takeVideo(session, intake, { pictures, unknown }) {
  const failed = [...unknown];
  const frames = [];
  for await (const { taken, unread } of takeInGroups(session, intake, inFrameOrder(pictures))) {
    frames.push(...taken.map(({ picture }) => picture));
    failed.push(...unread);
  }
  if (frames.length) session.add([{ video: { frames, fps: null } }]);
  tellTaken(session, counted("announce.video", frames.length), failed);
}

/** Pictures that were taken in with their captions, and the files that cannot be read, group by group. */
async function* takeInGroups(session, intake, pictures) {
  session.reading.change((count) => count + pictures.length);
  for (let at = 0; at < pictures.length; at += TAKEN_TOGETHER) {
    const group = pictures.slice(at, at + TAKEN_TOGETHER);
    const settled = await Promise.allSettled(group.map(({ file }) => intake.take(file)));
    const all = settled.map((result, n) => ({ ...group[n], picture: result.value }));
    session.reading.change((count) => count - group.length);
    yield {
      taken: all.filter(({ picture }) => picture),
      unread: all.filter(({ picture }) => !picture).map(({ file }) => file),
    };
  }
}

function tellTaken(session, said, failed) {
  session.unreadable.set(failed);
  announce([said, ...unreadableLines(failed)].filter(Boolean).join(" "));
}

/** Where frames are dropped that become one candidate. */
function videoDrop(take, signal) {
  const browse = browseButton(t("candidates.frames"), { multiple: true, id: "video-files" }, async (files) =>
    take(await sortFiles(files)),
  );
  const element = h(
    "div",
    { class: "drop", id: "video-drop", title: t("candidates.video.about") },
    icon("film"),
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

/** The grid of cards: one element per candidate, kept as long as it is there. */
class Cards {
  constructor(session, intake, signal) {
    this.session = session;
    this.intake = intake;
    this.signal = signal;
    this.element = h("ul", { class: "cards" });
    /** @type {Map<Candidate, {element: HTMLElement, stop: AbortController, refresh: (at: number, first: number) => void}>} */
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

  /** What had the keyboard's focus is gone: it goes to what took its place. */
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
      candidate.picture && pictureFigure(this.session, candidate.picture, stop.signal),
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
    const seen = kindOf(candidate) !== "with-text";
    const label = t(seen ? "caption" : "candidate.text");
    return h("textarea", {
      class: "words",
      rows: seen ? 1 : 3,
      "aria-label": label,
      placeholder: label,
      value: candidate.text,
      oninput: (event) => {
        candidate.text = event.target.value;
        this.refresh();
      },
    });
  }

  /** Put another picture in a candidate's place; where it cannot be read the old one stays. */
  async replace(candidate, file) {
    const picture = await this.intake.take(file).catch(() => null);
    if (picture) this.session.replace(candidate.id, { picture });
    tellTaken(this.session, "", picture ? [] : [file]);
  }

  tools(candidate) {
    const name = candidate.picture?.file.name ?? (candidate.video ? t("video") : candidate.text.slice(0, 30));
    const remove = t("remove.candidate", { name });
    const replace = t("replace.candidate", { name });
    const input = h("input", {
      type: "file",
      accept: "image/*",
      class: "unseen",
      tabindex: "-1",
      "aria-hidden": "true",
      onchange: () => this.replace(candidate, input.files[0]),
    });
    return h(
      "div",
      { class: "card-tools" },
      candidate.picture &&
        h(
          "button",
          { type: "button", class: "tool", "aria-label": replace, title: replace, onclick: () => input.click() },
          icon("replace"),
        ),
      candidate.picture && input,
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

function kindOf({ picture, video }) {
  return picture ? "with-picture" : video ? "with-video" : "with-text";
}
