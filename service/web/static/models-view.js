/** Calibrations and surrogates: which are in force, how exact they are, where they came from; other ones in force. */

import { Chart } from "./chart.js";
import { post } from "./api.js";
import { attempt, confirmed, showOf } from "./dialogs.js";
import { announce, byId, el, factList, plainTable, tag } from "./dom.js";
import { figure, moment, number } from "./format.js";
import { setUpRecalibrate } from "./recalibrate.js";
import { DataTable } from "./table.js";

/** @typedef {{surrogate_version: string, calibration_id: string, calibration_version: string, active: boolean,
 *   source: string, created_at: string|null, active_since: string|null, refused: string|null,
 *   metrics: Record<string, Record<string, number|null>>, gate: any, lineage: any}} Surrogate */
/** @typedef {{calibration_id: string, calibration_version: string, active: boolean, source: string,
 *   created_at: string|null, metrics: Record<string, number>, provenance: Record<string, string>,
 *   measurement_set: string|null, surrogate_versions: string[]}} Calibration */

const MEASURES = {
  throughput_smape_half_pct: "throughput error %", itl_smape_half_pct: "ITL error %", ttft_smape_half_pct: "TTFT error %",
  starvation_f1: "starvation F1", starvation_auc: "starvation AUC", starvation_brier: "starvation Brier", rows: "held-out runs",
};
/** What the chart of accuracy shows of each surrogate. */
const ACCURACY = [
  { label: "throughput %", colour: "--series-1", name: "throughput_smape_half_pct" },
  { label: "ITL %", colour: "--series-3", name: "itl_smape_half_pct" },
  { label: "TTFT %", colour: "--series-2", name: "ttft_smape_half_pct" },
];
const PREDICTORS = { tree: "tree (serves)", teacher: "teacher", physics: "physics alone" };

/** @param {() => void} onChange called once another surrogate is in force
 * @returns {{open: () => Promise<void>, list: () => Promise<void>}} what opens it, and what lists versions anew */
export function setUpModelsView(onChange) {
  /** @type {Surrogate[]} */
  let listed = [];
  const told = byId("models-error");
  const recalibrate = setUpRecalibrate(() => list().then(onChange));
  const open = async () => {
    await list();
    await recalibrate.open([...new Set(listed.map((one) => one.calibration_id))]);
  };
  const list = async () => {
    await showOf(calibrations, "calibrations", (answer) => calibrations.show(answer.calibrations));
    await showOf(surrogates, "surrogates", (answer) => {
      listed = answer.surrogates;
      surrogates.show(listed);
      showAccuracy(accuracy, listed);
    });
  };
  /** @param {Surrogate} one @param {"activate"|"roll-back"} what */
  const act = (one, what) =>
    attempt(told, async () => {
      const before = listed.find((other) => other.active && other.calibration_id === one.calibration_id);
      const text =
        what === "activate"
          ? `${one.surrogate_version} of ${one.calibration_id} takes the place of ${before?.surrogate_version ?? "none"}. Workloads in force are planned anew.`
          : `The surrogate that was in force before ${one.surrogate_version} of ${one.calibration_id} is put in force again. Workloads in force are planned anew.`;
      if (!(await confirmed(what === "activate" ? "Put this surrogate in force?" : "Roll back?", text, what === "activate" ? "Activate" : "Roll back"))) return;
      const now = what === "activate" ? await post(`surrogates/${one.surrogate_version}/activate`) : await post("surrogates/roll-back", { calibration_id: one.calibration_id });
      announce(`${now.surrogate_version} is in force`);
      await list();
      onChange();
    });
  const calibrations = calibrationTable(byId("calibrations"));
  const surrogates = surrogateTable(byId("surrogates"), act);
  const accuracy = accuracyChart(byId("accuracy"), () => listed);
  return { open, list };
}

/** @param {HTMLElement} root */
function calibrationTable(root) {
  return new DataTable(root, {
    caption: "Calibrations",
    keyOf: (/** @type {Calibration} */ one) => one.calibration_id + one.calibration_version,
    onChoose: (one) => showDetail(one.calibration_id, calibrationFacts(one)),
    columns: [
      { title: "Calibration", value: (one) => one.calibration_id },
      { title: "In force", value: (one) => one.active, show: (one) => (one.active ? tag("in force", "good") : "") },
      { title: "Source", value: (one) => one.source },
      { title: "Made", value: (one) => one.created_at ?? one.provenance.date, show: (one) => moment(one.created_at ?? one.provenance.date) },
      { title: "KV memory", value: (one) => one.metrics["memory.kv_tokens_mape_pct"], show: (one) => error(one.metrics["memory.kv_tokens_mape_pct"]), num: true },
      { title: "Load", value: (one) => one.metrics["load.ms_mape_pct"], show: (one) => error(one.metrics["load.ms_mape_pct"]), num: true },
      { title: "Scheduler", value: (one) => one.metrics["scheduler.us_mape_pct"], show: (one) => error(one.metrics["scheduler.us_mape_pct"]), num: true },
      { title: "Step", value: (one) => one.metrics["step.ms_mape_pct"], show: (one) => error(one.metrics["step.ms_mape_pct"]), num: true },
    ],
  });
}

