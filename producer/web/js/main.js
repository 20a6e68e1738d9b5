/** The page: its frame, its tabs, and what it knows of the gateway. */

import { Api } from "./api.js";
import { h, fill, icon } from "./dom.js";
import * as format from "./format.js";
import { showFleet } from "./fleet.js";
import { counted, language, t } from "./i18n.js";
import { showJob } from "./jobs/detail.js";
import { showJobs } from "./jobs/list.js";
import { Intake } from "./rerank/pictures.js";
import { Runner } from "./rerank/run.js";
import { Session } from "./rerank/session.js";
import { showRerank } from "./rerank/view.js";
import { addressOf, place, shareSettings, TABS } from "./router.js";
import { remembered, Value } from "./value.js";
import { FleetWatch } from "./watch.js";

const LOOK_MS = 5_000;
const LOOK_SOON_MS = 2_000;
const SENDABLE = /^[\x21-\x7e]+$/; // what a header can hold

/** What all parts of the page share. */
export class App {
  constructor() {
    this.api = new Api();
    this.session = new Session();
    /** What is served, as the gateway last said; null before it has spoken. @type {Value<any[] | null>} */
    this.models = new Value(null);
    /** The model chosen in the header. */
    this.modelId = remembered("model", "");
    this.intake = new Intake(this.api, this.session, () => this.model());
    this.runner = new Runner(this.api, this.session, this.intake, () => this.model());
    /** Samples of each job's rate, kept while the page is open. @type {Map<string, [number, number][]>} */
    this.rates = new Map();
    this.fleet = new FleetWatch(this.api);
    this.timer = 0;
  }

  /** The model in use: the chosen one, or the first that can see and works. */
  model() {
    const models = this.models.now ?? [];
    const able = models.filter(({ workers }) => workers > 0);
    return (
      models.find(({ id }) => id === this.modelId.now) ?? able.find(({ sees }) => sees) ?? able[0] ?? models[0] ?? null
    );
  }

  /** Ask the gateway what it serves, now and from then on. */
  async look() {
    clearTimeout(this.timer);
    try {
      if (!this.session.offers.image_presets.length) {
        this.session.offers = { ...this.session.offers, ...(await this.api.presets()) };
        this.session.configure({}); // a link may have said what is not offered
        place.set({ ...place.now }); // what is shown already lacks them
      }
      this.models.set(await this.api.models());
      this.intake.examineSoon();
    } catch {
      // the banner or the dialog about the key says it
    }
    const well = this.api.reachable.now && this.model()?.state === "ready";
    this.timer = window.setTimeout(() => this.look(), well ? LOOK_MS : LOOK_SOON_MS);
  }
}

// ---- the frame ----------------------------------------------------------------------------------

const theme = remembered("theme", "");

/** @param {App} app @param {AbortSignal} signal */
function frame(app, signal) {
  const view = h("main", { id: "view", tabindex: "-1" });
  const page = h(
    "div",
    { class: "page" },
    h(
      "a",
      {
        class: "skip",
        href: "#view",
        onclick: (event) => {
          event.preventDefault();
          view.focus();
        },
      },
      t("skip"),
    ),
    header(app, signal),
    banner(app, signal),
    view,
  );
  return { page, view };
}

function header(app, signal) {
  return h(
    "header",
    { class: "top" },
    h(
      "a",
      { class: "brand", href: addressOf("rerank") },
      h("img", { src: "favicon.svg", alt: "", width: 26, height: 26 }),
      h("span", {}, "rerankfleet"),
    ),
    tabs(signal),
    h(
      "div",
      { class: "top-tools" },
      modelChoice(app, signal),
      fleetChip(app, signal),
      h(
        "button",
        {
          type: "button",
          class: "button quiet",
          id: "language",
          lang: language.now === "en" ? "zh" : "en",
          onclick: () => language.set(language.now === "en" ? "zh" : "en"),
        },
        language.now === "en" ? "中文" : "English",
      ),
      themeButton(),
    ),
  );
}

function tabs(signal) {
  const links = TABS.map((name) => h("a", { href: addressOf(name), id: `tab-${name}` }, t(`tab.${name}`)));
  place.watch(({ tab }) => {
    TABS.forEach((name, at) =>
      name === tab ? links[at].setAttribute("aria-current", "page") : links[at].removeAttribute("aria-current"),
    );
    document.title = `${t(`tab.${tab}`)} · rerankfleet`;
  }, signal);
  return h("nav", { class: "tabs", "aria-label": t("tabs") }, links);
}

function modelChoice(app, signal) {
  const select = h("select", { id: "model", "aria-label": t("model"), onchange: () => app.modelId.set(select.value) });
  const show = () => {
    const models = app.models.now ?? [];
    select.hidden = !models.length;
    if (document.activeElement === select && select.options.length === models.length) return;
    fill(
      select,
      models.map(({ id, state }) =>
        h("option", { value: id }, state === "ready" ? shortName(id) : `${shortName(id)} · ${t(`state.${state}`)}`),
      ),
    );
    select.value = app.model()?.id ?? "";
  };
  app.models.watch(show, signal);
  app.modelId.listen(show, signal);
  return select;
}

