/** Line charts by uPlot in the page's colours, each with its numbers as a table. */

import { colour, el, onScheme, plainTable } from "./dom.js";

const HEIGHT_PX = 190;
const MAX_LISTED = 200;
const WHOLE_STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000];

/** Ticks of time, by their distance in seconds: a clock of 24 hours, with the day where it changes. */
const CLOCK_VALUES = [
  [86_400, "{D} {MMM}", null, null, null, null, null, null, 1],
  [60, "{HH}:{mm}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
];

/** @typedef {{label: string, colour: string, dash?: number[], stepped?: boolean, points?: boolean, line?: boolean,
 *   show?: (value: number) => string}} Series `colour` names one of the style sheet */

/** A chart in `root`; drawn anew when the scheme or the width changes. */
export class Chart {
  /**
   * @param {HTMLElement} root
   * @param {{name: string, x: {label: string, time?: boolean, show?: (value: number) => string}, series: Series[],
   *   y?: string, fromZero?: boolean, whole?: boolean,
   *   named?: boolean}} options `whole`: y counts things; `named`: x counts things that have names
   */
  constructor(root, options) {
    this.root = root;
    this.options = options;
    /** @type {any} */
    this.plot = null;
    /** @type {(number|null)[][]} */
    this.columns = [];
    this.box = el("div", { role: "img", "aria-label": options.name });
    this.numbers = el("div", { class: "table-box", tabindex: 0, role: "region", "aria-label": `${options.name}: the numbers` });
    this.details = el("details", {}, el("summary", {}, "The numbers"), this.numbers);
    this.details.addEventListener("toggle", () => this.#list());
    root.replaceChildren(this.box, this.details);
    onScheme(() => this.#make());
    new ResizeObserver(() => {
      if (!this.plot) this.#make();
      else if (this.root.clientWidth) this.plot.setSize({ width: this.root.clientWidth, height: HEIGHT_PX });
    }).observe(root);
  }

  /** @param {(number|null)[][]} columns x, then one for each series */
  show(columns) {
    this.columns = columns;
    if (this.plot) this.plot.setData(columns);
    else this.#make();
    this.#list();
  }

  #make() {
    this.plot?.destroy();
    this.plot = null;
    const width = this.root.clientWidth;
    if (!width || !this.columns.length) return;
    const { x, series, y, fromZero = true, whole = false, named = false } = this.options;
    const uPlot = /** @type {any} */ (window).uPlot;
    const names = (/** @type {any} */ _u, /** @type {number[]} */ ticks) => ticks.map((tick) => x.show?.(tick) ?? tick);
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { stroke: colour("--grid"), width: 1 }, font: "11px system-ui" };
    this.plot = new uPlot(
      {
        width, height: HEIGHT_PX,
        scales: { x: { time: Boolean(x.time), range: named ? apart : undefined }, y: { range: (/** @type {any} */ _u, /** @type {number} */ low, /** @type {number} */ high) => spread(low, high, fromZero) } },
        axes: [{ ...axis, values: x.time ? CLOCK_VALUES : named ? names : undefined, incrs: named ? WHOLE_STEPS : undefined }, { ...axis, incrs: whole ? WHOLE_STEPS : undefined, label: y, labelFont: "11px system-ui", labelSize: y ? 16 : 0, size: 44 }],
        series: [
          { label: x.label, value: x.show ? (/** @type {any} */ _u, /** @type {number} */ v) => (v === null ? "–" : x.show?.(v)) : undefined },
          ...series.map((one) => ({
            label: one.label, stroke: colour(one.colour), width: one.line === false ? 0 : 1.75, dash: one.dash, spanGaps: false,
            paths: one.line === false ? () => null : one.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
            points: { show: Boolean(one.points), size: 5 },
            value: (/** @type {any} */ _u, /** @type {number|null} */ v) => (v === null ? "–" : one.show ? one.show(v) : String(v)),
          })),
        ],
        cursor: { drag: { x: true, y: false } },
      },
      this.columns,
      this.box,
    );
  }

  #list() {
    if (!this.details.open) return;
    const { x, series } = this.options;
    const [first] = this.columns;
    const rows = first.map((_value, at) => at).slice(-MAX_LISTED).reverse();
    const titles = [x.label, ...series.map(({ label }) => ({ title: label, num: true }))];
    const shows = [x.show, ...series.map(({ show }) => show)];
    this.numbers.replaceChildren(plainTable(titles, rows.map((at) => this.columns.map((column, of) => shown(column[at], shows[of])))));
  }
}

/** Room on both sides of things that have names. @param {any} _u @param {number} low @param {number} high */
function apart(_u, low, high) {
  return [low - 0.5, high + 0.5];
}

/** @param {number|null} value @param {((value: number) => string)|undefined} show */
function shown(value, show) {
  if (value === null || value === undefined) return "–";
  return show ? show(value) : String(value);
}

/** @param {number} low @param {number} high @param {boolean} fromZero @returns {[number, number]} */
function spread(low, high, fromZero) {
  if (!Number.isFinite(low) || low === null || high === null) return [0, 1];
  const bottom = fromZero ? 0 : low - 0.05 * (high - low || 1);
  return [bottom, high + 0.08 * (high - bottom || 1)];
}
