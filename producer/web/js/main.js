/** The entry point: the frame of the page, its tabs, and the state they share. */

import { Api } from "./api.js";
import { h, fill, icon } from "./dom.js";
import * as format from "./format.js";
import { showFleet } from "./fleet.js";
import { counted, language, t } from "./i18n.js";
import { showJob } from "./jobs/detail.js";
import { showJobs } from "./jobs/list.js";
import { Intake } from "./rerank/images.js";
import { Runner } from "./rerank/run.js";
import { Session } from "./rerank/session.js";
import { showRerank } from "./rerank/view.js";
import { addressOf, route, syncSettings, TABS } from "./router.js";
import { remembered, Value } from "./value.js";
import { FleetHistory } from "./fleet_history.js";
import { isRefusal, pauseMs } from "./poll.js";

const POLL_MS = 5_000;
const POLL_SOON_MS = 2_000;
const SENDABLE = /^[\x21-\x7e]+$/; // what an HTTP header can carry

/** The state that all parts of the page share. */
export class App {
  constructor() {
    this.api = new Api();
    this.session = new Session();
    /** The served models as last reported; null before the first answer. @type {Value<any[] | null>} */
    this.models = new Value(null);
    /** The model chosen in the header. */
    this.modelId = remembered("model", "");
    this.intake = new Intake(this.api, this.session, () => this.model());
    this.runner = new Runner(this.api, this.session, this.intake, () => this.model());
    /** Throughput samples of each job, kept while the page is open. @type {Map<string, [number, number][]>} */
    this.rates = new Map();
    this.fleet = new FleetHistory(this.api);
    /** Why the gateway refuses what every tab needs. @type {Value<import("./api.js").ApiError | null>} */
    this.refused = new Value(null);
    this.timer = 0;
  }

  /** The model in use: the chosen one, or the first that has workers, preferring those that read images. */
  model() {
    const models = this.models.now ?? [];
    const able = models.filter(({ workers }) => workers > 0);
    return (
      models.find(({ id }) => id === this.modelId.now) ?? able.find(({ sees }) => sees) ?? able[0] ?? models[0] ?? null
    );
  }

  /** Fetch what the gateway serves, now and periodically. */
  async refresh() {
    clearTimeout(this.timer);
    let waitMs = POLL_SOON_MS;
    try {
      if (!this.session.offers.image_presets.length) {
        this.session.offers = { ...this.session.offers, ...(await this.api.presets()) };
        this.session.configure({}); // a link may have named a preset that is not offered
        route.set({ ...route.now }); // draw the tab again, with the presets
      }
      this.models.set(await this.api.models());
      this.refused.set(null);
      this.intake.examineSoon();
    } catch (error) {
      // a banner or the key dialog shows it
      if (isRefusal(error)) this.refused.set(this.api.locked.now ? null : error);
      waitMs = pauseMs(error, POLL_SOON_MS);
    }
    const ready = this.api.reachable.now && this.model()?.state === "ready";
    this.timer = window.setTimeout(() => this.refresh(), ready ? Math.max(waitMs, POLL_MS) : waitMs);
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
    refusedBanner(app, signal),
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
  route.watch(({ tab }) => {
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

/** The last part of a folder; a hub name unchanged. */
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
    if (!reachable) app.timer = (clearTimeout(app.timer), window.setTimeout(() => app.refresh(), POLL_SOON_MS));
  }, signal);
  return element;
}

function refusedBanner(app, signal) {
  const element = h("div", { class: "banner", role: "alert", "data-state": "refused" });
  app.refused.watch((error) => {
    element.hidden = error === null;
    fill(element, error && [h("strong", {}, error.message), " ", error.hint]);
  }, signal);
  return element;
}

/** The dialog that asks for a key while the gateway requires one. */
function keyDialog(app, signal) {
  const field = h("input", {
    id: "key",
    type: "password",
    autocomplete: "off",
    required: true,
    "aria-describedby": "key-about",
  });
  const refusedMessage = h("p", { class: "bad", role: "alert", hidden: true }, t("key.refused"));
  const invalidMessage = h("p", { class: "bad", role: "alert", hidden: true }, t("key.invalid"));
  const dialog = h(
    "dialog",
    {
      id: "key-dialog",
      "data-state": "unauthorised",
      oncancel: (event) => event.preventDefault(),
      onclose: () => open(), // browsers let a second Escape close it nevertheless
    },
    h(
      "form",
      {
        method: "dialog",
        onsubmit: (event) => {
          const key = field.value.trim();
          invalidMessage.hidden = SENDABLE.test(key);
          if (!invalidMessage.hidden) return event.preventDefault();
          app.api.unlock(key);
          field.value = "";
          app.refresh();
        },
      },
      h("h2", {}, icon("key"), t("key")),
      h("p", { id: "key-about" }, t("key.about")),
      h("label", { class: "label", for: "key" }, t("key.label")),
      field,
      refusedMessage,
      invalidMessage,
      h("div", { class: "buttons" }, h("button", { class: "button primary" }, t("key.use"))),
    ),
  );
  const open = () => {
    if (app.api.locked.now && dialog.isConnected && !dialog.open) dialog.showModal();
  };
  app.api.locked.watch(() => {
    refusedMessage.hidden = !app.api.keyed;
    open();
  }, signal);
  return dialog;
}

// ---- start --------------------------------------------------------------------------------------

/** @param {App} app @param {HTMLElement} view @param {AbortSignal} signal */
function showRoute(app, view, signal) {
  const { tab, job } = route.now;
  if (tab === "jobs" && job) showJob(view, app, job, signal);
  else if (tab === "jobs") showJobs(view, app, signal);
  else if (tab === "fleet") showFleet(view, app, signal);
  else showRerank(view, app, signal);
}

function start() {
  const app = new App();
  syncSettings(app.session);
  const always = new AbortController().signal;
  const root = document.getElementById("app");
  let frameLife = new AbortController(); // a change of language rebuilds the frame
  let tabLife = new AbortController();
  const showAll = () => {
    frameLife.abort();
    tabLife.abort();
    frameLife = new AbortController();
    document.documentElement.lang = language.now === "zh" ? "zh-Hans" : "en";
    const { page, view } = frame(app, frameLife.signal);
    const dialog = keyDialog(app, frameLife.signal);
    fill(root, page, dialog);
    if (app.api.locked.now) dialog.showModal();
    route.watch(() => {
      tabLife.abort();
      tabLife = new AbortController();
      showRoute(app, view, tabLife.signal);
    }, frameLife.signal);
  };
  theme.watch(
    (name) => (name ? (document.documentElement.dataset.theme = name) : delete document.documentElement.dataset.theme),
    always,
  );
  language.listen(() => {
    showAll();
    document.getElementById("language")?.focus();
  }, always);
  app.refresh().finally(showAll);
}

start();
