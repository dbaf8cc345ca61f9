/** Asking for a recalibration, and following it stage by stage. */

import { get, post } from "./api.js";
import { attempt, confirmed } from "./dialogs.js";
import { announce, byId, el } from "./dom.js";
import { counted } from "./format.js";
import { isUnderWay, progressOf } from "./progress.js";
import { follow } from "./sse.js";

const KIND = "recalibrate";

/** @param {() => void} onPublished called once a recalibration has ended
 * @returns {{open: (calibrationIds: string[]) => Promise<void>}} */
export function setUpRecalibrate(onPublished) {
  const told = byId("recalibrate-error");
  /** The job that is followed. @type {string|null} */
  let followed = null;

  /** @param {string} id */
  const watch = (id) =>
    attempt(told, async () => {
      if (followed === id) return;
      followed = id;
      try {
        await showUntilItEnds(id);
      } finally {
        followed = null;
      }
      announce(`The recalibration ${id} has ended`);
      onPublished();
    });

  byId("recalibrate-tables").addEventListener("change", (/** @type {any} */ event) =>
    attempt(told, async () => {
      const files = [...event.target.files];
      if (!files.length) return;
      const tables = Object.fromEntries(await Promise.all(files.map(async (file) => [file.name, await file.text()])));
      event.target.value = "";
      const added = await post("measurement-sets", { tables });
      await listSets();
      byId("recalibrate-set").value = added.measurement_set;
      announce(`A measurement set of ${counted(added.num_runs, "run")} was added`);
    }),
  );
  byId("recalibrate-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    attempt(told, async () => {
      const [gpu_type, base_model, engine_version] = byId("recalibrate-target").value.trim().split("/");
      const measurement_set = byId("recalibrate-set").value || null;
      const num_rows = Number(byId("recalibrate-rows").value) || null;
      const from = measurement_set ? `the measurement set ${measurement_set}` : "what agents measure, which takes their GPUs' time";
      const what = `${gpu_type}/${base_model}/${engine_version} from ${from}. A surrogate that passes its validation is put in force.`;
      if (!(await confirmed("Recalibrate?", what, "Recalibrate"))) return;
      const job = await post("recalibrate", { gpu_type, base_model, engine_version, measurement_set, num_rows });
      watch(job.job_id);
    });
  });
  return {
    open: async (calibrationIds) => {
      byId("recalibrate-targets").replaceChildren(...calibrationIds.map((id) => el("option", { value: id })));
      const target = byId("recalibrate-target");
      target.value ||= calibrationIds[0] ?? "";
      await attempt(told, listSets);
      await attempt(told, async () => {
        const { jobs } = await get("jobs", { limit: 200, state: "started" });
        const under = jobs.find((/** @type {any} */ job) => job.kind === KIND);
        if (under) watch(under.job_id);
      });
    },
  };
}

/** @param {string} id */
async function showUntilItEnds(id) {
  const box = byId("recalibrate-progress");
  const show = (/** @type {{data: any}} */ { data: job }) => {
    const link = el("p", {}, `Job ${job.job_id}: ${job.state}. `, el("a", { href: "#jobs" }, "All jobs"));
    box.replaceChildren(link, ...progressOf(job), ...(job.error ? [el("p", { class: "bad" }, job.error)] : []));
    return isUnderWay(job.state);
  };
  await follow(`jobs/${encodeURIComponent(id)}/events`, show, new AbortController().signal);
}

async function listSets() {
  const chosen = byId("recalibrate-set").value;
  const { measurement_sets } = await get("measurement-sets");
  byId("recalibrate-set").replaceChildren(
    el("option", { value: "" }, "agents measure"),
    ...measurement_sets.map((/** @type {any} */ one) => el("option", { value: one.measurement_set }, `${one.measurement_set} (${one.base_models.join(", ")}, ${counted(one.num_runs, "run")})`)),
  );
  byId("recalibrate-set").value = chosen;
}
