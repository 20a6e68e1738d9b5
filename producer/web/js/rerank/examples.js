/** Examples to start from while the page is empty. */

import { h } from "../dom.js";
import { language, t } from "../i18n.js";
import { addCandidates } from "./candidates.js";
import { addToQuery } from "./query.js";

const FOLDER = "example";
const SHOWN = 4;

/**
 * @typedef {object} Example
 * @property {Record<string, string>} title by language
 * @property {string} instruction
 * @property {{text: string, image?: string}} query
 * @property {{text?: string, image?: string}[]} documents
 */

/**
 * The empty state: a few examples as buttons.
 * @param {import("./session.js").Session} session
 * @param {import("./images.js").Intake} intake
 * @param {AbortSignal} signal
 */
export function exampleOffers(session, intake, signal) {
  const offers = h("div", { class: "offers" });
  loadExamples().then((examples) => {
    if (!signal.aborted)
      offers.append(...examples.map((example, at) => offer(example, at, () => use(example, session, intake))));
  });
  return h("div", { class: "examples" }, h("p", { class: "hint" }, t("examples.lead")), offers);
}

/** @returns {Promise<Example[]>} */
async function loadExamples() {
  const response = await fetch(`${FOLDER}/examples.json`);
  return response.ok ? response.json() : [];
}

function offer(example, at, onclick) {
  const images = example.documents.flatMap(({ image }) => image ?? []).slice(0, SHOWN);
  return h(
    "button",
    { type: "button", class: "offer", "data-example": at, onclick },
    images.length
      ? h(
          "span",
          { class: "strip" },
          images.map((name) => h("img", { src: `${FOLDER}/${name}`, alt: "" })),
        )
      : h(
          "span",
          { class: "strip words" },
          example.documents.slice(0, 3).map(({ text }) => h("span", {}, text)),
        ),
    h("strong", {}, example.title[language.now] ?? example.title.en),
    h("span", { class: "hint" }, `${example.query.text} · ${t("candidates.count", { n: example.documents.length })}`),
  );
}

async function use(example, session, intake) {
  session.instruction.set(example.instruction);
  session.queryImages.set([]);
  session.queryKind.set("text");
  session.queryText.set(example.query.text);
  if (example.query.image) {
    await addToQuery(session, intake, {
      images: [{ file: await fileOf(example.query.image), caption: "" }],
      lines: [],
      unknown: [],
    });
  }
  const images = await Promise.all(
    example.documents
      .filter(({ image }) => image)
      .map(async ({ image, text }) => ({ file: await fileOf(image), caption: text ?? "" })),
  );
  const lines = example.documents.filter(({ image }) => !image).map(({ text }) => text ?? "");
  await addCandidates(session, intake, { images, lines, unknown: [] });
  document.getElementById("run-button")?.focus({ preventScroll: true });
}

async function fileOf(name) {
  const response = await fetch(`${FOLDER}/${name}`);
  const blob = await response.blob();
  return new File([blob], name, { type: blob.type });
}
