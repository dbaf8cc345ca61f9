/** Sliders over a workload: each answer is a plan of the changed one. */

import { post } from "./api.js";
import { Chart } from "./chart.js";
import { attempt } from "./dialogs.js";
import { byId, el, showTiles } from "./dom.js";
import { figure, number, risk } from "./format.js";
import { rowsOf } from "./model.js";

/** @typedef {import("./types.js").Fleet} Fleet */
/** @typedef {import("./types.js").Plan} Plan */
/** @typedef {import("./types.js").Workload} Workload */

const PAUSE_MS = 150;
const SWEEP = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3];

/** Each factor is 2 to the power of its slider. @type {[name: string, title: string, limit: number][]} */
const SLIDERS = [
  ["rate_rps", "Requests", 2],
  ["input_tokens_mean", "Input tokens", 2],
  ["output_tokens_mean", "Output tokens", 2],
  ["count", "Adapters", 2],
];

/** @param {import("./fleets.js").Fleets} fleets */
export function setUpWhatIf(fleets) {
  const told = byId("what-error");
  const inputs = Object.fromEntries(SLIDERS.map((slider) => [slider[0], addSlider(slider)]));
  const chart = new Chart(byId("what-chart"), {
    name: "GPUs over request rates",
    x: { label: "rates ×", show: (value) => `${figure(value)}×` },
    y: "GPUs",
    whole: true,
    series: [
      { label: "GPUs", colour: "--series-1", points: true },
      { label: "lower bound", colour: "--series-2", dash: [5, 4] },
    ],
  });
  const factors = () => Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, 2 ** Number(input.value)]));
  const base = () => fleets.tried[0] ?? fleets.fleet;
  let timer = 0;
  let asked = 0;

  const ask = () =>
    attempt(told, async () => {
      const from = base();
      if (!from) return;
      const turn = (asked += 1);
      const plan = await post("place", changed(from.workload, factors()));
      if (turn === asked) showAnswer(from.plan, plan);
    });
  const showBase = () => {
    const from = base();
    byId("what-base").textContent = from ? `from ${from.label}` : "put a workload in force, or plan one beside";
    for (const control of byId("what-form").elements) control.disabled = !from;
  };
  const onInput = () => {
    for (const [name, factor] of Object.entries(factors())) byId(`what-${name}-out`).textContent = `× ${figure(factor)}`;
    clearTimeout(timer);
    timer = setTimeout(ask, PAUSE_MS);
  };

  for (const input of Object.values(inputs)) input.addEventListener("input", onInput);
  byId("what-form").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
  byId("what-form").addEventListener("reset", () => setTimeout(onInput));
  byId("what-sweep").addEventListener("click", () =>
    attempt(told, async () => {
      const from = base();
      if (!from) return;
      byId("what-chart").hidden = false;
      const plans = [];
      for (const times of SWEEP) plans.push(await post("place", changed(from.workload, { ...factors(), rate_rps: times * factors().rate_rps })));
      chart.show([SWEEP, plans.map(({ num_gpus }) => num_gpus), plans.map(({ lower_bound }) => lower_bound)]);
    }),
  );
  fleets.addEventListener("plan", showBase);
  fleets.addEventListener("tried", showBase);
  showBase();
}

/** @param {[string, string, number]} slider */
function addSlider([name, title, limit]) {
  const input = el("input", { type: "range", min: -limit, max: limit, step: 0.125, value: 0, name });
  byId("what-sliders").append(el("label", {}, title, input, el("output", { id: `what-${name}-out` }, "× 1")));
  return input;
}

/** A workload with its numbers multiplied; adapters are repeated or left out evenly to change their count.
 * @param {Workload} workload @param {Record<string, number>} factors @returns {Workload} */
export function changed(workload, { count = 1, ...factors }) {
  const rows = rowsOf(workload);
  const wanted = Math.max(1, Math.round(rows.length * count));
  const adapters = Array.from({ length: wanted }, (_, at) => {
    const turn = Math.floor(at / rows.length);
    const row = { ...rows[wanted < rows.length ? Math.floor((at * rows.length) / wanted) : at % rows.length] };
    if (turn) row.id = `${row.id} (${turn + 1})`;
    for (const [name, factor] of Object.entries(factors)) row[name] = name === "rate_rps" ? row[name] * factor : Math.max(1, row[name] * factor);
    return row;
  });
  return { ...workload, adapters };
}

/** @param {Plan} before @param {Plan} after */
function showAnswer(before, after) {
  const more = after.num_gpus - before.num_gpus;
  const slowest = (/** @type {Plan} */ { gpus }) => Math.max(0, ...gpus.map(({ predicted }) => predicted.itl_ms ?? 0));
  showTiles(byId("what-answer"), [
    ["GPUs", number(after.num_gpus), more === 0 ? "as now" : `${more > 0 ? "+" : "−"}${number(Math.abs(more))} from ${number(before.num_gpus)}`],
    ["Lower bound", number(after.lower_bound)],
    ["Unplaced", number(after.unplaced.length), after.unplaced[0]?.reason.slice(0, 60)],
    ["Starvation risk", risk(after.starvation_probability)],
    ["Slowest ITL", `${number(slowest(after), 1)} ms`],
  ]);
}
