/** A run as a shell command, a Python program, a line of a job's input, or a file. */

import { imagesOf } from "./session.js";

/** @typedef {import("./session.js").Run} Run */

/**
 * A shell command that repeats the run.
 * @param {Run} run
 * @param {boolean} keyed whether the gateway requires a key
 */
export function asCurl({ body }, keyed) {
  const key = keyed ? ' \\\n  -H "Authorization: Bearer $GATEWAY_KEY"' : "";
  const json = JSON.stringify(body, null, 1).replaceAll("'", "'\\''");
  return `curl -sS ${location.origin}/v1/rerank \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${json}'\n`;
}

/**
 * A Python program that repeats the run.
 * @param {Run} run
 * @param {boolean} keyed
 */
export function asPython({ body }, keyed) {
  const headers = keyed ? '\n    headers={"Authorization": f"Bearer {os.environ[\'GATEWAY_KEY\']}"},' : "";
  return `${keyed ? "import os\n\n" : ""}import httpx

answer = httpx.post(
    "${location.origin}/v1/rerank",
    json=${literal(body, "    ")},${headers}
    timeout=60,
).json()
for result in answer["results"]:
    print(result["index"], result["relevance_score"])
`;
}

/** A value as a Python literal. */
function literal(value, indent) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const parts = Array.isArray(value)
    ? value.map((item) => literal(item, inner))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, inner)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  return parts.length ? `${open}\n${parts.map((part) => inner + part).join(",\n")},\n${indent}${close}` : open + close;
}

/** The run as a line of a job's input. @param {Run} run */
export function asLine({ body }) {
  const { query, documents, instruction, top_n } = body;
  return `${JSON.stringify({ query, documents, instruction, top_n })}\n`;
}

/** Request and answer. @param {Run} run */
export function asJson({ body, answer, at }) {
  return JSON.stringify({ at: at.toISOString(), request: body, answer }, null, 2);
}

const COLUMNS = [
  "rank",
  "index",
  "name",
  "text",
  "relevance_score",
  "margin",
  "quality",
  "tokens",
  "used",
  "visual_match",
  "text_alignment",
  "cross_modal_consistency",
  "outcome",
  "message",
];

/** One row per candidate: ranked ones first, then those without a score. @param {Run} run */
export function asCsv(run) {
  const { results, rejected, errors } = run.answer;
  const rows = [
    ...results.map((result, at) => ({
      ...about(run, result.index),
      ...scoreColumns(result),
      rank: at + 1,
      outcome: "scored",
    })),
    ...rejected.map((entry) => ({ ...about(run, entry.index), ...entry, outcome: "rejected" })),
    ...errors.map((entry) => ({ ...about(run, entry.index), ...entry, outcome: "error" })),
  ];
  return [COLUMNS, ...rows.map((row) => COLUMNS.map((name) => row[name]))]
    .map((cells) => `${cells.map(cell).join(",")}\r\n`)
    .join("");
}

function about(run, index) {
  const candidate = run.candidates[index];
  const name = candidate && imagesOf(candidate).map(({ file }) => file.name);
  return { index, name: name?.join(" "), text: candidate?.text };
}

function scoreColumns(result) {
  const used = result.images?.map((image) => image.used.join("x")).join(" ");
  return { ...result, ...result.explain, used };
}

/** A cell; text that a spreadsheet would run as a formula gets a leading apostrophe. */
function cell(value) {
  const text = String(value ?? "");
  const safe = typeof value === "string" && /^[=+@-]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
