/** Planning a workload that is not in force, and putting it in force. */

import { Problem, call, get, post } from "./api.js";
import { attempt, confirmed } from "./dialogs.js";
import { announce, byId } from "./dom.js";
import { counted } from "./format.js";
import { nameOf } from "./fleets.js";
import { exampleWorkload, fleetOf } from "./model.js";
import { PlanView } from "./plan-view.js";
import { isUnderWay } from "./progress.js";

const REPLAY_PAUSE_MS = 1500;
const MAX_REPLAY_TURNS = 60;

/** @typedef {import("./fleets.js").Fleets} Fleets */
/** @typedef {import("./types.js").Workload} Workload */

/** @param {Fleets} fleets */
export function setUpTryIt(fleets) {
  const text = byId("try-text");
  const told = byId("try-error");
  const put = byId("try-put");
  const view = new PlanView(byId("try-plan"));
  const fill = (/** @type {Workload} */ workload) => {
    text.value = JSON.stringify(workload, null, 1);
    showOptions(workload);
    told.textContent = "";
  };

  byId("try-file").addEventListener("change", (/** @type {any} */ event) =>
    attempt(told, async () => {
      const [file] = event.target.files;
      if (!file) return;
      text.value = await file.text();
      event.target.value = "";
      const workload = readText(text.value, told);
      if (workload) showOptions(workload);
    }),
  );
  byId("try-example").addEventListener("click", () =>
    attempt(told, async () => {
      const { calibrations } = await get("readyz");
      const [gpu_type, base_model] = (fleets.chosen ? [fleets.chosen.gpu_type, fleets.chosen.base_model] : calibrations[0].split("/"));
      fill(exampleWorkload(base_model, gpu_type));
    }),
  );
  byId("try-current").addEventListener("click", () => {
    if (fleets.fleet) fill(fleets.fleet.workload);
    else told.textContent = "No workload is in force.";
  });
  text.addEventListener("input", () => (put.disabled = true));
  byId("try-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    attempt(told, async () => {
      put.disabled = true;
      const workload = chosenWorkload(text.value, told);
      if (!workload) return;
      const plan = await post("place", workload);
      const fleet = fleetOf(`tried ${new Date().toLocaleTimeString("en-GB")}: ${nameOf(workload)}`, plan, workload);
      byId("try-plan").hidden = false;
      view.show(fleet);
      fleets.remember(fleet);
      put.disabled = false;
      announce(`Planned on ${counted(plan.num_gpus, "GPU")}`);
      if (plan.verification.status === "not_asked") followReplay(fleet, view);
    });
  });
  put.addEventListener("click", () =>
    attempt(told, async () => {
      const workload = chosenWorkload(text.value, told);
      if (!workload) return;
      const before = fleets.listed.some((entry) => nameOf(entry) === nameOf(workload));
      const what = `${nameOf(workload)}: ${before ? "it replaces the one in force" : "none is in force yet"}. The number that an autoscaler is told changes with it.`;
      if (!(await confirmed("Put this workload in force?", what, "Put in force"))) return;
      await call("PUT", "workload", { body: workload });
      await fleets.choose(nameOf(workload));
      location.hash = "fleet";
    }),
  );
}

/** Tell what the twin says of a plan, once a worker has replayed it behind the answer.
 * @param {import("./types.js").Fleet} fleet @param {PlanView} view */
async function followReplay(fleet, view) {
  for (let turn = 0; turn < MAX_REPLAY_TURNS; turn += 1) {
    await new Promise((resolve) => setTimeout(resolve, REPLAY_PAUSE_MS));
    if (view.fleet !== fleet) return;
    try {
      fleet.plan.verification = (await get(`plans/${fleet.plan.plan_id}`)).verification;
    } catch (error) {
      if (error instanceof Problem) return; // nobody replays it: the store is away, or enough plans wait
      throw error;
    }
    view.showFigures([]);
    if (!isUnderWay(fleet.plan.verification.status)) return;
  }
}

/** @param {string} text @param {HTMLElement} told @returns {Workload|null} null where it is no JSON, which is told */
function readText(text, told) {
  try {
    const workload = JSON.parse(text);
    if (workload !== null && typeof workload === "object" && workload.adapters) return workload;
    told.textContent = text.trim() ? "This is no workload: it has no adapters." : "";
  } catch (error) {
    told.textContent = `This is no JSON: ${/** @type {Error} */ (error).message}`;
  }
  return null;
}

/** The workload of the text with the options of the form. @param {string} text @param {HTMLElement} told */
function chosenWorkload(text, told) {
  if (!text.trim()) {
    told.textContent = "Load a file, paste a workload, or take the example.";
    return null;
  }
  const workload = readText(text, told);
  if (!workload) return null;
  const max_gpus = byId("try-max-gpus").value;
  const options = {
    ...workload.options,
    objective: byId("try-objective").value,
    starvation_risk: Number(byId("try-risk").value),
    verify: byId("try-verify").checked,
    max_gpus: max_gpus === "" ? null : Number(max_gpus),
  };
  return { ...workload, options };
}

/** Show a workload's own options in the form. @param {Workload} workload */
function showOptions({ options = {} }) {
  byId("try-objective").value = options.objective ?? "min_gpus";
  byId("try-max-gpus").value = options.max_gpus ?? "";
  byId("try-risk").value = options.starvation_risk ?? 0.05;
  byId("try-verify").checked = options.verify ?? false;
}
