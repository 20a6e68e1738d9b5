/** The candidates: dropped in by the dozen, pasted, browsed for, or typed as lines. */

import { announce, fill, h, icon } from "../dom.js";
import { counted, t } from "../i18n.js";
import { pictureFigure } from "./card.js";
import { acceptDrops, browseButton, fromTransfer, linesOf, sortFiles } from "./drop.js";
import { takeQuery } from "./query.js";

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
          "aria-expanded": "false",
          onclick: (event) => lines.open(event.currentTarget),
        },
        t("candidates.text"),
      ),
    ),
  );
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
    bring,
    lines.element,
    examples,
    cards.element,
  );
  session.candidates.watch((candidates) => {
    fill(count, candidates.length ? counted("candidates.count", candidates.length) : "");
    clear.hidden = candidates.length === 0;
    examples.hidden = candidates.length > 0;
    cards.show(candidates);
  }, signal);
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
 * Add what was brought.
 * @param {Session} session
 * @param {Intake} intake
 * @param {import("./drop.js").Brought} brought
 */
export async function takeCandidates(session, intake, { pictures, lines, unknown }) {
  const taken = await Promise.allSettled(pictures.map(({ file }) => intake.take(file)));
  const added = lines.map((text) => ({ id: session.nextId(), text, picture: null }));
  const failed = unknown.map((file) => file.name);
  taken.forEach((result, at) => {
    const { file, caption } = pictures[at];
    if (result.status === "fulfilled") added.push({ id: session.nextId(), text: caption, picture: result.value });
    else failed.push(file.name);
  });
  session.add(added);
  const said = [counted("announce.candidates", added.length)];
  if (failed.length) said.push(t("announce.unreadable", { names: failed.join(", ") }));
  announce(said.join(" "));
}

function linesBox(session) {
  const field = h("textarea", {
    id: "candidate-lines",
    rows: 4,
    "aria-label": t("candidates.lines"),
    placeholder: t("candidates.lines"),
  });
  const element = h(
    "form",
    {
      class: "lines",
      hidden: true,
      onsubmit: (event) => {
        event.preventDefault();
        session.add(linesOf(field.value).map((text) => ({ id: session.nextId(), text, picture: null })));
        field.value = "";
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
    /** @type {Map<Candidate, {element: HTMLElement, stop: AbortController, refresh: () => void}>} */
    this.cards = new Map();
    session.examined.listen(() => this.refresh(), signal);
    session.settings.listen(() => this.refresh(), signal);
  }

  show(candidates) {
    for (const [candidate, card] of this.cards) {
      if (candidates.includes(candidate)) continue;
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
  }

  refresh() {
    for (const card of this.cards.values()) card.refresh();
  }

  make(candidate) {
    const stop = new AbortController();
    this.signal.addEventListener("abort", () => stop.abort(), { signal: stop.signal });
    const badges = h("div", { class: "badges" });
    const position = h("span", { class: "position" });
    const element = h(
      "li",
      { class: ["card", candidate.picture ? "with-picture" : "with-text"], "data-id": candidate.id },
      position,
      candidate.picture && pictureFigure(this.session, candidate.picture, stop.signal),
      this.words(candidate),
      badges,
      this.tools(candidate),
    );
    const refresh = () => {
      fill(position, this.session.candidates.now.indexOf(candidate) + 1);
      const first = this.session.duplicateOf(candidate);
      fill(badges, first > 0 && h("span", { class: "chip warn duplicate" }, t("duplicate", { n: first })));
      element.classList.toggle("poor", candidate.picture !== null && this.session.poor(candidate.picture));
    };
    const card = { element, stop, refresh };
    this.cards.set(candidate, card);
    return card;
  }

  words(candidate) {
    const label = t(candidate.picture ? "caption" : "candidate.text");
    return h("textarea", {
      class: "words",
      rows: candidate.picture ? 1 : 3,
      "aria-label": label,
      placeholder: label,
      value: candidate.text,
      oninput: (event) => {
        candidate.text = event.target.value;
        this.refresh();
      },
    });
  }

  tools(candidate) {
    const name = candidate.picture?.file.name ?? candidate.text.slice(0, 30);
    const remove = t("remove.candidate", { name });
    const replace = t("replace.candidate", { name });
    const input = h("input", {
      type: "file",
      accept: "image/*",
      class: "unseen",
      tabindex: "-1",
      "aria-label": replace,
      onchange: async () => this.session.replace(candidate.id, await this.intake.take(input.files[0])),
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
