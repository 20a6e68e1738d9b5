/** The Rerank tab: the query on the left, candidates and results on the right. */

import { announce, fill, h, icon } from "../dom.js";
import * as format from "../format.js";
import { counted, t } from "../i18n.js";
import { modelNotice } from "../notices.js";
import { candidatesBox } from "./candidates.js";
import { exampleOffers } from "./examples.js";
import { instructionBox, queryBox } from "./query.js";
import { resultsBox } from "./results.js";
import { settingsBox } from "./settings.js";

const STEPS = ["uploading", "queued", "scoring", "done"];

/** @typedef {import("../main.js").App} App */

/**
 * Show the tab.
 * @param {HTMLElement} root
 * @param {App} app
 * @param {AbortSignal} signal
 */
export function showRerank(root, app, signal) {
  const { session, intake, runner } = app;
  fill(
    root,
    h(
      "div",
      { class: "rerank" },
      h(
        "div",
        { class: "inputs" },
        instructionBox(session, signal),
        queryBox(session, intake, signal),
        settingsBox(session, signal),
      ),
      h(
        "div",
        { class: "outputs" },
        modelNotice(app, signal),
        candidatesBox(session, intake, exampleOffers(session, intake, signal), signal),
        runBar(app, signal),
        resultsBox(session, runner, app.api.keyed, signal),
      ),
    ),
  );
  document.addEventListener(
    "keydown",
    (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      runner.run();
    },
    { signal },
  );
}

function runBar(app, signal) {
  const { session, runner } = app;
  const status = h("div", { class: "status", id: "run-status" });
  const steps = h("ol", { class: "steps", "aria-label": t("steps") });
  const cancel = h(
    "button",
    { type: "button", class: "button", id: "cancel-run", onclick: () => runner.cancel() },
    t("cancel"),
  );
  const run = h(
    "button",
    {
      type: "button",
      class: "button primary",
      id: "run-button",
      "aria-describedby": "run-status",
      onclick: () => runner.run(),
    },
    t("rerank"),
    h("kbd", {}, /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘ ↵" : "Ctrl ↵"),
  );
  let stage = session.progress.now.stage;
  const show = () => {
    const progress = session.progress.now;
    const running = !["idle", "failed", "done"].includes(progress.stage);
    run.disabled = running || session.missing !== "";
    cancel.hidden = !running;
    steps.hidden = !running;
    fill(steps, stepItems(progress.stage));
    fill(status, progressLine(progress, session));
    status.classList.toggle("failed", progress.stage === "failed");
    if (stage !== progress.stage && !["idle", "done"].includes(progress.stage)) announce(status.textContent ?? "");
    stage = progress.stage;
  };
  for (const value of [
    session.progress,
    session.candidates,
    session.queryText,
    session.queryKind,
    session.queryImages,
  ]) {
    value.listen(show, signal);
  }
  show();
  return h("div", { class: "run-bar" }, steps, status, cancel, run);
}

function stepItems(stage) {
  const now = STEPS.indexOf(["busy", "sent"].includes(stage) ? "queued" : stage);
  return STEPS.map((name, at) =>
    h(
      "li",
      { class: [at < now && "past", at === now && "now"], "aria-current": at === now && "step" },
      t(`stage.${name}`),
    ),
  );
}

function progressLine(progress, session) {
  switch (progress.stage) {
    case "uploading":
      return t("progress.uploading", { done: progress.done, total: progress.total });
    case "sent":
      return t("progress.sent");
    case "queued":
      return progress.ahead ? counted("progress.queued", progress.ahead) : t("progress.next");
    case "scoring":
      return t("progress.scoring", { done: format.number(progress.done), total: format.number(progress.total) });
    case "busy":
      return counted("busy", Math.max(1, Math.ceil((progress.untilMs - Date.now()) / 1000)));
    case "failed":
      return failure(progress.error);
    case "done":
      return t("progress.done", { seconds: format.duration(progress.seconds) });
    default:
      return session.missing ? t(session.missing) : counted("progress.ready", session.candidates.now.length);
  }
}

function failure(error) {
  return [
    icon("warning"),
    h("strong", {}, error.status === 0 ? t("unreachable") : error.message),
    " ",
    error.hint,
    error.requestId && h("span", { class: "hint" }, ` ${t("request_id", { id: error.requestId })}`),
  ];
}
