/** Small SVG charts, drawn to fit their element. Each shows its latest value as text, too. */

import { fill, h, s } from "./dom.js";
import * as format from "./format.js";
import { t } from "./i18n.js";

const HEIGHT_PX = 150;
const PAD = { left: 44, right: 12, top: 10, bottom: 22 };
const LINES = 3;
const STEPS = [1.2, 1.5, 2.4, 3, 4.5, 6, 7.5, 9, 12];

/**
 * @typedef {object} Series
 * @property {string} name
 * @property {[number, number][]} points time in seconds since 1970, value
 */

/**
 * @typedef {object} Mark an event on the time axis
 * @property {number} at_s
 * @property {number} value
 * @property {string} label
 * @property {number} series
 */

/** What all charts share: a frame with a title, and redrawing when the size changes. */
class Chart {
  /** @param {string} title @param {string} about @param {AbortSignal} signal */
  constructor(title, about, signal) {
    this.summary = h("span", { class: "chart-now" });
    this.legend = h("div", { class: "legend" });
    this.plot = h("div", { class: "plot" });
    this.tip = h("div", { class: "tip", hidden: true, role: "status" });
    this.element = h(
      "figure",
      { class: "chart" },
      h("figcaption", {}, h("span", { class: "chart-title", title: about }, title), this.summary),
      this.plot,
      this.legend,
    );
    const observer = new ResizeObserver(() => this.draw());
    observer.observe(this.plot);
    /** Whether newer data waits to be drawn. */
    this.stale = false;
    const catchUp = () => this.stale && this.refresh();
    this.plot.addEventListener("pointerleave", catchUp);
    this.plot.addEventListener("focusout", () => setTimeout(catchUp)); // once the focus has moved
    signal.addEventListener("abort", () => observer.disconnect(), { once: true });
  }

  /** Draw new data, but not while the chart has the pointer or the focus: then draw it once they have left. */
  refresh() {
    this.stale = this.plot.matches(":hover, :focus-within") && this.plot.querySelector("svg") !== null;
    if (!this.stale) this.draw();
  }

  /** Draw, unless the chart has no size yet. */
  draw() {
    const width = this.plot.clientWidth;
    if (!width) return;
    fill(this.plot, this.drawing(width) ?? h("p", { class: "empty" }, t("chart.empty")), this.tip);
    this.tip.hidden = true;
  }

  /** The drawing; null if there is nothing to draw. @param {number} _width @returns {SVGElement | null} */
  drawing(_width) {
    return null;
  }

  names(names) {
    fill(this.legend, names.length > 1 && names.map((name, at) => h("span", { class: `key series-${at % 4}` }, name)));
  }

  point(text, x, width) {
    fill(this.tip, text);
    this.tip.hidden = false;
    this.tip.style.setProperty("--x", `${Math.min(Math.max(x, 60), width - 60)}px`);
  }

  frame(width, top, ends) {
    const y = (value) => HEIGHT_PX - PAD.bottom - (value / top) * (HEIGHT_PX - PAD.top - PAD.bottom);
    const levels = Array.from({ length: LINES + 1 }, (_, at) => (top * at) / LINES);
    const grid = levels
      .map((level) => [
        s("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: y(level), y2: y(level) }),
        s("text", { class: "tick", x: PAD.left - 6, y: y(level) + 4, "text-anchor": "end" }, this.axis(level)),
      ])
      .flat();
    const [from, to] = ends;
    const foot = HEIGHT_PX - 6;
    const labels = [
      s("text", { class: "tick", x: PAD.left, y: foot }, from),
      s("text", { class: "tick", x: width - PAD.right, y: foot, "text-anchor": "end" }, to),
    ];
    return { y, parts: [...grid, ...labels] };
  }

  axis(level) {
    return level >= 10_000 ? `${format.short(level / 1000)}k` : format.short(level);
  }
}

/** Values over time. */
export class LineChart extends Chart {
  /**
   * @param {{title: string, about?: string, unit: string, step?: boolean, show?: (value: number) => string}} options
   * @param {AbortSignal} signal
   */
  constructor({ title, about = "", unit, step = false, show = format.short }, signal) {
    super(title, about, signal);
    this.unit = unit;
    this.step = step;
    this.format = show;
    /** @type {Series[]} */
    this.series = [];
    /** @type {Mark[]} */
    this.marks = [];
  }

  /** @param {Series[]} series @param {Mark[]} [marks] */
  show(series, marks = []) {
    this.series = series.filter(({ points }) => points.length);
    this.marks = marks;
    this.names(this.series.map(({ name }) => name));
    const last = this.series.map(({ points }) => points[points.length - 1][1]);
    fill(this.summary, last.length ? `${last.map(this.format).join(" · ")} ${this.unit}` : "");
    this.refresh();
  }

