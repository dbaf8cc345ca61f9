/** The fleet in force: how many GPUs it needs over time, and its plan. */

import { Problem, get } from "./api.js";
import { Chart } from "./chart.js";
import { byId, tag } from "./dom.js";
import { moment, number } from "./format.js";
import { PlanView } from "./plan-view.js";

/** @typedef {import("./fleets.js").Fleets} Fleets */

const clock = (/** @type {number} */ at_s) => moment(new Date(at_s * 1000).toISOString());

/** @param {Fleets} fleets */
export function setUpFleetView(fleets) {
  const view = new PlanView(byId("fleet-plan"));
  view.parts.tiles.after(byId("needed-card"));
  const chart = new Chart(byId("needed-chart"), {
    name: "GPUs needed over time",
    x: { label: "Time", time: true, show: clock },
    y: "GPUs",
    whole: true,
    series: [
      { label: "needed", colour: "--series-1", stepped: true },
      { label: "plan", colour: "--series-2", stepped: true, dash: [5, 4] },
      { label: "running", colour: "--series-3", stepped: true },
    ],
  });
  fleets.addEventListener("plan", () => {
    byId("fleet-empty").hidden = fleets.fleet !== null;
    byId("fleet-body").hidden = fleets.fleet === null;
    if (fleets.fleet) view.show(fleets.fleet, neededFigures(fleets));
  });
  fleets.addEventListener("needed", async () => {
    const { needed } = fleets;
    byId("needed-now").textContent = needed?.reason ?? "";
    view.showFigures(neededFigures(fleets));
    if (needed) chart.show(await history(fleets));
  });
}

/** @param {Fleets} fleets @returns {[string, any, string?][]} */
function neededFigures({ needed }) {
  if (!needed) return [];
  const state = needed.stale ? tag("stale", "warn") : `as of ${moment(needed.as_of)}`;
  return [["GPUs needed", number(needed.gpus_needed), typeof state === "string" ? state : "not confirmed lately"]];
}

/** What was needed since the history begins, until now; the present alone where there is no history.
 * @param {Fleets} fleets @returns {Promise<(number|null)[][]>} */
async function history(fleets) {
  const { needed } = fleets;
  const now_s = Date.now() / 1000;
  /** @type {{at: string, gpus_needed: number|null, planned: number|null, running: number|null}[]} */
  let points = [];
  try {
    points = (await get("gpus-needed/history", fleets.query)).points;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
  }
  const last = points.at(-1);
  const columns = [
    points.map(({ at }) => new Date(at).getTime() / 1000),
    points.map((point) => point.gpus_needed),
    points.map((point) => point.planned),
    points.map((point) => point.running),
  ];
  const present = [now_s, needed.gpus_needed, needed.raw, last?.running ?? null];
  if (!points.length) columns.forEach((column, at) => column.push(at ? present[at] : now_s - 60));
  columns.forEach((column, at) => column.push(present[at]));
  return columns;
}
