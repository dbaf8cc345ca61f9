/** Sliders over a workload: what a change would ask for, and the way there from the servers that run. */

import { post } from "./api.js";
import { Chart } from "./chart.js";
import { attempt } from "./dialogs.js";
import { byId, el, showTiles } from "./dom.js";
import { counted, figure, number, percent, risk } from "./format.js";
import { rowsOf, runningServers } from "./model.js";

/** @typedef {import("./types.js").Fleet} Fleet */

const PAUSE_MS = 150;
const SWEEP = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3];
const LARGEST_MAX_LORAS = 512;

/**
 * @typedef {{name: string, title: string, min: number, max: number | ((fleet: Fleet) => number), step: number,
 *   still: number, shown: (value: number) => string, change: (value: number, fleet: Fleet) => object}} Slider
 *   At `still` nothing changes; `change` is a part of a change that `POST /what-if` supposes.
 */

/** @type {Slider[]} */
const SLIDERS = [
  {
    name: "rates", title: "Request rates", min: -2, max: 2, step: 0.125, still: 0,
    shown: (value) => `× ${figure(2 ** value)}`, change: (value) => ({ scale_rates: 2 ** value }),
  },
  {
    name: "adapters", title: "More adapters", min: 0, max: 100, step: 5, still: 0,
    shown: (value) => `+ ${value} %`, change: (value, fleet) => ({ add_adapters: copies(fleet, value / 100) }),
  },
  {
    name: "lost", title: "GPUs that fail", min: 0, max: (fleet) => Math.max(1, fleet.servers.length - 1), step: 1, still: 0,
    shown: (value) => String(value), change: (value) => ({ lose_gpus: value }),
  },
  {
    name: "max_loras", title: "max_loras", min: 0, max: LARGEST_MAX_LORAS, step: 8, still: 0,
    shown: (value) => (value ? String(value) : "as planned"), change: (value) => ({ max_loras: value }),
  },
  {
    name: "risk", title: "Accepted risk", min: -10, max: -1, step: 0.25, still: -4.25,
    shown: (value) => (value === -4.25 ? "as it is" : percent(2 ** value)), change: (value) => ({ starvation_risk: 2 ** value }),
  },
];

/** @param {import("./fleets.js").Fleets} fleets */
export function setUpWhatIf(fleets) {
  const told = byId("what-error");
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
  const inputs = SLIDERS.map((slider) => ({ slider, ...addSlider(slider) }));
  const from = byId("what-from");
  /** @returns {Fleet|undefined} */
  const base = () => (from.value === "tried" ? tried() : (fleets.fleet ?? undefined));
  const tried = () => fleets.tried.find(({ isBare }) => !isBare);
  const change = (/** @type {Fleet} */ fleet) =>
    Object.assign({}, ...inputs.filter(({ slider, input }) => Number(input.value) !== slider.still).map(({ slider, input }) => slider.change(Number(input.value), fleet)));
  let timer = 0;
  let asked = 0;

  const ask = () =>
    attempt(told, async () => {
      const fleet = base();
      if (!fleet) return;
      const turn = (asked += 1);
      const supposed = change(fleet);
      if (!Object.keys(supposed).length) return byId("what-answer").replaceChildren();
      const answer = await whatIf(fleet, fleet === fleets.fleet, [supposed]);
      if (turn === asked) showAnswer(answer);
    });
  const onInput = () => {
    for (const { slider, input, output } of inputs) output.textContent = slider.shown(Number(input.value));
    clearTimeout(timer);
    timer = setTimeout(ask, PAUSE_MS);
  };
  const showBase = () => {
    const fleet = base();
    byId("what-base").textContent = fleet ? `${counted(fleet.servers.length, "GPU")} now` : "put a workload in force, or plan one beside";
    from.options[1].disabled = !tried();
    for (const control of byId("what-form").elements) if (control !== from) control.disabled = !fleet;
    if (fleet) for (const { slider, input } of inputs) input.max = String(typeof slider.max === "number" ? slider.max : slider.max(fleet));
  };

  for (const { input } of inputs) input.addEventListener("input", onInput);
  from.addEventListener("change", () => {
    showBase();
    onInput();
  });
  byId("what-form").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
  byId("what-form").addEventListener("reset", () => setTimeout(() => (showBase(), onInput())));
  byId("what-sweep").addEventListener("click", () =>
    attempt(told, async () => {
      const fleet = base();
      if (!fleet) return;
      const { scale_rates = 1, ...others } = change(fleet);
      byId("what-chart").hidden = false;
      /** @type {any[]} */
      const answers = [];
      for (const times of SWEEP) {
        const { changes } = await whatIf(fleet, fleet === fleets.fleet, [{ ...others, scale_rates: scale_rates * times }]);
        answers.push(changes[0]);
        const column = (/** @type {string} */ name) => SWEEP.map((_times, at) => answers[at]?.[name] ?? null);
        chart.show([SWEEP, column("num_gpus"), column("lower_bound")]);
      }
    }),
  );
  for (const what of ["plan", "tried"]) {
    fleets.addEventListener(what, () => {
      if (what === "tried" && tried()) from.value = "tried";
      showBase();
    });
  }
  showBase();
}