  /** @param {number} width @returns {SVGElement | null} */
  drawing(width) {
    if (!this.series.length) return null;
    const all = this.series.flatMap(({ points }) => points);
    const from = Math.min(...all.map(([at]) => at));
    const to = Math.max(...all.map(([at]) => at), from + 1);
    const top = niceTop(Math.max(...all.map(([, value]) => value)));
    const x = (at) => PAD.left + ((at - from) / (to - from)) * (width - PAD.left - PAD.right);
    const { y, parts } = this.frame(width, top, [clock(from), clock(to)]);
    const guide = s("line", { class: "guide", y1: PAD.top, y2: HEIGHT_PX - PAD.bottom, visibility: "hidden" });
    return s(
      "svg",
      {
        width,
        height: HEIGHT_PX,
        role: "img",
        "aria-label": `${this.element.querySelector(".chart-title").textContent}: ${this.summary.textContent}`,
        onpointermove: (event) => this.follow(event, { from, to, x, width, guide }),
        onpointerleave: () => {
          guide.setAttribute("visibility", "hidden");
          this.tip.hidden = true;
        },
      },
      parts,
      this.series.map(({ points }, at) => this.line(points, at, x, y)),
      guide,
      this.marks.filter(({ at_s }) => at_s >= from && at_s <= to).map((mark) => this.mark(mark, x, y, width)),
    );
  }

  line(points, at, x, y) {
    const path = points
      .map(([time, value], n) => {
        if (n === 0) return `M${x(time)} ${y(value)}`;
        return this.step ? `H${x(time)}V${y(value)}` : `L${x(time)} ${y(value)}`;
      })
      .join("");
    const base = HEIGHT_PX - PAD.bottom;
    const area =
      this.series.length === 1 && s("path", { class: `area series-${at}`, d: `${path}V${base}H${x(points[0][0])}Z` });
    const end = points[points.length - 1];
    return s(
      "g",
      {},
      area,
      s("path", { class: `line series-${at % 4}`, d: path }),
      s("circle", { class: `dot series-${at % 4}`, cx: x(end[0]), cy: y(end[1]), r: 2.5 }),
    );
  }

  mark({ at_s, value, label, series }, x, y, width) {
    const show = () => this.point(label, x(at_s), width);
    return s(
      "circle",
      {
        class: `mark series-${series % 4}`,
        cx: x(at_s),
        cy: y(value),
        r: 4,
        tabindex: 0,
        role: "img",
        "aria-label": label,
        onfocus: show,
        onpointerenter: show,
        onblur: () => (this.tip.hidden = true),
      },
      s("title", {}, label),
    );
  }

  follow(event, { from, to, x, width, guide }) {
    if (event.target.classList.contains("mark")) return;
    const left = event.clientX - this.plot.getBoundingClientRect().left;
    const at = from + ((left - PAD.left) / (width - PAD.left - PAD.right)) * (to - from);
    const values = this.series.map(({ name, points }) => {
      const [, value] = points.findLast(([time]) => time <= at) ?? points[0];
      return `${this.series.length > 1 ? `${name}: ` : ""}${this.format(value)} ${this.unit}`;
    });
    const inside = Math.min(Math.max(at, from), to);
    guide.setAttribute("visibility", "visible");
    guide.setAttribute("x1", x(inside));
    guide.setAttribute("x2", x(inside));
    this.point(`${clock(inside)} · ${values.join(" · ")}`, x(inside), width);
  }
}

/** Stacked columns. */
export class ColumnChart extends Chart {
  /**
   * @param {{title: string, about?: string, names: string[], ends: [string, string], show?: (value: number) => string}} options
   * @param {AbortSignal} signal
   */
  constructor({ title, about = "", names, ends, show = format.short }, signal) {
    super(title, about, signal);
    this.parts = names;
    this.ends = ends;
    this.format = show;
    /** @type {{values: number[], label: string}[]} */
    this.columns = [];
    this.names(names);
  }

  /** @param {{values: number[], label: string}[]} columns @param {string} summary */
  show(columns, summary) {
    this.columns = columns;
    fill(this.summary, summary);
    this.refresh();
  }

  axis(level) {
    return this.format(level);
  }

  /** @param {number} width @returns {SVGElement | null} */
  drawing(width) {
    if (!this.columns.some(({ values }) => sum(values) > 0)) return null;
    const top = niceTop(Math.max(...this.columns.map(({ values }) => sum(values))));
    const { y, parts } = this.frame(width, top, this.ends);
    const room = (width - PAD.left - PAD.right) / this.columns.length;
    const gap = Math.min(2, room / 4);
    return s(
      "svg",
      {
        width,
        height: HEIGHT_PX,
        role: "img",
        "aria-label": `${this.element.querySelector(".chart-title").textContent}: ${this.summary.textContent}`,
        onpointerleave: () => (this.tip.hidden = true),
      },
      parts,
      this.columns.map(({ values, label }, at) => {
        const left = PAD.left + at * room;
        let below = 0;
        const rects = values.map((value, part) => {
          const [low, high] = [y(below), y(below + value)];
          below += value;
          return s("rect", {
            class: `column series-${part % 4}`,
            x: left + gap / 2,
            width: Math.max(0.5, room - gap),
            y: high,
            height: Math.max(0, low - high),
          });
        });
        const catcher = s("rect", {
          class: "catcher",
          x: left,
          width: room,
          y: PAD.top,
          height: HEIGHT_PX - PAD.top - PAD.bottom,
        });
        return s(
          "g",
          { onpointerenter: () => this.point(label, left + room / 2, width) },
          rects,
          catcher,
          s("title", {}, label),
        );
      }),
    );
  }
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

/** The smallest round number that is not below the value and has round thirds. */
function niceTop(value) {
  if (value <= 0) return 3;
  const power = 10 ** Math.floor(Math.log10(value));
  return (STEPS.find((step) => step * power >= value) ?? 12) * power;
}

function clock(at_s) {
  return new Date(at_s * 1000).toLocaleTimeString([], {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    hour12: false,
  });
}
