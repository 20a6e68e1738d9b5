/** Files and text that are dropped, pasted or browsed for. */

import { h } from "../dom.js";
import { t } from "../i18n.js";
import { isPicture } from "./pictures.js";

/**
 * What was brought: pictures, each perhaps with a caption, and lines of text.
 * @typedef {object} Brought
 * @property {{file: File, caption: string}[]} pictures
 * @property {string[]} lines
 * @property {File[]} unknown files that are neither
 */

/**
 * Let things be dropped on an element.
 * @param {HTMLElement} element
 * @param {(brought: Brought) => void} take
 * @param {AbortSignal} signal
 */
export function acceptDrops(element, take, signal) {
  let inside = 0; // enter and leave come for each child, too
  const mark = (step) => {
    inside = Math.max(0, inside + step);
    element.classList.toggle("dropping", inside > 0);
  };
  element.addEventListener("dragenter", () => mark(1), { signal });
  element.addEventListener("dragleave", () => mark(-1), { signal });
  element.addEventListener("dragover", (event) => event.preventDefault(), { signal });
  element.addEventListener(
    "drop",
    async (event) => {
      mark(-inside);
      if (event.defaultPrevented) return; // an element inside took it
      event.preventDefault();
      take(await fromTransfer(event.dataTransfer));
    },
    { signal },
  );
  signal.addEventListener("abort", () => element.classList.remove("dropping"), { once: true });
}

/**
 * What a drop or a paste holds.
 * @param {DataTransfer | null} transfer
 * @returns {Promise<Brought>}
 */
export async function fromTransfer(transfer) {
  const files = [...(transfer?.files ?? [])];
  if (files.length) return sortFiles(files);
  return { pictures: [], lines: linesOf(transfer?.getData("text/plain") ?? ""), unknown: [] };
}

/**
 * Pictures, and the lines of text files. A text file with a picture's name is its caption.
 * @param {File[]} files
 * @returns {Promise<Brought>}
 */
export async function sortFiles(files) {
  const pictures = files.filter(isPicture).map((file) => ({ file, caption: "" }));
  const lines = [];
  const unknown = [];
  for (const file of files.filter((file) => !isPicture(file))) {
    const owner = pictures.find((picture) => stem(picture.file) === stem(file));
    if (!isText(file)) unknown.push(file);
    else if (owner) owner.caption = (await file.text()).trim();
    else lines.push(...linesOf(await file.text()));
  }
  return { pictures, lines, unknown };
}

/**
 * Pictures as frames follow each other: by name, where 2 comes before 10.
 * @template {{file: File}} T
 * @param {T[]} pictures
 */
export function inFrameOrder(pictures) {
  const { compare } = new Intl.Collator("en", { numeric: true });
  return [...pictures].sort((a, b) => compare(a.file.name, b.file.name));
}

/** What is said of files that cannot be read. @param {File[]} files */
export function unreadableLines(files) {
  if (!files.length) return [];
  return [
    t("unreadable", { names: files.map(({ name }) => name).join(", ") }),
    files.some(({ type }) => type.startsWith("video/")) && t("unreadable.video"),
    files.some(isTable) && t("unreadable.table"),
  ].filter(Boolean);
}

/** @param {string} text */
export function linesOf(text) {
  return text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter(Boolean);
}

/**
 * A button that opens the browser's choice of files.
 * @param {string} label
 * @param {{multiple?: boolean, accept?: string, id?: string, class?: string}} options
 * @param {(files: File[]) => void} take
 */
export function browseButton(label, { multiple = false, accept = "image/*", id, class: kind = "button" }, take) {
  const input = h("input", {
    type: "file",
    id,
    accept,
    multiple,
    class: "unseen",
    tabindex: "-1",
    "aria-hidden": "true", // the button beside it speaks for it
    onchange: (event) => {
      const files = [...event.target.files];
      event.target.value = "";
      if (files.length) take(files);
    },
  });
  return h(
    "span",
    { class: "browse" },
    h("button", { type: "button", class: kind, onclick: () => input.click() }, label),
    input,
  );
}

function stem(file) {
  return file.name.replace(/\.[^.]+$/, "");
}

function isText(file) {
  return !isTable(file) && (file.type.startsWith("text/") || /\.(txt|md)$/i.test(file.name));
}

/** Whether a file is rather a job's input. */
function isTable(file) {
  return /\.(csv|tsv|jsonl|ndjson|parquet|gz)$/i.test(file.name);
}
