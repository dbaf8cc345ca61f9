/** The workload in force: totals, how the load is spread, the busiest adapters. */

import { Chart } from "./chart.js";
import { bar, byId, el, plainTable, showTiles } from "./dom.js";
import { figure, number, percent } from "./format.js";
import { totals } from "./model.js";
import { adapterColumns } from "./plan-view.js";
import { DataTable } from "./table.js";

/** @typedef {import("./types.js").Adapter} Adapter */

const CURVE_POINTS = 200;

/** @param {import("./fleets.js").Fleets} fleets */
export function setUpWorkloadView(fleets) {
  const share = new Chart(byId("workload-share"), {
    name: "Share of the load by the busiest adapters",
    x: { label: "busiest adapters %", show: (value) => `${figure(value)} %` },
    y: "load %",
    series: [{ label: "share of the load", colour: "--series-1", show: (value) => `${number(value, 1)} %` }],
  });
  const table = new DataTable(byId("workload-adapters"), {
    caption: "Adapters in force",
    filter: (/** @type {Adapter} */ row) => row.id,
    sort: { column: 5, down: true },
    columns: [{ title: "Adapter", value: (row) => row.id }, ...adapterColumns()],
  });
  fleets.addEventListener("plan", () => {
    const { fleet } = fleets;
    byId("workload-empty").hidden = fleet !== null;
    byId("workload-body").hidden = fleet === null;
    if (!fleet) return;
    const adapters = [...fleet.adapters.values()];
    showFigures(adapters);
    share.show(loadCurve(adapters));
    showRanks(adapters);
    table.show(adapters);
  });
}

/** @param {Adapter[]} adapters */
function showFigures(adapters) {
  const all = totals(adapters);
  const mean = (/** @type {keyof Adapter} */ name) => adapters.reduce((sum, adapter) => sum + adapter.rate_rps * Number(adapter[name]), 0) / (all.rate_rps || 1);
  const top = [...adapters].sort((a, b) => b.tok_s - a.tok_s)[0];
  showTiles(byId("workload-tiles"), [
    ["Adapters", number(all.num)],
    ["Requests/s", figure(all.rate_rps)],
    ["Offered tok/s", number(all.tok_s)],
    ["Input", number(mean("input_tokens_mean")), "tokens, mean of requests"],
    ["Output", number(mean("output_tokens_mean")), "tokens, mean of requests"],
    ["Busiest", percent((top?.tok_s ?? 0) / (all.tok_s || 1)), top?.id],
  ]);
}

/** What share of the load the busiest share of the adapters makes. @param {Adapter[]} adapters */
function loadCurve(adapters) {
  const loads = adapters.map(({ tok_s }) => tok_s).sort((a, b) => b - a);
  const all = loads.reduce((sum, load) => sum + load, 0) || 1;
  const every = Math.max(1, Math.floor(loads.length / CURVE_POINTS));
  /** @type {[number[], number[]]} */
  const curve = [[0], [0]];
  let sum = 0;
  loads.forEach((load, at) => {
    sum += load;
    if ((at + 1) % every && at + 1 !== loads.length) return;
    curve[0].push((100 * (at + 1)) / loads.length);
    curve[1].push((100 * sum) / all);
  });
  return curve;
}

/** @param {Adapter[]} adapters */
function showRanks(adapters) {
  const all = totals(adapters).tok_s || 1;
  const ranks = [...new Set(adapters.map(({ rank }) => rank))].sort((a, b) => a - b);
  const rows = ranks.map((rank) => {
    const own = totals(adapters.filter((adapter) => adapter.rank === rank));
    const share = el("label", {}, el("span", { class: "unseen" }, `share of the load of rank ${rank}`), bar(own.tok_s / all));
    return [`rank ${rank}`, number(own.num), `${number(own.tok_s)} tok/s`, share];
  });
  const titles = ["Rank", { title: "Adapters", num: true }, { title: "Offered", num: true }, "Share of the load"];
  byId("workload-ranks").replaceChildren(plainTable(titles, rows));
}
