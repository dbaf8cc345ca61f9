/** How far a job is. */

import { bar, el, plainTable } from "./dom.js";
import { number, percent } from "./format.js";

/** @typedef {{stage: string, started_at_s: number, ended_at_s: number|null, progress: number, detail: string}} Stage */

/** Whether a job, or the replay of a plan, in this state has not ended. @param {string} state */
export const isUnderWay = (state) => state === "queued" || state === "started";

/**
 * @param {{stage?: string|null, progress?: number|null, detail?: string|null, stages?: Stage[]}} job
 * @returns {Node[]} none where the job has no stages
 */
export function progressOf({ stage, progress, detail, stages = [] }) {
  if (!stage) return [];
  const share = typeof progress === "number" ? progress : null;
  const label = [stage, share === null ? "" : percent(share, 0), detail].filter(Boolean).join(", ");
  return [el("label", { class: "room" }, label, share === null ? null : bar(share)), stages.length ? stageTable(stages) : ""].filter((part) => part instanceof Node);
}

/** @param {Stage[]} stages those entered, the present one last */
function stageTable(stages) {
  return plainTable(
    ["Stage", { title: "Took", num: true }, { title: "What it did", wrap: true }],
    stages.map(({ stage, started_at_s, ended_at_s, detail }) => [stage, ended_at_s === null ? "under way" : `${number(ended_at_s - started_at_s, 1)} s`, detail]),
  );
}
