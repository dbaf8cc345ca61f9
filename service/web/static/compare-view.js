/** Two plans side by side, and what it takes to get from one to the other. */

import { Problem, get, post } from "./api.js";
import { attempt } from "./dialogs.js";
import { announce, byId, el, plainTable } from "./dom.js";
import { counted, number, risk } from "./format.js";
import { difference } from "./matching.js";
import { fleetOf, rowsOf, runningServers } from "./model.js";
import { DataTable } from "./table.js";

/** @typedef {import("./types.js").Fleet} Fleet */
/** @typedef {import("./types.js").Plan} Plan */
/** @typedef {import("./matching.js").Difference} Difference */

/** @param {import("./fleets.js").Fleets} fleets */
export function setUpCompareView(fleets) {
  const told = byId("compare-error");
  const [from, to] = [byId("compare-from"), byId("compare-to")];
  const choices = () => [...(fleets.fleet ? [fleets.fleet] : []), ...fleets.tried];
  const chosen = (/** @type {HTMLSelectElement} */ select) => choices().find((fleet) => keyOf(fleet) === select.value);
  const list = () => {
    for (const select of [from, to]) {
      const before = select.value;
      const options = choices().map((fleet) => el("option", { value: keyOf(fleet) }, `${fleet.label} (${counted(fleet.plan.num_gpus, "GPU")})`));
      select.replaceChildren(...(options.length ? options : [el("option", { value: "" }, "no plan yet")]));
      if (choices().some((fleet) => keyOf(fleet) === before)) select.value = before;
      else if (select === to && options.length > 1) select.value = options[1].value;
    }
  };
  const both = () => {
    const pair = /** @type {[Fleet, Fleet]} */ ([chosen(from), chosen(to)]);
    if (pair.every(Boolean)) return pair;
    told.textContent = "Two plans are needed: put a workload in force or plan one first.";
    return null;
  };
  fleets.addEventListener("plan", list);
  fleets.addEventListener("tried", () => {
    list();
    to.value = keyOf(fleets.tried[0]);
  });
  byId("compare-add").addEventListener("click", () =>
    attempt(told, async () => {
      fleets.remember(await fetchPlan(byId("compare-id").value.trim()));
    }),
  );
  byId("compare-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    told.textContent = "";
    const pair = both();
    if (pair) show(pair[0].plan, pair[1].plan, difference(pair[0].plan.gpus, pair[1].plan.gpus));
  });
  byId("compare-near").addEventListener("click", () =>
    attempt(told, async () => {
      const pair = both();
      if (!pair) return;
      const [before, { workload, isBare }] = pair;
      if (isBare) throw new Problem("a plan that was fetched comes without its workload: choose another one to go to");
      const near = await post("re-place", { ...workload, adapters: rowsOf(workload), current: { gpus: runningServers(before.plan) } });
      fleets.remember(fleetOf(`nearest to ${before.plan.plan_id.slice(0, 8)}`, near, workload));
      show(before.plan, near, near);
    }),
  );
  list();
}

/** @param {Fleet} fleet */
const keyOf = (fleet) => fleet.plan.plan_id + fleet.label;

/** @param {string} id @returns {Promise<Fleet>} a plan that a worker replayed, without its workload's rates */
async function fetchPlan(id) {
  const { plan, verification } = await get(`plans/${encodeURIComponent(id)}`);
  if (!plan) throw new Problem(`the replay of plan ${id} is ${verification.status}: there is no plan to show yet`);
  const [gpu_type, base_model] = plan.calibration_id.split("/");
  const adapters = plan.gpus.flatMap((/** @type {any} */ gpu) => gpu.adapters.map((/** @type {string} */ name) => ({ id: name, rank: 0, rate_rps: 0, input_tokens_mean: 0, output_tokens_mean: 0 })));
  return { ...fleetOf(`plan ${id}`, plan, { base_model, gpu_type, adapters }), isBare: true };
}

/** @param {Plan} before @param {Plan} after @param {Difference} change */
function show(before, after, change) {
  const told = `${counted(change.moves.length, "move")}, ${counted(change.restarts.length, "restart")}, ${number(change.opened.length)} opened, ${number(change.closed.length)} closed`;
  const moves = el("div");
  byId("compare-answer").replaceChildren(
    el("section", { class: "card" }, el("h3", {}, told), figures(before, after), gpuList("Restarts with other flags", change.restarts), gpuList("Opened", change.opened), gpuList("Closed", change.closed)),
    el("section", { class: "card" }, el("h3", {}, "Moves"), moves),
  );
  const table = new DataTable(moves, {
    caption: "Moves",
    empty: "No adapter changes its GPU.",
    filter: (/** @type {Difference["moves"][0]} */ move) => move.adapter,
    columns: [
      { title: "Adapter", value: (move) => move.adapter },
      { title: "From GPU", value: (move) => move.from, show: (move) => (move.from === null ? "new" : String(move.from)), num: true },
      { title: "To GPU", value: (move) => move.to, show: (move) => (move.to === null ? "gone" : String(move.to)), num: true },
    ],
  });
  table.show(change.moves);
  announce(told);
}

/** @param {Plan} before @param {Plan} after */
function figures(before, after) {
  const worst = (/** @type {Plan} */ plan, /** @type {"itl_ms"|"ttft_ms"} */ name) => Math.max(...plan.gpus.map(({ predicted }) => predicted[name] ?? 0));
  const offered = (/** @type {Plan} */ plan) => plan.gpus.reduce((sum, { predicted }) => sum + predicted.offered_tok_s, 0);
  /** @type {[string, (plan: Plan) => string][]} */
  const rows = [
    ["GPUs", (plan) => number(plan.num_gpus)],
    ["Lower bound", (plan) => number(plan.lower_bound)],
    ["Adapters", (plan) => number(plan.gpus.reduce((sum, { adapters }) => sum + adapters.length, 0))],
    ["Unplaced", (plan) => number(plan.unplaced.length)],
    ["Offered tok/s", (plan) => number(offered(plan))],
    ["Starvation risk", (plan) => risk(plan.starvation_probability)],
    ["Slowest ITL ms", (plan) => number(worst(plan, "itl_ms"), 1)],
    ["Slowest TTFT ms", (plan) => number(worst(plan, "ttft_ms"))],
    ["Feasible", (plan) => (plan.feasible ? "yes" : "no")],
    ["Surrogate", (plan) => plan.surrogate_version],
  ];
  const table = plainTable(["", { title: "From", num: true }, { title: "To", num: true }], rows.map(([name, value]) => [name, value(before), value(after)]));
  return el("div", { class: "table-box narrow" }, table);
}

/** @param {string} title @param {number[]} gpus */
function gpuList(title, gpus) {
  return gpus.length ? el("p", {}, `${title}: GPU ${gpus.join(", ")}`) : null;
}
