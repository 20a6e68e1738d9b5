/** The settings of a run. */

import { fill, h } from "../dom.js";
import { counted, t } from "../i18n.js";

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
          class: "unseen",
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
  const slider = h("input", {
    type: "range",
    id: "threshold",
    min: 0,
    max: 1,
    step: 0.01,
    "aria-describedby": "threshold-effect",
    oninput: () => session.configure({ threshold: Number(slider.value) }),
  });
  const shown = h("output", { for: "threshold", class: "amount" });
  const effect = h("p", { class: "hint", id: "threshold-effect", "aria-live": "polite" });
  const action = h(
    "select",
    { id: "quality-action", "aria-label": t("action"), onchange: () => session.configure({ action: action.value }) },
    ["reject", "downweight", "off"].map((name) => h("option", { value: name }, t(`action.${name}`))),
  );
  const show = () => {
    const { threshold: value, action: chosen } = session.settings.now;
    slider.value = String(value);
    slider.style.setProperty("--share", String(value));
    fill(shown, value.toFixed(2));
    action.value = chosen;
    fill(effect, effectOf(session));
    effect.classList.toggle(
      "alert",
      session.candidates.now.some(({ picture }) => picture && session.poor(picture)) && chosen !== "off",
    );
  };
  session.settings.watch(show, signal);
  session.examined.listen(show, signal);
  session.candidates.listen(show, signal);
  return h(
    "div",
    { class: "field" },
    h("div", { class: "label-row" }, h("label", { class: "label", for: "threshold" }, t("threshold")), shown),
    slider,
    action,
    effect,
  );
}

/** What the threshold does to the pictures that are here, in words. */
function effectOf(session) {
  const pictures = session.candidates.now.flatMap(({ picture }) => picture ?? []);
  if (!pictures.length) return t("threshold.none");
  const poor = pictures.filter((picture) => session.poor(picture)).length;
  const known = pictures.filter((picture) => session.facts(picture)).length;
  const said = t(`threshold.${session.settings.now.action}`, { poor, all: pictures.length });
  return known < pictures.length ? `${said} ${counted("threshold.unknown", pictures.length - known)}` : said;
}

function temperature(session, signal) {
  const slider = h("input", {
    type: "range",
    id: "temperature",
    min: 0.1,
    max: 2,
    step: 0.1,
    title: t("temperature.about"),
    oninput: () => session.configure({ temperature: Number(slider.value) }),
  });
  const shown = h("output", { for: "temperature", class: "amount" });
  session.settings.watch((settings) => {
    slider.value = String(settings.temperature);
    slider.style.setProperty("--share", String((settings.temperature - 0.1) / 1.9));
    fill(shown, settings.temperature.toFixed(1));
  }, signal);
  return h(
    "div",
    { class: "field" },
    h("div", { class: "label-row" }, h("label", { class: "label", for: "temperature" }, t("temperature")), shown),
    slider,
  );
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
