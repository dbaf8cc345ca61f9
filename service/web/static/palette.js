/** What the map's colours mean: each way to colour gives every cell a number from 0 to 1. */

import { colour } from "./dom.js";
import { acceptedRisk } from "./model.js";
import { number, percent, risk } from "./format.js";

/** @typedef {import("./types.js").Fleet} Fleet */
/** @typedef {import("./types.js").Server} Server */
/** @typedef {import("./types.js").Adapter} Adapter */

const NUM_SHADES = 24;
const ROOM_OF_EASE = 0.5;

/**
 * @typedef {{ramp: string[], from: string, to: string,
 *   level: (server: Server, adapter: Adapter) => number}} Scale
 *   `ramp` names three colours of the style sheet; `from` and `to` tell what its ends mean.
 */

/** @param {string} mode @param {Fleet} fleet @returns {Scale} */
export function scaleOf(mode, fleet) {
  const blue = ["--ramp-0", "--ramp-1", "--ramp-2"];
  const alarm = ["--alarm-0", "--alarm-1", "--alarm-2"];
  if (mode === "rank") {
    const ranks = [...new Set([...fleet.adapters.values()].map((adapter) => adapter.rank))].sort((a, b) => a - b);
    const steps = Math.max(1, ranks.length - 1);
    return {
      ramp: blue, from: `rank ${ranks[0] ?? 0}`, to: `${ranks.at(-1) ?? 0}`,
      level: (_server, adapter) => Math.max(0, ranks.indexOf(adapter.rank)) / steps,
    };
  }
  if (mode === "room") {
    return { ramp: alarm, from: `${percent(ROOM_OF_EASE, 0)} left`, to: "none", level: (server) => 1 - clamp((server.room || 0) / ROOM_OF_EASE) };
  }
  if (mode === "risk") {
    const accepted = acceptedRisk(fleet);
    return { ramp: alarm, from: "0 %", to: risk(accepted), level: (server) => clamp(server.gpu.predicted.starvation_probability / accepted) };
  }
  let most = 0;
  for (const adapter of fleet.adapters.values()) most = Math.max(most, adapter.tok_s);
  return { ramp: blue, from: "0", to: `${number(most)} tok/s`, level: (_server, adapter) => Math.sqrt(adapter.tok_s / (most || 1)) };
}

/** @param {Scale} scale @returns {(level: number) => string} the colour of a level, one of a few dozen */
export function shader(scale) {
  const stops = scale.ramp.map((name) => parts(colour(name)));
  const shades = Array.from({ length: NUM_SHADES }, (_, at) => mixed(stops, at / (NUM_SHADES - 1)));
  return (level) => shades[Math.round(clamp(level) * (NUM_SHADES - 1))];
}

/** Draw a scale with its ends. @param {HTMLCanvasElement} canvas @param {Scale} scale */
export function drawLegend(canvas, scale) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [160, 26];
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.scale(ratio, ratio);
  const shade = shader(scale);
  for (let at = 0; at < NUM_SHADES; at += 1) {
    pen.fillStyle = shade(at / (NUM_SHADES - 1));
    pen.fillRect((at * width) / NUM_SHADES, 0, width / NUM_SHADES + 0.5, 9);
  }
  pen.fillStyle = colour("--quiet");
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "bottom";
  pen.fillText(scale.from, 0, height);
  pen.textAlign = "right";
  pen.fillText(scale.to, width, height);
  canvas.setAttribute("aria-label", `Colour scale from ${scale.from} to ${scale.to}`);
}

/** @param {number} value */
function clamp(value) {
  return Math.min(1, Math.max(0, value));
}

/** @param {string} hex as `#rgb` or `#rrggbb` */
function parts(hex) {
  const digits = hex.length === 4 ? [...hex.slice(1)].map((digit) => digit + digit) : (hex.slice(1).match(/../g) ?? []);
  return digits.map((pair) => parseInt(pair, 16));
}

/** @param {number[][]} stops @param {number} at 0 to 1 */
function mixed(stops, at) {
  const place = at * (stops.length - 1);
  const first = Math.min(Math.floor(place), stops.length - 2);
  const share = place - first;
  const mix = stops[first].map((value, part) => Math.round(value + share * (stops[first + 1][part] - value)));
  return `rgb(${mix.join(" ")})`;
}
