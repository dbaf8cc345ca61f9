/** A plan: its figures, its map, its GPUs as a table, one GPU in full, its adapters. */

import { announce, bar, cloneParts, copyButton, el, factList, showTiles, stateTag, tag } from "./dom.js";
import { FleetMap } from "./fleet-map.js";
import { counted, figure, number, percent, risk } from "./format.js";
import { totals } from "./model.js";
import { DataTable } from "./table.js";

/** @typedef {import("./types.js").Fleet} Fleet */
/** @typedef {import("./types.js").Server} Server */

const LITTLE_ROOM = 0.1;
const VERIFIED = { verified: "good", starved: "bad", failed: "bad", slow: "warn", incomplete: "warn" };
const BOUNDS = { throughput: "throughput", slots: "slots (max_loras)", kv_memory: "KV memory", none: "nothing" };

/** Shows one plan after another in the same place. */
export class PlanView {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.parts = cloneParts("plan-template", root);
    this.map = new FleetMap(this.parts, (gpu) => this.#take(gpu));
    this.gpus = gpuTable(this.parts.gpus, (server) => this.#take(server.gpu.gpu));
    this.adapters = adapterTable(this.parts.adapters);
    this.parts["adapters-box"].addEventListener("toggle", () => this.#showAdapters());
  }

  /** @param {Fleet} fleet @param {[string, string|number, string?][]} [figures] shown before the plan's own */
  show(fleet, figures = []) {
    const isSame = this.fleet?.plan.plan_id === fleet.plan.plan_id;
    this.fleet = fleet;
    this.showFigures(figures);
    this.#showUnplaced();
    this.map.show(fleet);
    this.gpus.show(fleet.servers);
    this.#showAdapters();
    if (!isSame || !this.#find(this.gpus.chosen)) this.choose(fleet.servers[0]?.gpu.gpu);
  }

  /** Show what changes without the plan. @param {[string, string|number, string?][]} figures before the plan's own */
  showFigures(figures) {
    if (this.fleet) showTiles(this.parts.tiles, [...figures, ...planFigures(this.fleet)]);
  }

  /** Show one GPU in full. @param {number|undefined} number */
  choose(number) {
    this.gpus.choose(number);
    const server = this.#find(number);
    this.parts.detail.replaceChildren(...(server ? gpuDetail(server) : [el("p", { class: "quiet" }, "No GPU")]));
  }

  /** Show the GPU that the reader took. @param {number} number */
  #take(number) {
    this.choose(number);
    announce(`GPU ${number} is shown`);
  }

  /** @param {number|undefined} number */
  #find(number) {
    return this.fleet?.servers.find(({ gpu }) => gpu.gpu === number);
  }

  /** Ten thousand rows are made when they are asked for. */
  #showAdapters() {
    if (!this.fleet || !this.parts["adapters-box"].open) return;
    this.adapters.show(this.fleet.servers.flatMap(({ gpu, adapters }) => adapters.map((adapter) => ({ ...adapter, gpu: gpu.gpu }))));
  }

  #showUnplaced() {
    const { unplaced } = /** @type {Fleet} */ (this.fleet).plan;
    this.parts.unplaced.hidden = unplaced.length === 0;
    if (!unplaced.length) return;
    const box = el("div");
    this.parts.unplaced.replaceChildren(el("h3", {}, `${counted(unplaced.length, "adapter")} without a GPU`), box);
    const table = new DataTable(box, {
      caption: "Unplaced adapters",
      columns: [
        { title: "Adapter", value: (row) => row.adapter },
        { title: "Reason", value: (row) => row.reason, wrap: true },
      ],
      filter: (row) => row.adapter,
    });
    table.show(unplaced);
  }
}

/** @param {Fleet} fleet @returns {[string, any, string?][]} */
function planFigures({ plan, adapters }) {
  const all = totals([...adapters.values()]);
  const { status } = plan.verification;
  return [
    ["GPUs of the plan", number(plan.num_gpus), plan.gap === 0 ? "the fewest possible" : `at least ${number(plan.lower_bound)}`],
    ["Adapters", number(all.num), plan.unplaced.length ? `${number(plan.unplaced.length)} unplaced` : "all placed"],
    ["Offered tok/s", number(all.tok_s), `${figure(all.rate_rps)} requests/s`],
    ["Starvation risk", risk(plan.starvation_probability), "of any GPU"],
    ["Feasible", plan.feasible ? tag("yes", "good") : tag("no", "bad"), `plan ${plan.plan_id}`],
    ["In the twin", stateTag(status, VERIFIED), `surrogate ${plan.surrogate_version}`],
  ];
}