/** @param {Slider} slider */
function addSlider({ name, title, min, max, step, still, shown }) {
  const input = el("input", { type: "range", min, max: typeof max === "number" ? max : 1, step, value: still, name });
  const output = el("output", { id: `what-${name}-out` }, shown(still));
  byId("what-sliders").append(el("label", {}, title, input, output));
  return { input, output };
}

/** Ask what changes come to. @param {Fleet} fleet @param {boolean} inForce @param {object[]} changes */
function whatIf({ workload, plan }, inForce, changes) {
  const { base_model, gpu_type, options } = workload;
  const body = inForce ? { base_model, gpu_type } : { base_model, gpu_type, options, adapters: rowsOf(workload), current: { gpus: runningServers(plan) } };
  return post("what-if", { ...body, changes });
}

/** A share of the adapters once more, taken evenly, under other names. @param {Fleet} fleet @param {number} share */
function copies({ workload, adapters }, share) {
  const rows = rowsOf(workload);
  const wanted = Math.max(1, Math.round(rows.length * share));
  return Array.from({ length: wanted }, (_, at) => {
    const row = rows[Math.floor((at * rows.length) / wanted)];
    let id = `${row.id}+`.slice(-256);
    while (adapters.has(id)) id = `+${id}`.slice(0, 256);
    return { ...row, id };
  });
}

/** @param {{now: any, changes: any[]}} answer */
function showAnswer({ now, changes: [then] }) {
  const way = then.from_current;
  const more = then.more_gpus === 0 ? "as now" : `${then.more_gpus > 0 ? "+" : "−"}${number(Math.abs(then.more_gpus))} from ${number(now.num_gpus)}`;
  showTiles(byId("what-answer"), [
    ["GPUs", number(then.num_gpus), more],
    ["From what runs", `${number(way.num_gpus)} GPUs`, way.feasible ? "feasible" : "not feasible"],
    ["Moves", number(way.moves), way.loads ? `and ${counted(way.loads, "load")}` : undefined],
    ["Restarts", number(way.restarts.length), `${number(way.opened.length)} opened, ${number(way.closed.length)} closed`],
    ["Lower bound", number(then.lower_bound)],
    ["Starvation risk", risk(then.starvation_probability), `now ${risk(now.starvation_probability)}`],
    ["Slowest ITL", `${number(then.slowest?.itl_ms, 1)} ms`, `now ${number(now.slowest?.itl_ms, 1)} ms`],
    ["Unplaced", number(then.unplaced.length), then.unplaced[0]?.reason],
  ]);
}
