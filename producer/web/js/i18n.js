/** The words of the page in the reader's language. */

import { remembered } from "./value.js";
import { en } from "./words/en.js";
import { zh } from "./words/zh.js";

const DICTIONARIES = { en, zh };

/** Code of the language in use: "en" or "zh". */
export const language = remembered("language", navigator.language.startsWith("zh") ? "zh" : "en");

/**
 * The text of a key, with {name} replaced.
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  const text = DICTIONARIES[language.now]?.[key] ?? en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/**
 * A count with its noun: the key with `.one` for 1.
 * @param {string} key
 * @param {number} count
 */
export function counted(key, count) {
  return t(count === 1 && `${key}.one` in en ? `${key}.one` : key, { n: count.toLocaleString(language.now) });
}