/** @param {HTMLElement} root @param {(server: Server) => void} onChoose */
function gpuTable(root, onChoose) {
  return new DataTable(root, {
    caption: "GPUs of the plan",
    keyOf: (/** @type {Server} */ server) => server.gpu.gpu,
    onChoose,
    columns: [
      { title: "GPU", value: ({ gpu }) => gpu.gpu },
      { title: "Adapters", value: ({ adapters }) => adapters.length, num: true },
      { title: "max_loras", value: ({ gpu }) => gpu.max_loras, num: true },
      { title: "Rank", value: ({ gpu }) => gpu.max_lora_rank, num: true },
      { title: "tok/s", value: ({ gpu }) => gpu.predicted.throughput_tok_s, show: ({ gpu }) => number(gpu.predicted.throughput_tok_s), num: true },
      { title: "Offered", value: ({ gpu }) => gpu.predicted.offered_tok_s, show: ({ gpu }) => number(gpu.predicted.offered_tok_s), num: true },
      { title: "Risk", value: ({ gpu }) => gpu.predicted.starvation_probability, show: ({ gpu }) => risk(gpu.predicted.starvation_probability), num: true },
      { title: "ITL ms", value: ({ gpu }) => gpu.predicted.itl_ms, show: ({ gpu }) => number(gpu.predicted.itl_ms, 1), num: true },
      { title: "TTFT ms", value: ({ gpu }) => gpu.predicted.ttft_ms, show: ({ gpu }) => number(gpu.predicted.ttft_ms), num: true },
      { title: "Left", value: ({ room }) => room, show: ({ room }) => percent(room, 0), num: true },
      { title: "Bound by", value: ({ gpu }) => gpu.binding_constraint },
    ],
  });
}

/** @param {HTMLElement} root */
function adapterTable(root) {
  return new DataTable(root, {
    caption: "Adapters of the plan",
    filter: (/** @type {import("./types.js").Adapter & {gpu: number}} */ row) => `${row.id} gpu ${row.gpu}`,
    columns: [
      { title: "Adapter", value: (row) => row.id },
      { title: "GPU", value: (row) => row.gpu, num: true },
      ...adapterColumns(),
    ],
  });
}

/** @returns {import("./table.js").Column<any>[]} what there is to say of an adapter */
export function adapterColumns() {
  return [
    { title: "Rank", value: (row) => row.rank, num: true },
    { title: "Requests/s", value: (row) => row.rate_rps, show: (row) => figure(row.rate_rps), num: true },
    { title: "Input", value: (row) => row.input_tokens_mean, show: (row) => number(row.input_tokens_mean), num: true },
    { title: "Output", value: (row) => row.output_tokens_mean, show: (row) => number(row.output_tokens_mean), num: true },
    { title: "tok/s", value: (row) => row.tok_s, show: (row) => figure(row.tok_s), num: true },
  ];
}

/** @param {Server} server @returns {HTMLElement[]} */
function gpuDetail({ gpu, adapters }) {
  const { predicted } = gpu;
  const rooms = Object.entries(gpu.head_room).map(([name, room]) =>
    el("label", { class: "room" }, `${/** @type {any} */ (BOUNDS)[name] ?? name}: ${percent(room)} left`, bar(room, room < LITTLE_ROOM)),
  );
  const strange = predicted.out_of_range.length ? [el("p", {}, tag("outside what the surrogate was trained for", "warn"), ` ${predicted.out_of_range.join(", ")}`)] : [];
  const flags = gpu.vllm_args.join(" ");
  return [
    el("h3", {}, `GPU ${gpu.gpu}`),
    factList([
      ["Adapters", number(adapters.length)],
      ["max_loras, rank", `${gpu.max_loras}, ${gpu.max_lora_rank}`],
      ["Throughput", `${number(predicted.throughput_tok_s)} of ${number(predicted.offered_tok_s)} tok/s offered`],
      ["Starvation risk", risk(predicted.starvation_probability)],
      ["ITL, TTFT", `${number(predicted.itl_ms, 1)} ms, ${number(predicted.ttft_ms)} ms`],
      ["Bound by", /** @type {any} */ (BOUNDS)[gpu.binding_constraint] ?? gpu.binding_constraint],
    ]),
    ...strange,
    ...rooms,
    el("h4", {}, "Flags of vLLM"),
    el("pre", { tabindex: 0 }, flags),
    copyButton(flags, "Copy the flags"),
    el("details", {}, el("summary", {}, counted(adapters.length, "adapter")), el("pre", { tabindex: 0 }, adapters.map(({ id }) => id).join("\n"))),
  ];
}

