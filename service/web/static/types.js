/**
 * Shapes that several modules share. Names and units are the API's.
 *
 * @typedef {{throughput_tok_s: number, offered_tok_s: number, starvation_probability: number,
 *   itl_ms: number|null, ttft_ms: number|null, out_of_range: string[]}} Predicted
 *
 * @typedef {{gpu: number, max_loras: number, max_lora_rank: number, adapters: string[], predicted: Predicted,
 *   binding_constraint: string, head_room: Record<string, number>, vllm_args: string[]}} PlannedGpu
 *
 * @typedef {{plan_id: string, feasible: boolean, num_gpus: number, lower_bound: number, gap: number|null,
 *   given_up: string|null, starvation_probability: number, gpus: PlannedGpu[],
 *   unplaced: {adapter: string, code: string, reason: string}[], surrogate_version: string,
 *   calibration_id: string, verification: {status: string}}} Plan
 *
 * @typedef {{base_model: string, gpu_type: string, adapters: any, options?: Record<string, any>}} Workload
 *
 * @typedef {{id: string, rank: number, rate_rps: number, input_tokens_mean: number,
 *   output_tokens_mean: number, tok_s: number}} Adapter
 *   `tok_s` is what it offers: its rate times its input and output tokens.
 *
 * @typedef {{gpu: PlannedGpu, adapters: Adapter[], room: number}} Server
 *   A GPU of a plan with its adapters, the busiest first; `room` is its smallest head-room, a share.
 *
 * @typedef {{label: string, plan: Plan, workload: Workload, adapters: Map<string, Adapter>,
 *   servers: Server[], isBare?: boolean}} Fleet
 *   A plan beside the workload that it is for; a bare one was fetched without its workload's numbers.
 *
 * @typedef {{base_model: string, gpu_type: string, version: string, num_adapters: number,
 *   offered_tok_s: number, num_gpus: number, plan_id: string, feasible: boolean, as_of: string}} InForce
 */

export {};
