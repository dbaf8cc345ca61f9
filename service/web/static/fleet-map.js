/** The map of a fleet on a canvas: only what is in sight is drawn, so thousands of GPUs cost as much as ten. */

import { colour, onScheme } from "./dom.js";
import { number, percent, figure, risk } from "./format.js";
import { CELL_PX, LABEL_PX, bandsBetween, cornerOf, layOut, moved, placeAt } from "./layout.js";
import { drawLegend, scaleOf, shader } from "./palette.js";

/** @typedef {import("./types.js").Fleet} Fleet */
/** @typedef {import("./layout.js").Place} Place */

const MAX_HEIGHT_PX = 428;
const LABEL_BAR_PX = 44;

/** A map with its controls. */
export class FleetMap {
  /**
   * @param {Record<string, any>} parts of the plan's template
   * @param {(gpu: number) => void} onChoose called with the number of a GPU that was clicked
   */
  constructor(parts, onChoose) {
    this.parts = parts;
    this.onChoose = onChoose;
    /** @type {Fleet|null} */
    this.fleet = null;
    /** @type {Place|null} */
    this.pointed = null;
    /** @type {Set<string>} */
    this.found = new Set();
    this.canvas = /** @type {HTMLCanvasElement} */ (parts.map.querySelector("canvas"));
    this.#listen();
  }

  /** @param {Fleet} fleet */
  show(fleet) {
    this.fleet = fleet;
    this.pointed = null;
    this.canvas.setAttribute("aria-label", `${number(fleet.servers.length)} GPUs with ${number(fleet.adapters.size)} adapters`);
    this.#find();
    this.#lay();
  }

  #listen() {
    const { map, colour: mode, find } = this.parts;
    map.addEventListener("scroll", () => this.#draw());
    new ResizeObserver(() => this.#lay()).observe(map);
    onScheme(() => this.#draw());
    mode.addEventListener("change", () => this.#draw());
    find.addEventListener("input", () => {
      this.#find();
      this.#draw();
    });
    this.canvas.addEventListener("mousemove", (event) => this.#point(this.#under(event)));
    this.canvas.addEventListener("mouseleave", () => this.#point(null));
    this.canvas.addEventListener("click", (event) => this.#take(this.#under(event)));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.canvas.addEventListener("focus", () => {
      if (!this.pointed && this.fleet?.servers.length) this.#point({ band: 0, cell: -1 });
    });
  }

  /** @param {MouseEvent} event @returns {Place|null} */
  #under(event) {
    if (!this.layout) return null;
    return placeAt(this.layout, event.offsetX, event.offsetY + this.parts.map.scrollTop);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!this.layout || !this.pointed || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.#take(this.pointed);
      return;
    }
    const next = moved(this.layout, this.pointed, event.key);
    if (!next) return;
    event.preventDefault();
    this.#reveal(next);
    this.#point(next);
  }

  /** @param {Place} place */
  #reveal(place) {
    if (!this.layout) return;
    const { map } = this.parts;
    const { y } = cornerOf(this.layout, place);
    if (y < map.scrollTop) map.scrollTop = y - CELL_PX;
    if (y + 3 * CELL_PX > map.scrollTop + map.clientHeight) map.scrollTop = y + 4 * CELL_PX - map.clientHeight;
  }

  /** @param {Place|null} place */
  #point(place) {
    if (place?.band === this.pointed?.band && place?.cell === this.pointed?.cell) return;
    this.pointed = place;
    this.parts.readout.textContent = place ? this.#told(place) : "\u00a0";
    this.#draw();
  }

