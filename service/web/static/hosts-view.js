/** Who works and who measures: workers, agents, and how calibrations compare with live servers. */

import { call } from "./api.js";
import { attempt, confirmed, showOf } from "./dialogs.js";
import { byId, el, stateTag, tag } from "./dom.js";
import { figure, moment, number, percent } from "./format.js";
import { DataTable } from "./table.js";

const BYTES_PER_GIB = 2 ** 30;
const STATES = { idle: "good", measuring: "warn", busy: "warn", silent: "bad" };

/** @returns {{open: () => Promise<void>}} what the page calls when this view is opened */
export function setUpHostsView() {
  const open = async () => {
    await showOf(workers, "workers", (answer) => {
      workers.show(answer.workers);
      queues.show(answer.queues);
    });
    await showOf(agents, "agents", (answer) => agents.show(answer.agents));
    await showOf(drift, "drift", (answer) => drift.show(answer.calibrations));
  };
  /** @param {string} id */
  const forget = (id) =>
    attempt(byId("hosts-error"), async () => {
      if (!(await confirmed("Forget this agent?", `${id} is taken off the list. If it lives, it registers again.`, "Forget it"))) return;
      await call("DELETE", `agents/${encodeURIComponent(id)}`);
      await open();
    });
  const workers = workerTable(byId("workers"));
  const queues = queueTable(byId("queues"));
  const agents = agentTable(byId("agents"), forget);
  const drift = driftTable(byId("drift"));
  return { open };
}

/** @param {HTMLElement} root */
function workerTable(root) {
  return new DataTable(root, {
    caption: "Workers at work",
    empty: "No worker is alive. `loadmaster worker` starts one on the same store.",
    columns: [
      { title: "Worker", value: (/** @type {any} */ one) => one.name },
      { title: "State", value: (one) => one.state, show: (one) => stateTag(one.state, STATES) },
      { title: "Host", value: (one) => one.hostname },
      { title: "Queues", value: (one) => (one.queues ?? []).join(", ") },
      { title: "Job", value: (one) => one.job_id ?? "" },
      { title: "Finished", value: (one) => one.num_finished, num: true },
      { title: "Failed", value: (one) => one.num_failed, num: true },
      { title: "Heard of", value: (one) => one.heartbeat_at, show: (one) => moment(one.heartbeat_at) },
    ],
  });
}

/** @param {HTMLElement} root */
function queueTable(root) {
  return new DataTable(root, {
    caption: "Queues of jobs",
    columns: [
      { title: "Queue", value: (/** @type {any} */ one) => one.queue },
      { title: "Waiting", value: (one) => one.num_waiting, num: true },
      { title: "Running", value: (one) => one.num_running, num: true },
      { title: "Failed", value: (one) => one.num_failed, num: true },
    ],
  });
}

/** @param {HTMLElement} root @param {(id: string) => void} forget */
function agentTable(root, forget) {
  return new DataTable(root, {
    caption: "Agents that registered",
    keyOf: (/** @type {any} */ one) => one.agent_id,
    empty: "No agent has registered. `loadmaster agent` measures a live vLLM server.",
    columns: [
      { title: "Agent", value: (one) => one.agent_id },
      { title: "State", value: (one) => one.state, show: (one) => stateTag(one.state, STATES) },
      { title: "GPU", value: (one) => one.gpu_type, show: (one) => `${one.gpu_type}, ${number(one.memory_bytes / BYTES_PER_GIB)} GiB` },
      { title: "Engine", value: (one) => one.engine_version },
      { title: "Base models", value: (one) => one.base_models.join(", "), wrap: true },
      { title: "Measures", value: (one) => one.task?.job_id, show: (one) => (one.task ? `${one.task.base_model}, ${percent(one.task.progress, 0)}` : "") },
      { title: "Heard of", value: (one) => one.seen_at, show: (one) => moment(one.seen_at) },
      { title: "", value: () => "", show: (one) => el("button", { type: "button", "aria-label": `Forget ${one.agent_id}`, onclick: () => forget(one.agent_id) }, "Forget…") },
    ],
  });
}

/** @param {HTMLElement} root */
function driftTable(root) {
  return new DataTable(root, {
    caption: "Calibrations beside live servers",
    empty: "No agent has compared a live server with its calibration yet.",
    columns: [
      { title: "Calibration", value: (/** @type {any} */ one) => one.calibration_id },
      { title: "State", value: (one) => one.drifted, show: (one) => (one.drifted ? tag("drifted", "bad") : tag("holds", "good")) },
      { title: "Measured over predicted", value: (one) => JSON.stringify(one.ratios), show: (one) => Object.entries(one.ratios).map(([name, ratio]) => `${name} ${figure(1 + ratio)}`).join(", "), wrap: true },
      { title: "Samples", value: (one) => one.num_samples, num: true },
      { title: "As of", value: (one) => one.as_of, show: (one) => moment(one.as_of) },
      { title: "Proposal", value: (one) => one.proposal, wrap: true },
    ],
  });
}
