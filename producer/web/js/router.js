/** The address of the page: the tab, the job, and the settings of the Rerank tab. */

import { DEFAULTS, RANGES } from "./rerank/session.js";
import { Value } from "./value.js";

export const TABS = ["rerank", "jobs", "fleet"];

/** @typedef {{tab: string, job: string}} Route */

/** The current route. */
export const route = new Value(read());

addEventListener("hashchange", () => route.set(read()));

/** @returns {Route} */
function read() {
  const [tab, job = ""] = location.hash.replace(/^#\/?/, "").split("?")[0].split("/").map(decoded);
  return { tab: TABS.includes(tab) ? tab : "rerank", job };
}

/**
 * A decoded part of the address; unchanged if it is not valid percent-encoding, such as "100%".
 * @param {string} part
 */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of a tab or a job. @param {string} tab @param {string} [job] */
export function addressOf(tab, job = "") {
  return `#/${tab}${job && `/${encodeURIComponent(job)}`}`;
}

/**
 * Read the session's settings from the address, and keep the address up to date from now on.
 * @param {import("./rerank/session.js").Session} session
 */
export function syncSettings(session) {
  readSettings(session, queryOf(location.hash));
  const always = new AbortController().signal;
  const write = () => {
    if (route.now.tab !== "rerank") return;
    const query = writeSettings(session).toString();
    history.replaceState(null, "", addressOf("rerank") + (query && `?${query}`));
  };
  addEventListener("hashchange", ({ newURL }) => readSettings(session, queryOf(new URL(newURL).hash)));
  for (const value of [session.settings, session.instruction, session.queryText, session.view])
    value.listen(write, always);
  route.listen(write, always);
}

function queryOf(hash) {
  return new URLSearchParams(hash.split("?")[1] ?? "");
}

/** Apply a link's settings; missing or invalid ones get their defaults. A link without any changes nothing. */
function readSettings(session, query) {
  if (!query.size) return;
  const number = (name, [min, max]) => {
    const value = Number.parseFloat(query.get(name) ?? "");
    return value >= min && value <= max ? value : undefined;
  };
  const oneOf = (name, allowed) => (allowed.includes(query.get(name)) ? query.get(name) : undefined);
  const topN = number("top_n", [1, Infinity]);
  const linked = {
    preset: query.get("preset") ?? undefined,
    mode: oneOf("mode", ["crop", "fit"]),
    threshold: number("threshold", RANGES.threshold),
    action: oneOf("below", ["reject", "downweight", "off"]),
    temperature: number("temperature", RANGES.temperature),
    topN: topN && Math.floor(topN),
    explain: query.has("explain") ? query.get("explain") === "true" : undefined,
  };
  session.configure({
    ...DEFAULTS,
    ...Object.fromEntries(Object.entries(linked).filter(([, value]) => value !== undefined)),
  });
  session.instruction.set(query.get("instruction") ?? "");
  session.queryText.set(query.get("query") ?? "");
  session.view.set(oneOf("view", ["list", "grid"]) ?? "list");
}

function writeSettings(session) {
  const { preset, mode, threshold, action, temperature, topN, explain } = session.settings.now;
  const all = { preset, mode, threshold, below: action, temperature, top_n: topN, explain };
  const defaults = { ...DEFAULTS, below: DEFAULTS.action, top_n: DEFAULTS.topN };
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(all)) if (value !== defaults[name]) query.set(name, String(value));
  if (session.instruction.now) query.set("instruction", session.instruction.now);
  if (session.queryText.now) query.set("query", session.queryText.now);
  if (session.view.now !== "list") query.set("view", session.view.now);
  return query;
}