  /** @param {Place|null} place */
  #take(place) {
    if (place && this.fleet) this.onChoose(this.fleet.servers[place.band].gpu.gpu);
  }

  /** @param {Place} place */
  #told({ band, cell }) {
    const server = /** @type {Fleet} */ (this.fleet).servers[band];
    const { gpu } = server;
    if (cell < 0) {
      return `GPU ${gpu.gpu}: ${number(server.adapters.length)} adapters, max_loras ${gpu.max_loras}, ${number(gpu.predicted.throughput_tok_s)} tok/s, starvation risk ${risk(gpu.predicted.starvation_probability)}, bound by ${gpu.binding_constraint}, ${percent(server.room)} left`;
    }
    const adapter = server.adapters[cell];
    return `${adapter.id} on GPU ${gpu.gpu}: rank ${adapter.rank}, ${figure(adapter.rate_rps)} requests/s, ${figure(adapter.tok_s)} tok/s`;
  }

  #find() {
    const wanted = this.parts.find.value.trim().toLowerCase();
    this.found = new Set();
    if (!wanted || !this.fleet) return;
    for (const id of this.fleet.adapters.keys()) if (id.toLowerCase().includes(wanted)) this.found.add(id);
    const first = this.fleet.servers.findIndex((server) => server.adapters.some((adapter) => this.found.has(adapter.id)));
    const more = first >= 0 ? `, first on GPU ${this.fleet.servers[first].gpu.gpu}` : "";
    this.parts.readout.textContent = `${number(this.found.size)} adapters match${more}`;
    if (first >= 0 && this.layout) this.#reveal({ band: first, cell: -1 });
  }

  #lay() {
    const width = this.parts.map.clientWidth;
    if (!this.fleet || width === 0) return;
    this.layout = layOut(this.fleet.servers.map((server) => server.adapters.length), width);
    const height = Math.min(MAX_HEIGHT_PX, this.layout.height);
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.parts.spacer.style.height = `${this.layout.height}px`;
    this.#draw();
  }

  #draw() {
    const { fleet, layout } = this;
    if (!fleet || !layout) return;
    const scale = scaleOf(this.parts.colour.value, fleet);
    drawLegend(this.parts.legend, scale);
    const shade = shader(scale);
    const pen = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    const ratio = devicePixelRatio || 1;
    const scrolled = this.parts.map.scrollTop;
    const height = this.canvas.height / ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, -scrolled * ratio);
    pen.clearRect(0, scrolled, layout.width, height);
    const [first, end] = bandsBetween(layout, scrolled, scrolled + height);
    for (let band = first; band < end; band += 1) this.#drawBand(pen, band, scale, shade);
    this.#drawPointer(pen);
  }

  /** @param {CanvasRenderingContext2D} pen @param {number} band
   * @param {import("./palette.js").Scale} scale @param {(level: number) => string} shade */
  #drawBand(pen, band, scale, shade) {
    const layout = /** @type {import("./layout.js").Layout} */ (this.layout);
    const server = /** @type {Fleet} */ (this.fleet).servers[band];
    this.#drawLabel(pen, band);
    const searching = this.found.size > 0;
    server.adapters.forEach((adapter, cell) => {
      const { x, y } = cornerOf(layout, { band, cell });
      pen.globalAlpha = searching && !this.found.has(adapter.id) ? 0.18 : 1;
      pen.fillStyle = shade(scale.level(server, adapter));
      pen.fillRect(x, y, CELL_PX - 1, CELL_PX - 1);
    });
    pen.globalAlpha = 1;
  }

  /** @param {CanvasRenderingContext2D} pen @param {number} band */
  #drawLabel(pen, band) {
    const { top } = /** @type {import("./layout.js").Layout} */ (this.layout).bands[band];
    const { gpu, adapters, room } = /** @type {Fleet} */ (this.fleet).servers[band];
    pen.textBaseline = "top";
    pen.font = "600 12px system-ui, sans-serif";
    pen.fillStyle = colour("--text");
    pen.fillText(`GPU ${gpu.gpu}`, 8, top);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colour("--quiet");
    pen.fillText(`${adapters.length} adapters, max_loras ${gpu.max_loras}`, 8, top + 15);
    const used = Number.isNaN(room) ? 0 : Math.min(1, Math.max(0, 1 - room));
    pen.fillStyle = colour("--sunken");
    pen.fillRect(LABEL_PX - LABEL_BAR_PX - 10, top + 4, LABEL_BAR_PX, 5);
    pen.fillStyle = colour(gpu.predicted.starvation_probability > 0.5 ? "--bad" : "--accent");
    pen.fillRect(LABEL_PX - LABEL_BAR_PX - 10, top + 4, LABEL_BAR_PX * used, 5);
  }

  /** @param {CanvasRenderingContext2D} pen */
  #drawPointer(pen) {
    if (!this.pointed || !this.layout) return;
    const { x, y } = cornerOf(this.layout, this.pointed);
    pen.strokeStyle = colour("--text");
    pen.lineWidth = 1.5;
    const wide = this.pointed.cell < 0 ? LABEL_PX - 6 : CELL_PX + 1;
    const high = this.pointed.cell < 0 ? this.layout.bands[this.pointed.band].lines * CELL_PX : CELL_PX + 1;
    pen.strokeRect(x - 0.5 + (this.pointed.cell < 0 ? 2 : -0.5), y - 1, wide, high);
  }
}