/** A folder's last part; a hub name as it is. */
function shortName(model) {
  return model.startsWith("/") ? model.split("/").at(-1) : model;
}

function fleetChip(app, signal) {
  const chip = h("a", { class: "fleet-chip", href: addressOf("fleet"), "aria-live": "off" });
  app.models.watch((models) => {
    const workers = (models ?? []).reduce((total, model) => total + model.workers, 0);
    const lamp = !workers ? "bad" : models?.some(({ state }) => state === "ready") ? "good" : "warn";
    const rate = (models ?? []).reduce((total, model) => total + (model.pairs_per_s ?? 0), 0);
    fill(
      chip,
      h("span", { class: ["lamp", lamp], "aria-hidden": "true" }),
      counted("workers.count", workers),
      rate > 0 && h("span", { class: "rate" }, ` · ${format.short(rate)} ${t("unit.pairs")}`),
    );
    chip.hidden = models === null;
  }, signal);
  return chip;
}

function themeButton() {
  const dark = () => (theme.now || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const button = h(
    "button",
    {
      type: "button",
      class: "button quiet",
      id: "theme",
      "aria-label": t("theme"),
      title: t("theme"),
      onclick: () => {
        theme.set(dark() ? "light" : "dark");
        fill(button, icon(dark() ? "sun" : "moon"));
      },
    },
    icon(dark() ? "sun" : "moon"),
  );
  return button;
}

function banner(app, signal) {
  const element = h("div", { class: "banner", role: "alert", "data-state": "unreachable" });
  app.api.reachable.watch((reachable) => {
    element.hidden = reachable;
    fill(
      element,
      !reachable && [
        h("span", { class: "spinner", "aria-hidden": "true" }),
        t("unreachable"),
        " ",
        t("unreachable.about"),
      ],
    );
    if (!reachable) app.timer = (clearTimeout(app.timer), window.setTimeout(() => app.look(), LOOK_SOON_MS));
  }, signal);
  return element;
}

/** Ask for the key while the gateway refuses without one. */
function keyDialog(app, signal) {
  const field = h("input", {
    id: "key",
    type: "password",
    autocomplete: "off",
    required: true,
    "aria-describedby": "key-about",
  });
  const refused = h("p", { class: "bad", role: "alert", hidden: true }, t("key.refused"));
  const wrong = h("p", { class: "bad", role: "alert", hidden: true }, t("key.wrong"));
  const dialog = h(
    "dialog",
    {
      id: "key-dialog",
      "data-state": "unauthorised",
      oncancel: (event) => event.preventDefault(),
      onclose: () => ask(), // browsers let a second Escape close it all the same
    },
    h(
      "form",
      {
        method: "dialog",
        onsubmit: (event) => {
          const key = field.value.trim();
          wrong.hidden = SENDABLE.test(key);
          if (!wrong.hidden) return event.preventDefault();
          app.api.unlock(key);
          field.value = "";
          app.look();
        },
      },
      h("h2", {}, icon("key"), t("key")),
      h("p", { id: "key-about" }, t("key.about")),
      h("label", { class: "label", for: "key" }, t("key.label")),
      field,
      refused,
      wrong,
      h("div", { class: "buttons" }, h("button", { class: "button primary" }, t("key.use"))),
    ),
  );
  const ask = () => {
    if (app.api.locked.now && dialog.isConnected && !dialog.open) dialog.showModal();
  };
  app.api.locked.watch(() => {
    refused.hidden = !app.api.keyed;
    ask();
  }, signal);
  return dialog;
}

// ---- start --------------------------------------------------------------------------------------

/** @param {App} app @param {HTMLElement} view @param {AbortSignal} signal */
function showPlace(app, view, signal) {
  const { tab, job } = place.now;
  if (tab === "jobs" && job) showJob(view, app, job, signal);
  else if (tab === "jobs") showJobs(view, app, signal);
  else if (tab === "fleet") showFleet(view, app, signal);
  else showRerank(view, app, signal);
}

function start() {
  const app = new App();
  shareSettings(app.session);
  const always = new AbortController().signal;
  const root = document.getElementById("app");
  let words = new AbortController(); // of the frame, which a change of language builds anew
  let tab = new AbortController();
  const showAll = () => {
    words.abort();
    tab.abort();
    words = new AbortController();
    document.documentElement.lang = language.now === "zh" ? "zh-Hans" : "en";
    const { page, view } = frame(app, words.signal);
    const dialog = keyDialog(app, words.signal);
    fill(root, page, dialog);
    if (app.api.locked.now) dialog.showModal();
    place.watch(() => {
      tab.abort();
      tab = new AbortController();
      showPlace(app, view, tab.signal);
    }, words.signal);
  };
  theme.watch(
    (name) => (name ? (document.documentElement.dataset.theme = name) : delete document.documentElement.dataset.theme),
    always,
  );
  language.listen(() => {
    showAll();
    document.getElementById("language")?.focus();
  }, always);
  app.look().finally(showAll);
}

start();
