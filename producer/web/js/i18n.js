/** The texts of the page in the chosen language. */

import { remembered } from "./value.js";
import { en } from "./words/en.js";
import { zh } from "./words/zh.js";

const DICTIONARIES = { en, zh };

/** The current language: "en" or "zh". */
export const language = remembered("language", navigator.language.startsWith("zh") ? "zh" : "en");

/**
 * The text of a key, with its {placeholders} filled in.
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  const text = DICTIONARIES[language.now]?.[key] ?? en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/**
 * A text with a count; for 1, the key with `.one`, if there is one.
 * @param {string} key
 * @param {number} count
 */
export function counted(key, count) {
  return t(count === 1 && `${key}.one` in en ? `${key}.one` : key, { n: count.toLocaleString(language.now) });
}
