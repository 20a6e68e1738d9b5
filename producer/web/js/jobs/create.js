/** The dialog that starts a job from a file or a URI. */

import { fill, h } from "../dom.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { addressOf } from "../router.js";

/**
 * The dialog. `showModal` opens it, and so does dropping a file on the page.
 * @param {import("../main.js").App} app
 * @param {AbortSignal} signal
 * @returns {HTMLDialogElement}
 */
export function newJobDialog(app, signal) {
  const form = new JobForm(app);
  const stop = () => {
    form.stop.abort();
    dialog.close();
  };
  const message = h("p", { class: "form-message", role: "alert" });
  const dialog = h(
    "dialog",
    { id: "job-dialog", "aria-labelledby": "job-dialog-label" },
    h(
      "form",
      {
        method: "dialog",
        onsubmit: async (event) => {
          event.preventDefault();
          start.disabled = true;
          try {
            const job = await form.submit((text) => fill(message, text));
            dialog.close();
            location.hash = addressOf("jobs", job.id);
          } catch (error) {
            fill(message, [error.message, error.hint].filter(Boolean).join(" – "));
          } finally {
            start.disabled = false;
          }
        },
      },
      h("h2", { id: "job-dialog-label" }, t("job.new")),
      form.elements,
      message,
      h("div", { class: "buttons" }, h("button", { type: "button", class: "button", onclick: stop }, t("cancel"))),
    ),
  );
  const start = h("button", { class: "button primary", id: "start-job" }, t("job.start"));
  dialog.querySelector(".buttons").append(start);
  document.body.addEventListener("dragover", (event) => event.preventDefault(), { signal });
  document.body.addEventListener(
    "drop",
    (event) => {
      event.preventDefault();
      if (!event.dataTransfer?.files.length) return;
      form.file.files = event.dataTransfer.files;
      if (!dialog.open) dialog.showModal();
    },
    { signal },
  );
  return dialog;
}

/** The fields of the form and the request that they make. */
class JobForm {
  constructor(app) {
    this.app = app;
    this.stop = new AbortController();
    this.file = h("input", { type: "file", id: "job-file", accept: ".jsonl,.gz,.csv,.parquet,.txt,application/json" });
    this.uri = h("input", { type: "text", id: "job-uri", placeholder: "s3://bucket/pairs.jsonl" });
    this.name = h("input", { type: "text", id: "job-name", maxlength: 200 });
    this.output = h("input", { type: "text", id: "job-output", placeholder: "s3://bucket/ranked.jsonl" });
    this.model = choice(
      "job-model",
      (app.models.now ?? []).map(({ id }) => [id, id]),
      app.model()?.id,
    );
    this.profile = choice("job-profile", [
      ["", t("job.profile.none")],
      ...app.session.offers.profiles.map(({ name }) => [name, name]),
    ]);
    this.instruction = h("input", { type: "text", id: "job-instruction" });
    this.topN = h("input", { type: "number", id: "job-top-n", min: 1 });
    this.preset = choice(
      "job-preset",
      app.session.offers.image_presets.map(({ name }) => [name, t(`preset.${name}`)]),
      "general",
    );
    this.action = choice(
      "job-action",
      ["off", "reject", "downweight"].map((name) => [name, t(`action.${name}`)]),
    );
    this.explain = h("input", { type: "checkbox", id: "job-explain" });
    this.queries = h("textarea", { id: "job-queries", rows: 3, "aria-describedby": "job-queries-about" });
    this.format = choice(
      "job-format",
      ["jsonl", "parquet"].map((name) => [name, t(`format.${name}`)]),
    );
  }

  get elements() {
    const { profiles } = this.app.session.offers;
    return [
      h(
        "fieldset",
        {},
        h("legend", {}, t("job.input")),
        field("job.file", this.file),
        h("p", { class: "or" }, t("or")),
        field("job.uri", this.uri),
      ),
      h("div", { class: "two" }, field("job.name", this.name), field("model", this.model)),
      h(
        "details",
        {},
        h("summary", {}, t("job.options")),
        h("div", { class: "two" }, field("instruction", this.instruction), field("top_n", this.topN)),
        h("div", { class: "two" }, field("preset", this.preset), field("action", this.action)),
        profiles.length > 0 && field("job.profile", this.profile),
        field("job.output", this.output),
        field("job.queries", this.queries),
        h("p", { class: "hint", id: "job-queries-about" }, t("job.queries.about")),
        field("job.format", this.format),
        h("label", { class: "check", for: "job-explain" }, this.explain, h("span", {}, t("explain"))),
      ),
    ];
  }

  /** Upload the file, if there is one, and create the job. @param {(text: string) => void} report */
  async submit(report) {
    const [file] = this.file.files;
    const uri = this.uri.value.trim();
    if (Boolean(file) === Boolean(uri)) throw new Error(t("job.need.input"));
    this.stop = new AbortController();
    const input = file ? await this.upload(file, report) : uri;
    return this.app.api.createJob(this.body(input, file?.name ?? "")).catch((error) => {
      if (file) error.message = error.message.replaceAll(input, file.name); // users do not know upload addresses
      throw error;
    });
  }

  async upload(file, report) {
    const { uri } = await this.app.api.upload(
      file,
      (share) => report(t("image.sent", { share: format.percent(share) })),
      this.stop.signal,
    );
    return uri;
  }

  body(input, fileName) {
    const image = {
      ...(this.preset.value !== "general" && { preset: this.preset.value }), // unset, the profile decides
      ...(this.action.value !== "off" && { quality_action: this.action.value }),
    };
    const queries = this.queries.value
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean);
    const body = {
      input,
      name: this.name.value.trim() || fileName.slice(0, 200),
      model: this.model.value,
      output: this.output.value.trim(),
      profile: this.profile.value,
      instruction: this.instruction.value.trim(),
      top_n: Number(this.topN.value),
      explain: this.explain.checked,
      image: Object.keys(image).length > 0 && image,
      catalog: queries.length > 0 && { queries, format: this.format.value },
    };
    return Object.fromEntries(Object.entries(body).filter(([, value]) => value));
  }
}

function choice(id, options, selected = "") {
  return h(
    "select",
    { id },
    options.map(([value, label]) => h("option", { value, selected: value === selected }, label)),
  );
}

function field(name, control) {
  return h("div", { class: "field" }, h("label", { class: "label", for: control.id }, t(name)), control);
}
