/** What is in force, kept fresh: which fleets there are, which one is chosen, its plan and workload. */

import { get } from "./api.js";
import { fleetOf } from "./model.js";

/** @typedef {import("./types.js").InForce} InForce */
/** @typedef {import("./types.js").Fleet} Fleet */

const CHOICE_NAME = "loadmaster.fleet";

/** @param {{base_model: string, gpu_type: string}} entry */
export const nameOf = ({ base_model, gpu_type }) => `${base_model} on ${gpu_type}`;

/** Tells its listeners of every change: `fleets`, `plan`, `needed`. */
export class Fleets extends EventTarget {
  /** @type {InForce[]} */
  listed = [];
  /** @type {InForce|undefined} */
  chosen;
  /** @type {Fleet|null} */
  fleet = null;
  /** @type {any} the last answer of `GET /gpus-needed`, null where there is none */
  needed = null;
  /** What `fleet` was fetched for. @type {string|undefined} */
  #shown;
  /** Plans that were tried here, the newest first. @type {Fleet[]} */
  tried = [];

  /** The query that names the chosen fleet. */
  get query() {
    return this.chosen ? { base_model: this.chosen.base_model, gpu_type: this.chosen.gpu_type } : {};
  }

  /** @param {string} name */
  async choose(name) {
    sessionStorage.setItem(CHOICE_NAME, name);
    await this.refresh();
  }

  /** Ask what is in force; fetch plan and workload only where they are others than before. */
  async refresh() {
    /** @type {InForce[]} */
    this.listed = (await get("workloads")).workloads;
    const wanted = sessionStorage.getItem(CHOICE_NAME);
    this.chosen = this.listed.find((entry) => nameOf(entry) === wanted) ?? this.listed[0];
    this.#tell("fleets");
    await Promise.all([this.#fetchPlan(), this.#fetchNeeded()]);
  }

  async #fetchPlan() {
    const chosen = this.chosen;
    const wanted = chosen ? `${nameOf(chosen)} ${chosen.version} ${chosen.plan_id}` : "";
    if (wanted === this.#shown) return;
    const fleet = chosen ? await this.#fleetOf(chosen) : null;
    if (!this.#isChosen(chosen)) return;
    this.fleet = fleet;
    this.#shown = wanted;
    this.#tell("plan");
  }

  /** @param {InForce} entry */
  async #fleetOf(entry) {
    const query = { base_model: entry.base_model, gpu_type: entry.gpu_type };
    const [plan, workload] = await Promise.all([get("plan", query), get("workload", query)]);
    return fleetOf(`in force: ${nameOf(entry)}`, plan, workload);
  }

  /** Whether a fleet is still the chosen one, after a call. @param {InForce|undefined} entry */
  #isChosen(entry) {
    return (entry && nameOf(entry)) === (this.chosen && nameOf(this.chosen));
  }

  async #fetchNeeded() {
    const chosen = this.chosen;
    const needed = chosen ? await get("gpus-needed", this.query).catch(() => null) : null;
    if (!this.#isChosen(chosen)) return;
    this.needed = needed;
    this.#tell("needed");
  }

  /** Remember a plan that was tried. @param {Fleet} fleet */
  remember(fleet) {
    this.tried = [fleet, ...this.tried.filter(({ plan }) => plan.plan_id !== fleet.plan.plan_id)].slice(0, 20);
    this.#tell("tried");
  }

  /** @param {string} what */
  #tell(what) {
    this.dispatchEvent(new Event(what));
  }
}
