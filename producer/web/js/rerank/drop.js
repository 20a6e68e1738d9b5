/** Files and text that are dropped, pasted or chosen. */

import { h } from "../dom.js";
import { t } from "../i18n.js";
import { isImage } from "./images.js";

/**
 * What was dropped, pasted or chosen: images, possibly with captions, and lines of text.
 * @typedef {object} Incoming
 * @property {{file: File, caption: string}[]} images
 * @property {string[]} lines
 * @property {File[]} unknown files that are neither images nor text
 */

/**
 * Make an element a drop target.
 * @param {HTMLElement} element
 * @param {(incoming: Incoming) => void} take
 * @param {AbortSignal} signal
 */
export function acceptDrops(element, take, signal) {
  let inside = 0; // dragenter and dragleave fire for each child, too
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
      if (event.defaultPrevented) return; // a nested drop target took it
      event.preventDefault();
      take(await fromTransfer(event.dataTransfer));
    },
    { signal },
  );
  signal.addEventListener("abort", () => element.classList.remove("dropping"), { once: true });
}

/**
 * The content of a drop or a paste.
 * @param {DataTransfer | null} transfer
 * @returns {Promise<Incoming>}
 */
export async function fromTransfer(transfer) {
  const files = [...(transfer?.files ?? [])];
  if (files.length) return sortFiles(files);
  return { images: [], lines: linesOf(transfer?.getData("text/plain") ?? ""), unknown: [] };
}

/**
 * Sort files into images and lines of text. A text file named like an image is its caption.
 * @param {File[]} files
 * @returns {Promise<Incoming>}
 */
export async function sortFiles(files) {
  const images = files.filter(isImage).map((file) => ({ file, caption: "" }));
  const lines = [];
  const unknown = [];
  for (const file of files.filter((file) => !isImage(file))) {
    const owner = images.find((image) => stem(image.file) === stem(file));
    if (!isText(file)) unknown.push(file);
    else if (owner) owner.caption = (await file.text()).trim();
    else lines.push(...linesOf(await file.text()));
  }
  return { images, lines, unknown };
}

/**
 * Images in the order of frames: by name, with 2 before 10.
 * @template {{file: File}} T
 * @param {T[]} images
 */
export function inFrameOrder(images) {
  const { compare } = new Intl.Collator("en", { numeric: true });
  return [...images].sort((a, b) => compare(a.file.name, b.file.name));
}

/** The messages about files that cannot be read. @param {File[]} files */
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
 * A button that opens the file picker.
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
    class: "visually-hidden",
    tabindex: "-1",
    "aria-hidden": "true", // the visible button acts for it
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

/** Whether a file looks like the input of a job. */
function isTable(file) {
  return /\.(csv|tsv|jsonl|ndjson|parquet|gz)$/i.test(file.name);
}
