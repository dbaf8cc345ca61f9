/** A plan and its workload as one thing that can be drawn. */

/** @typedef {import("./types.js").Adapter} Adapter */
/** @typedef {import("./types.js").Fleet} Fleet */
/** @typedef {import("./types.js").Plan} Plan */
/** @typedef {import("./types.js").Workload} Workload */

/**
 * The adapters of a workload document, given by rows or by columns.
 * @param {Workload} workload @returns {Adapter[]}
 */
export function adaptersOf(workload) {
  return rowsOf(workload).map((row) => ({ ...row, tok_s: row.rate_rps * (row.input_tokens_mean + row.output_tokens_mean) }));
}

/** @param {Workload} workload @returns {any[]} the adapters of a document by rows, with all their fields */
export function rowsOf(workload) {
  const { adapters } = workload;
  if (Array.isArray(adapters)) return adapters;
  const names = Object.keys(adapters).filter((name) => adapters[name].length);
  return adapters.id.map((/** @type {string} */ _id, /** @type {number} */ at) =>
    Object.fromEntries(names.map((name) => [name, adapters[name][at]])),
  );
}

/** @param {string} label @param {Plan} plan @param {Workload} workload @returns {Fleet} */
export function fleetOf(label, plan, workload) {
  const adapters = new Map(adaptersOf(workload).map((adapter) => [adapter.id, adapter]));
  const servers = plan.gpus.map((gpu) => ({
    gpu,
    adapters: gpu.adapters
      .map((id) => adapters.get(id) ?? unknown(id))
      .sort((a, b) => b.tok_s - a.tok_s),
    room: smallestRoom(gpu.head_room),
  }));
  return { label, plan, workload, adapters, servers };
}

/** The servers of a plan as `POST /re-place` and `/what-if` take them. @param {Plan} plan */
export function runningServers({ gpus }) {
  return gpus.map(({ gpu, max_loras, max_lora_rank, adapters }) => ({ gpu, max_loras, max_lora_rank, adapters }));
}

/** @param {Record<string, number>} rooms */
function smallestRoom(rooms) {
  const values = Object.values(rooms ?? {});
  return values.length ? Math.min(...values) : NaN;
}

/** An adapter that a plan has and the workload beside it does not: rates changed between two answers.
 * @param {string} id @returns {Adapter} */
function unknown(id) {
  return { id, rank: 0, rate_rps: 0, input_tokens_mean: 0, output_tokens_mean: 0, tok_s: 0 };
}

/** @param {Fleet} fleet @returns {number} the share of risk that the workload accepts */
export function acceptedRisk(fleet) {
  return fleet.workload.options?.starvation_risk ?? 0.05;
}

/** @param {Adapter[]} adapters @returns {{num: number, rate_rps: number, tok_s: number}} */
export function totals(adapters) {
  let rate_rps = 0;
  let tok_s = 0;
  for (const adapter of adapters) {
    rate_rps += adapter.rate_rps;
    tok_s += adapter.tok_s;
  }
  return { num: adapters.length, rate_rps, tok_s };
}

/** A workload to begin with: 192 adapters of rank 8 and 16 that receive 0.025 to 0.1 requests a second each.
 * @param {string} base_model @param {string} gpu_type @returns {Workload} */
export function exampleWorkload(base_model, gpu_type) {
  const adapters = Array.from({ length: 192 }, (_, at) => ({
    id: `adapter-${String(at).padStart(3, "0")}`,
    rank: [8, 16][Math.floor(at / 3) % 2],
    rate_rps: [0.1, 0.05, 0.025][at % 3],
    input_tokens_mean: 223,
    output_tokens_mean: 195,
  }));
  return { base_model, gpu_type, adapters };
}
