/** The settings of the next run. */

import { fill, h } from "../dom.js";
import { counted, t } from "../i18n.js";
import { imagesOf, RANGES } from "./session.js";

/** @typedef {import("./session.js").Session} Session */

/**
 * The panel of settings.
 * @param {Session} session
 * @param {AbortSignal} signal
 */
export function settingsBox(session, signal) {
  const element = h(
    "section",
    { class: "panel settings", "aria-labelledby": "settings-label" },
    h("h2", { class: "panel-title", id: "settings-label" }, t("settings")),
    preset(session, signal),
    mode(session, signal),
    threshold(session, signal),
    h("div", { class: "two" }, temperature(session, signal), topN(session, signal)),
    explain(session, signal),
  );
  return element;
}

function preset(session, signal) {
  const names = session.offers.image_presets.length ? session.offers.image_presets : [{ name: "general" }];
  const select = h(
    "select",
    { id: "preset", onchange: () => session.configure({ preset: select.value }) },
    names.map(({ name, width, height }) =>
      h("option", { value: name }, width ? `${t(`preset.${name}`)} · ${width} × ${height}` : t(`preset.${name}`)),
    ),
  );
  session.settings.watch((settings) => (select.value = settings.preset), signal);
  return field("preset", select);
}

function mode(session, signal) {
  const group = h(
    "div",
    { class: "segments", role: "radiogroup", "aria-labelledby": "mode-label" },
    ["crop", "fit"].map((name) =>
      h(
        "label",
        { title: t(`mode.${name}.about`) },
        h("input", {
          type: "radio",
          name: "mode",
          value: name,
          class: "visually-hidden",
          onchange: () => session.configure({ mode: name }),
        }),
        h("span", {}, t(`mode.${name}`)),
      ),
    ),
  );
  session.settings.watch((settings) => {
    for (const input of group.querySelectorAll("input")) {
      input.checked = input.value === settings.mode;
      input.disabled = settings.preset === "reference";
    }
  }, signal);
  return h("div", { class: "field" }, h("span", { class: "label", id: "mode-label" }, t("mode")), group);
}

function threshold(session, signal) {
  const slider = rangeField(session, signal, {
    name: "threshold",
    range: RANGES.threshold,
    step: 0.01,
    show: (value) => value.toFixed(2),
    describedBy: "threshold-effect",
  });
  const effect = h("p", { class: "hint", id: "threshold-effect", "aria-live": "polite" });
  const action = h(
    "select",
    { id: "quality-action", "aria-label": t("action"), onchange: () => session.configure({ action: action.value }) },
    ["reject", "downweight", "off"].map((name) => h("option", { value: name }, t(`action.${name}`))),
  );
  const show = () => {
    const { action: chosen } = session.settings.now;
    action.value = chosen;
    fill(effect, effectOf(session));
    const some = session.poorQuery || session.candidates.now.some((candidate) => session.poorCandidate(candidate));
    effect.classList.toggle("alert", some && chosen !== "off");
  };
  session.settings.watch(show, signal);
  session.examined.listen(show, signal);
  session.candidates.listen(show, signal);
  session.queryImages.listen(show, signal);
  session.queryKind.listen(show, signal);
  slider.append(action, effect);
  return slider;
}

/** What the threshold does to the present images, in words. A query below it affects every candidate. */
function effectOf(session) {
  const { action } = session.settings.now;
  if (session.poorQuery) return t(`threshold.query.${action}`);
  const visual = session.candidates.now.filter((candidate) => imagesOf(candidate).length);
  const groups = [session.usedQueryImages, ...visual.map(imagesOf)].filter(({ length }) => length);
  if (!groups.length) return t("threshold.none");
  const poor = visual.filter((candidate) => session.poorCandidate(candidate)).length;
  const isAssessed = (image) => session.facts(image) || session.refusal(image) || image.error;
  const unknown = groups.filter((images) => !images.some(isAssessed)).length;
  const effect = t(`threshold.${action}`, { poor, all: visual.length });
  return unknown ? `${effect} ${counted("threshold.unknown", unknown)}` : effect;
}

function temperature(session, signal) {
  return rangeField(session, signal, {
    name: "temperature",
    range: RANGES.temperature,
    step: 0.1,
    show: (value) => value.toFixed(1),
    about: t("temperature.about"),
  });
}

/**
 * A numeric setting: its name, its value, and a slider.
 * @param {Session} session
 * @param {AbortSignal} signal
 * @param {{name: string, range: [number, number], step: number, show: (value: number) => string, about?: string,
 *   describedBy?: string}} options range: minimum and maximum
 */
function rangeField(session, signal, { name, range: [min, max], step, show, about, describedBy }) {
  const slider = h("input", {
    type: "range",
    id: name,
    min,
    max,
    step,
    title: about,
    "aria-describedby": describedBy,
    oninput: () => session.configure({ [name]: Number(slider.value) }),
  });
  const shown = h("output", { for: name, class: "amount" });
  session.settings.watch((settings) => {
    const value = settings[name];
    slider.value = String(value);
    slider.style.setProperty("--share", String((value - min) / (max - min)));
    fill(shown, show(value));
  }, signal);
  const label = h("label", { class: "label", for: name }, t(name));
  return h("div", { class: "field" }, h("div", { class: "label-row" }, label, shown), slider);
}

function topN(session, signal) {
  const input = h("input", {
    type: "number",
    id: "top-n",
    min: 1,
    step: 1,
    inputmode: "numeric",
    placeholder: t("top_n.all"),
    onchange: () => session.configure({ topN: input.value ? Math.max(1, Math.round(Number(input.value))) : null }),
  });
  session.settings.watch((settings) => (input.value = settings.topN === null ? "" : String(settings.topN)), signal);
  return field("top_n", input);
}

function explain(session, signal) {
  const box = h("input", {
    type: "checkbox",
    id: "explain",
    onchange: () => session.configure({ explain: box.checked }),
  });
  session.settings.watch((settings) => (box.checked = settings.explain), signal);
  return h(
    "label",
    { class: "check", for: "explain" },
    box,
    h("span", {}, t("explain"), h("span", { class: "hint" }, t("explain.about"))),
  );
}

function field(name, control) {
  return h("div", { class: "field" }, h("label", { class: "label", for: control.id }, t(name)), control);
}