/** @param {number|undefined} percents a mean error */
const error = (percents) => (percents === undefined ? "–" : `${number(percents, 2)} %`);

/** @param {HTMLElement} root @param {(one: Surrogate, what: "activate"|"roll-back") => void} act */
function surrogateTable(root, act) {
  const of = (/** @type {string} */ name) => (/** @type {Surrogate} */ one) => one.metrics.tree?.[name];
  const button = (/** @type {Surrogate} */ one) => {
    const what = one.active ? "roll-back" : "activate";
    const onclick = (/** @type {Event} */ event) => (event.stopPropagation(), act(one, what));
    return el("button", { type: "button", "aria-label": `${what} ${one.surrogate_version} of ${one.calibration_id}`, onclick }, one.active ? "Roll back…" : "Activate…");
  };
  return new DataTable(root, {
    caption: "Surrogates",
    keyOf: (/** @type {Surrogate} */ one) => one.surrogate_version + one.calibration_id,
    onChoose: (one) => showDetail(`${one.surrogate_version} of ${one.calibration_id}`, ...surrogateFacts(one)),
    columns: [
      { title: "Version", value: (one) => one.surrogate_version },
      { title: "Calibration", value: (one) => one.calibration_id, wrap: true },
      { title: "In force", value: (one) => one.active, show: (one) => (one.refused ? tag("refused", "bad") : one.active ? tag("in force", "good") : "") },
      { title: "Source", value: (one) => one.source },
      { title: "Made", value: (one) => one.created_at, show: (one) => moment(one.created_at) },
      { title: "Throughput", value: of("throughput_smape_half_pct"), show: (one) => error(of("throughput_smape_half_pct")(one) ?? undefined), num: true },
      { title: "ITL", value: of("itl_smape_half_pct"), show: (one) => error(of("itl_smape_half_pct")(one) ?? undefined), num: true },
      { title: "Starvation F1", value: of("starvation_f1"), show: (one) => number(of("starvation_f1")(one), 3), num: true },
      { title: "", value: () => "", show: button },
    ],
  });
}

/** The error of every version, the newest last, so that a worse one is seen.
 * @param {HTMLElement} root @param {() => Surrogate[]} listed those that are shown */
function accuracyChart(root, listed) {
  return new Chart(root, {
    name: "Error of each surrogate on held-out twin runs",
    x: { label: "surrogate", show: (at) => listed()[at]?.surrogate_version ?? "" },
    y: "smape / 2, %",
    named: true,
    series: ACCURACY.map(({ label, colour }) => ({ label, colour, points: true, line: false, show: (value) => number(value, 2) })),
  });
}

/** @param {Chart} chart @param {Surrogate[]} surrogates */
function showAccuracy(chart, surrogates) {
  byId("accuracy").parentElement.hidden = surrogates.length === 0;
  if (!surrogates.length) return;
  chart.show([surrogates.map((_one, at) => at), ...ACCURACY.map(({ name }) => surrogates.map((one) => one.metrics.tree?.[name] ?? null))]);
}

/** @param {string} title @param {...Node} content */
function showDetail(title, ...content) {
  const box = byId("model-detail");
  box.hidden = false;
  box.replaceChildren(el("h3", {}, title), ...content);
}

/** @param {Calibration} one */
function calibrationFacts(one) {
  return factList([
    ["Version", one.calibration_version],
    ["Fitted to", one.provenance.data ?? "–"],
    ["By", one.provenance.command ?? "–"],
    ["Measurement set", one.measurement_set ?? "–"],
    ["Surrogates", one.surrogate_versions.join(", ")],
    ...Object.entries(one.metrics).map(([name, value]) => /** @type {[string, string]} */ ([name, figure(value)])),
  ]);
}

/** @param {Surrogate} one @returns {Node[]} */
function surrogateFacts(one) {
  const { lineage } = one;
  const names = Object.keys(MEASURES).filter((name) => Object.values(one.metrics).some((figures) => name in figures));
  const titles = ["", ...names.map((name) => ({ title: /** @type {any} */ (MEASURES)[name], num: true }))];
  const rows = Object.entries(one.metrics).map(([predictor, figures]) => [/** @type {any} */ (PREDICTORS)[predictor] ?? predictor.replaceAll("_", " "), ...names.map((name) => figure(figures[name]))]);
  return [
    one.refused ? el("p", { class: "bad" }, one.refused) : "",
    el("div", { class: "table-box", tabindex: 0, role: "region", "aria-label": "Figures on held-out twin runs" }, plainTable(titles, rows)),
    factList([
      ["In force since", moment(one.active_since)],
      ["Calibration", `${one.calibration_id}, ${one.calibration_version}`],
      ["Measurements", lineage.measurement_set ?? lineage.measurements],
      ["Data set", `${number(lineage.dataset.rows)} twin runs, seed ${lineage.dataset.seed}, twin ${lineage.dataset.twin_version}`],
      ["Made by job", lineage.job_id ?? "–"],
    ]),
    Object.keys(one.gate).length ? el("details", {}, el("summary", {}, "What its validation found"), el("pre", { tabindex: 0 }, JSON.stringify(one.gate, null, 1))) : "",
  ];
}
