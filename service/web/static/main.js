/** The page: which view is open, what is kept fresh. */

import { Problem, address, get } from "./api.js";
import { report, setUpKeyDialog } from "./dialogs.js";
import { byId, el } from "./dom.js";
import { Fleets, nameOf } from "./fleets.js";
import { setUpFleetView } from "./fleet-view.js";
import { setUpHostsView } from "./hosts-view.js";
import { setUpJobsView } from "./jobs-view.js";
import { setUpModelsView } from "./models-view.js";
import { setUpCompareView } from "./compare-view.js";
import { setUpTryIt } from "./try-it.js";
import { setUpWhatIf } from "./what-if.js";
import { setUpWorkloadView } from "./workload-view.js";

const REFRESH_MS = 5000;
const VIEWS = ["fleet", "workload", "plan", "compare", "models", "jobs", "hosts"];

const fleets = new Fleets();
/** What views ask for when they are opened. @type {Record<string, () => Promise<void>>} */
const openers = {};
/** What keeps a view fresh while it is open. @type {Record<string, () => Promise<void>>} */
const fresheners = {};

function openName() {
  const wanted = location.hash.slice(1);
  return VIEWS.includes(wanted) ? wanted : "fleet";
}

function openView() {
  if (location.hash === "#main") return;
  const name = openName();
  for (const view of VIEWS) byId(view).hidden = view !== name;
  for (const link of document.querySelectorAll(".bar nav a")) {
    if (link.getAttribute("href") === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `Loadmaster: ${byId(`${name}-title`).textContent}`;
  openers[name]?.();
}

function showFleetChoice() {
  const choice = byId("fleet-choice");
  choice.disabled = fleets.listed.length === 0;
  const names = fleets.listed.map(nameOf);
  choice.replaceChildren(...(names.length ? names : ["none in force"]).map((name) => el("option", { value: name }, name)));
  if (fleets.chosen) choice.value = nameOf(fleets.chosen);
}

async function showHealth() {
  const { text, kind } = await health();
  byId("health").textContent = text;
  byId("health").className = `tag ${kind}`;
  byId("starting").hidden = text !== "starting";
  return text !== "starting";
}

/** How the service stands; while it starts nothing is known of what is in force. */
async function health() {
  try {
    const { store } = await get("readyz");
    return store === "down" ? { text: "store is down", kind: "warn" } : { text: "ready", kind: "good" };
  } catch (error) {
    const starting = error instanceof Problem && error.status === 503;
    return starting ? { text: "starting", kind: "warn" } : { text: "not reachable", kind: "bad" };
  }
}

let troubled = "";

async function refresh() {
  try {
    if (await showHealth()) await fleets.refresh();
    troubled = "";
  } catch (error) {
    const trouble = String(error);
    if (trouble !== troubled) report(error);
    troubled = trouble;
  }
}

async function keepFresh() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
    if (document.hidden || byId("key-dialog").open) continue;
    await refresh();
    await fresheners[openName()]?.();
  }
}

for (const place of document.querySelectorAll(".origin")) place.textContent = address("").href;
setUpKeyDialog(() => {
  troubled = "";
  refresh();
});
setUpFleetView(fleets);
setUpWorkloadView(fleets);
setUpTryIt(fleets);
setUpWhatIf(fleets);
setUpCompareView(fleets);
openers.jobs = fresheners.jobs = setUpJobsView().open;
openers.hosts = fresheners.hosts = setUpHostsView().open;
const models = setUpModelsView(refresh);
openers.models = models.open;
fresheners.models = models.list; // what is being typed into its form stays
fleets.addEventListener("fleets", showFleetChoice);
byId("fleet-choice").addEventListener("change", (/** @type {any} */ event) => fleets.choose(event.target.value).catch(report));
addEventListener("hashchange", openView);
openView();
await refresh();
document.documentElement.dataset.ready = "true";
performance.mark("ready");
keepFresh();
