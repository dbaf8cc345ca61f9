/** Jobs: what waits, runs, has ended or failed; one in full. */

import { get } from "./api.js";
import { attempt } from "./dialogs.js";
import { byId, el, factList, tag } from "./dom.js";
import { lasted, moment } from "./format.js";
import { DataTable } from "./table.js";

/** @typedef {{job_id: string, kind: string, state: string, request_id: string|null, created_at: string|null,
 *   started_at: string|null, ended_at: string|null, report: any, error: string|null}} Job */

const STATES = { finished: "good", failed: "bad", started: "warn", cancelled: "bad" };
const NUM_ASKED = 200;

/** @param {string} state */
export const stateTag = (state) => tag(state, /** @type {any} */ (STATES)[state] ?? "");

/** @returns {{open: () => Promise<void>}} what the page calls when this view is opened */
export function setUpJobsView() {
  const told = byId("jobs-error");
  const state = byId("jobs-state");
  const table = new DataTable(byId("jobs-table"), {
    caption: "Newest jobs",
    empty: "No job yet. POST /simulate makes one; so does each plan that a worker replays.",
    keyOf: (/** @type {Job} */ job) => job.job_id,
    onChoose: (job) => attempt(told, () => showJob(job.job_id)),
    columns: [
      { title: "Job", value: (job) => job.job_id },
      { title: "Kind", value: (job) => job.kind },
      { title: "State", value: (job) => job.state, show: (job) => stateTag(job.state) },
      { title: "Queued", value: (job) => job.created_at, show: (job) => moment(job.created_at) },
      { title: "Ran", value: (job) => job.started_at, show: (job) => lasted(job.started_at, job.ended_at), num: true },
      { title: "Error", value: (job) => job.error, wrap: true },
    ],
  });
  const open = () =>
    attempt(told, async () => {
      const { jobs } = await get("jobs", { limit: NUM_ASKED });
      table.show(state.value ? jobs.filter((/** @type {Job} */ job) => job.state === state.value) : jobs);
    });
  state.addEventListener("change", open);
  byId("jobs-refresh").addEventListener("click", open);
  return { open };
}

/** @param {string} id */
async function showJob(id) {
  const box = byId("job-detail");
  /** @type {Job} */
  const job = await get(`jobs/${encodeURIComponent(id)}`);
  box.hidden = false;
  box.replaceChildren(
    el("header", { class: "card-head" }, el("h3", {}, job.job_id), stateTag(job.state)),
    factList([
      ["Kind", job.kind],
      ["Queued", moment(job.created_at)],
      ["Began", moment(job.started_at)],
      ["Ended", moment(job.ended_at)],
      ["Ran", lasted(job.started_at, job.ended_at)],
      ["Request", job.request_id ?? "–"],
    ]),
    job.error ? el("p", { class: "bad" }, job.error) : "",
    job.report ? el("details", {}, el("summary", {}, "Report"), el("pre", { tabindex: 0 }, JSON.stringify(job.report, null, 1))) : "",
  );
}
