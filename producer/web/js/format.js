/** Numbers, sizes and times as text. */

import { language, t } from "./i18n.js";

/** @param {number} value @param {number} [digits] */
export function number(value, digits = 0) {
  return value.toLocaleString(language.now, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A number with one decimal if it is small and not whole. @param {number} value */
export function short(value) {
  return number(value, Math.abs(value) < 10 && !Number.isInteger(value) ? 1 : 0);
}

/** @param {number} value 0..1 */
export function score(value) {
  return value.toFixed(3);
}

/** @param {number} value 0..1 */
export function percent(value) {
  return `${number(value * 100, value > 0 && value < 0.01 ? 1 : 0)}%`;
}

/** @param {number} bytes */
export function bytes(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const kilobytes = bytes / 1000;
  if (kilobytes < 1000) return `${short(kilobytes)} kB`;
  return kilobytes < 1e6 ? `${number(kilobytes / 1000, 1)} MB` : `${number(kilobytes / 1e6, 1)} GB`;
}

/** @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${number(seconds * 1000)} ms`;
  if (seconds < 60) return `${short(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return minutes < 2880 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.round(minutes / 1440)} d`;
}

/** A moment, in seconds since 1970, as a time of day; with the date if it is not today. @param {number} at_s */
export function moment(at_s) {
  const at = new Date(at_s * 1000);
  const today = at.toDateString() === new Date().toDateString();
  return at.toLocaleString(language.now, today ? { timeStyle: "medium" } : { dateStyle: "short", timeStyle: "short" });
}

/** How long ago, in words. @param {number} at_s */
export function ago(at_s) {
  return t("ago", { time: duration(Math.max(0, Date.now() / 1000 - at_s)) });
}

/** @param {[number, number]} size */
export function size([width, height]) {
  return `${width} × ${height}`;
}

/** The nearest common aspect ratio, or the exact one to two digits. @param {number} width @param {number} height */
export function aspect(width, height) {
  const ratio = width / height;
  const common = [
    [1, 1],
    [4, 3],
    [3, 2],
    [5, 3],
    [16, 10],
    [16, 9],
    [2, 1],
    [21, 9],
  ];
  for (const [long, short] of common) {
    if (Math.abs((ratio * short) / long - 1) < 0.01) return `${long}:${short}`;
    if (Math.abs((ratio * long) / short - 1) < 0.01) return `${short}:${long}`;
  }
  const [long, short] = [Math.max(ratio, 1), Math.max(1 / ratio, 1)].map((side) => Number(side.toFixed(2)));
  return `${long}:${short}`;
}
