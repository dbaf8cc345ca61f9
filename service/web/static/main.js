/** The page: which view is open, what is kept fresh. */

import { Problem, address, get } from "./api.js";
import { report, setUpKeyDialog } from "./dialogs.js";
import { byId, el } from "./dom.js";
import { Fleets, nameOf } from "./fleets.js";
import { setUpFleetView } from "./fleet-view.js";
import { setUpJobsView } from "./jobs-view.js";
import { setUpCompareView } from "./compare-view.js";
import { setUpTryIt } from "./try-it.js";
import { setUpWhatIf } from "./what-if.js";
import { setUpWorkloadView } from "./workload-view.js";

const REFRESH_MS = 5000;
const VIEWS = ["fleet", "workload", "plan", "compare", "models", "jobs", "hosts"];

const fleets = new Fleets();
/** Views that ask for something of their own when they are opened. @type {Record<string, {open: () => void}>} */
const openers = {};

function openView() {
  const wanted = location.hash.slice(1);
  if (wanted === "main") return;
  const name = VIEWS.includes(wanted) ? wanted : "fleet";
  for (const view of VIEWS) byId(view).hidden = view !== name;
  for (const link of document.querySelectorAll(".bar nav a")) {
    if (link.getAttribute("href") === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `Loadmaster: ${byId(`${name}-title`).textContent}`;
  openers[name]?.open();
}

function showFleetChoice() {
  const choice = byId("fleet-choice");
  choice.disabled = fleets.listed.length === 0;
  const names = fleets.listed.map(nameOf);
  choice.replaceChildren(...(names.length ? names : ["none in force"]).map((name) => el("option", { value: name }, name)));
  if (fleets.chosen) choice.value = nameOf(fleets.chosen);
}

async function showHealth() {
  const tag = byId("health");
  try {
    const { store } = await get("readyz");
    tag.textContent = store === "down" ? "store is down" : "ready";
    tag.className = `tag ${store === "down" ? "warn" : "good"}`;
  } catch (error) {
    const starting = error instanceof Problem && error.status === 503;
    tag.textContent = starting ? "starting" : "not reachable";
    tag.className = `tag ${starting ? "warn" : "bad"}`;
  }
}

let troubled = "";

async function refresh() {
  await showHealth();
  try {
    await fleets.refresh();
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
    if (!document.hidden && !byId("key-dialog").open) await refresh();
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
openers.jobs = setUpJobsView();
fleets.addEventListener("fleets", showFleetChoice);
byId("fleet-choice").addEventListener("change", (/** @type {any} */ event) => fleets.choose(event.target.value).catch(report));
addEventListener("hashchange", openView);
openView();
await refresh();
document.documentElement.dataset.ready = "true";
keepFresh();
