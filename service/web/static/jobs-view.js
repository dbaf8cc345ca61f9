/** Jobs: what waits, runs, has ended or failed; one in full, followed while it runs. */

import { get, post } from "./api.js";
import { attempt, confirmed } from "./dialogs.js";
import { announce, byId, el, factList, stateTag } from "./dom.js";
import { lasted, moment } from "./format.js";
import { isUnderWay, progressOf } from "./progress.js";
import { follow } from "./sse.js";
import { DataTable } from "./table.js";

/** @typedef {{job_id: string, kind: string, state: string, request_id: string|null, created_at: string|null,
 *   started_at: string|null, ended_at: string|null, report: any, error: string|null, stage: string|null,
 *   progress: number|null, detail: string|null, stages: import("./progress.js").Stage[]}} Job */

const STATES = { finished: "good", failed: "bad", started: "warn", cancelled: "bad" };
const NUM_ASKED = 200;

/** @returns {{open: () => Promise<void>}} what the page calls when this view is opened */
export function setUpJobsView() {
  const told = byId("jobs-error");
  const state = byId("jobs-state");
  /** Ends the stream of the job that is shown. */
  let stream = new AbortController();
  const table = new DataTable(byId("jobs-table"), {
    caption: "Newest jobs",
    empty: "No job. POST /simulate makes one; so does each plan that a worker replays.",
    keyOf: (/** @type {Job} */ job) => job.job_id,
    onChoose: (job) => attempt(told, () => choose(job.job_id)),
    columns: [
      { title: "Job", value: (job) => job.job_id },
      { title: "Kind", value: (job) => job.kind },
      { title: "State", value: (job) => job.state, show: (job) => stateTag(job.state, STATES) },
      { title: "Queued", value: (job) => job.created_at, show: (job) => moment(job.created_at) },
      { title: "Ran", value: (job) => job.started_at, show: (job) => lasted(job.started_at, job.ended_at), num: true },
      { title: "Error", value: (job) => job.error, wrap: true },
    ],
  });
  const open = () =>
    attempt(told, async () => {
      table.show((await get("jobs", { limit: NUM_ASKED, state: state.value })).jobs);
    });
  /** @param {string} id */
  const choose = async (id) => {
    stream.abort();
    stream = new AbortController();
    const { signal } = stream;
    const job = await get(`jobs/${encodeURIComponent(id)}`);
    showJob(job, act);
    if (!isUnderWay(job.state)) return;
    await follow(`jobs/${encodeURIComponent(id)}/events`, ({ data }) => showProgress(data), signal);
    if (!signal.aborted) showJob(await get(`jobs/${encodeURIComponent(id)}`), act);
  };
  /** @param {Job} job @param {"cancel"|"retry"} what */
  const act = (job, what) =>
    attempt(told, async () => {
      if (what === "cancel" && !(await confirmed("Cancel this job?", `${job.job_id} ends without a report. It may be retried.`, "Cancel the job"))) return;
      await post(`jobs/${encodeURIComponent(job.job_id)}/${what}`);
      announce(`${job.job_id}: ${what} is under way`);
      await open();
      await choose(job.job_id);
    });
  state.addEventListener("change", open);
  byId("jobs-refresh").addEventListener("click", open);
  return { open };
}

/** @param {Job} told how a job stands @returns {boolean} whether more is to come */
function showProgress(told) {
  byId("job-progress").replaceChildren(...progressOf(told));
  return isUnderWay(told.state);
}

/** @param {Job} job @param {(job: Job, what: "cancel"|"retry") => void} act */
function showJob(job, act) {
  const box = byId("job-detail");
  const can = isUnderWay(job.state) ? "cancel" : job.state === "finished" ? null : "retry";
  box.hidden = false;
  box.replaceChildren(
    el("header", { class: "card-head" }, el("h3", {}, job.job_id), stateTag(job.state, STATES)),
    el("div", { id: "job-progress", "aria-live": "polite" }, ...progressOf(job)),
    factList([
      ["Kind", job.kind],
      ["Queued", moment(job.created_at)],
      ["Began", moment(job.started_at)],
      ["Ended", moment(job.ended_at)],
      ["Ran", lasted(job.started_at, job.ended_at)],
      ["Request", job.request_id ?? "–"],
    ]),
    job.error ? el("p", { class: "bad" }, job.error) : "",
    can ? el("div", { class: "buttons" }, el("button", { type: "button", onclick: () => act(job, can) }, can === "cancel" ? "Cancel it…" : "Retry it")) : "",
    job.report ? el("details", {}, el("summary", {}, "Report"), el("pre", { tabindex: 0 }, JSON.stringify(job.report, null, 1))) : "",
  );
}
