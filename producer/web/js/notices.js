/** What stands in the way, and what to do: no worker, a model that loads, a model that reads text only. */

import { fill, h, icon } from "./dom.js";
import { t } from "./i18n.js";

/** @typedef {import("./main.js").App} App */

/**
 * A notice about the model in use; empty while all is well.
 * @param {App} app
 * @param {AbortSignal} signal
 */
export function modelNotice(app, signal) {
  const holder = h("div", { class: "notice-holder", "aria-live": "polite" });
  let before = "";
  const show = () => {
    const found = noticeOf(app);
    if (found.key === before) return; // what is read aloud is said once
    before = found.key;
    fill(holder, found.element);
  };
  for (const value of [
    app.models,
    app.modelId,
    app.session.candidates,
    app.session.queryPictures,
    app.session.queryKind,
    app.api.locked,
  ]) {
    value.listen(show, signal);
  }
  show();
  return holder;
}

function noticeOf(app) {
  const model = app.model();
  if (app.models.now === null || app.api.locked.now) return { key: "", element: null };
  if (!model || model.workers === 0) return { key: `none ${model?.id}`, element: noWorker(model?.id) };
  if (model.state === "loading") return { key: "loading", element: loading(model.id) };
  if (!model.sees && app.session.pictures.length) return { key: `blind ${model.id}`, element: blind(app, model.id) };
  return { key: "", element: null };
}

/** What to run where nobody works. @param {string} [model] */
export function noWorker(model = "pocket-vl") {
  return h(
    "div",
    { class: "notice warn", "data-state": "no-worker" },
    icon("warning"),
    h(
      "div",
      {},
      h("h3", {}, t("no_worker")),
      h("p", {}, t("no_worker.about")),
      h("pre", {}, h("code", {}, `rerank worker --model ${model}`)),
    ),
  );
}

function loading(model) {
  return h(
    "div",
    { class: "notice", "data-state": "loading" },
    h("span", { class: "spinner", "aria-hidden": "true" }),
    h("div", {}, h("h3", {}, t("loading", { model })), h("p", {}, t("loading.about"))),
  );
}

function blind(app, model) {
  const seeing = app.models.now.find(({ sees, workers }) => sees && workers > 0);
  return h(
    "div",
    { class: "notice warn", "data-state": "blind" },
    icon("warning"),
    h(
      "div",
      {},
      h("h3", {}, t("blind", { model })),
      seeing
        ? h(
            "button",
            { type: "button", class: "button", onclick: () => app.modelId.set(seeing.id) },
            t("blind.use", { model: seeing.id }),
          )
        : h("p", {}, t("blind.about")),
    ),
  );
}
