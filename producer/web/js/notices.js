/** Notices about the model, and what to do: no worker, still loading, reads text only. */

import { fill, h, icon } from "./dom.js";
import { t } from "./i18n.js";

/** @typedef {import("./main.js").App} App */

/**
 * A notice about the model in use; empty while it is ready.
 * @param {App} app
 * @param {AbortSignal} signal
 */
export function modelNotice(app, signal) {
  const holder = h("div", { class: "notice-holder", "aria-live": "polite" });
  let shown = "";
  const show = () => {
    const notice = noticeOf(app);
    if (notice.key === shown) return; // screen readers announce each notice once
    shown = notice.key;
    fill(holder, notice.element);
  };
  for (const value of [
    app.models,
    app.modelId,
    app.session.candidates,
    app.session.queryImages,
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
  if (!model.sees && app.session.images.length)
    return { key: `text_only ${model.id}`, element: textOnly(app, model.id) };
  return { key: "", element: null };
}

/** That no worker is running, and the command that starts one. @param {string} [model] */
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

/** That the gateway refused a request, in its own words. @param {import("./api.js").ApiError} error */
export function refused(error) {
  return h(
    "div",
    { class: "notice warn", "data-state": "refused" },
    icon("warning"),
    h("div", {}, h("h3", {}, error.message), h("p", {}, error.hint)),
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

function textOnly(app, model) {
  const imageModel = app.models.now.find(({ sees, workers }) => sees && workers > 0);
  return h(
    "div",
    { class: "notice warn", "data-state": "text-only" },
    icon("warning"),
    h(
      "div",
      {},
      h("h3", {}, t("text_only", { model })),
      imageModel
        ? h(
            "button",
            { type: "button", class: "button", onclick: () => app.modelId.set(imageModel.id) },
            t("text_only.use", { model: imageModel.id }),
          )
        : h("p", {}, t("text_only.about")),
    ),
  );
}
