/** The key dialog, the question before an act, and the line that tells of trouble. */

import { Problem, apiKey, get, send, problemOf, setApiKey } from "./api.js";
import { byId, el } from "./dom.js";

/**
 * Let the reader give a key; it is tried before it is kept.
 * @param {() => void} onChange called once another key, or none, is in use
 */
export function setUpKeyDialog(onChange) {
  const dialog = byId("key-dialog");
  const input = byId("key-input");
  const told = byId("key-error");
  byId("key-button").addEventListener("click", () => askForKey(""));
  byId("key-close").addEventListener("click", () => dialog.close());
  byId("key-forget").addEventListener("click", () => {
    setApiKey("");
    dialog.close();
    onChange();
  });
  byId("key-form").addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    told.textContent = "";
    try {
      const answer = await send("GET", "workloads", { key: input.value.trim() });
      if (!answer.ok) throw await problemOf(answer);
      setApiKey(input.value.trim());
      dialog.close();
      onChange();
    } catch (error) {
      told.textContent = describe(error);
    }
  });
}

/** Open the key dialog, with what is wrong with the present key. @param {string} why */
function askForKey(why) {
  const dialog = byId("key-dialog");
  if (dialog.open) return;
  byId("key-input").value = apiKey();
  byId("key-error").textContent = why;
  dialog.showModal();
  byId("key-input").focus();
}

/** Ask before an act that changes something. @param {string} title @param {string} text @param {string} yes
 * @returns {Promise<boolean>} */
export function confirmed(title, text, yes) {
  const dialog = byId("confirm-dialog");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  return new Promise((resolve) => {
    const answer = { value: false };
    byId("confirm-yes").onclick = () => {
      answer.value = true;
      dialog.close();
    };
    byId("confirm-no").onclick = () => dialog.close();
    dialog.onclose = () => resolve(answer.value);
    dialog.showModal();
  });
}

/** @param {unknown} error @returns {string} what to tell of it */
function describe(error) {
  if (!(error instanceof Problem)) throw error;
  if (error.wantsKey) return apiKey() ? `The service does not accept this key: ${error.message}` : error.message;
  return error.message;
}

/** Tell of a call that failed, at the top of the page, until it is put away. @param {unknown} error */
export function report(error) {
  const text = describe(error);
  if (error instanceof Problem && error.wantsKey) askForKey(text);
  else notice(text);
}

/** @param {string} text */
function notice(text) {
  const line = el("div", { class: "notice" }, el("span", {}, text));
  line.append(el("button", { type: "button", onclick: () => line.remove() }, "Put away"));
  byId("notices").replaceChildren(line);
}

/** Run an act; what goes wrong is told in `box`, or at the top where there is none.
 * @param {HTMLElement|null} box @param {() => Promise<void>} act */
export async function attempt(box, act) {
  if (box) box.textContent = "";
  try {
    await act();
  } catch (error) {
    if (box && !(error instanceof Problem && error.wantsKey)) box.textContent = describe(error);
    else report(error);
  }
}

/**
 * Show what a route answers, or quietly in the place of its table that this service does not have it.
 * @template T
 * @param {import("./table.js").DataTable<any>} table @param {string} path @param {(answer: T) => void} show
 */
export async function showOf(table, path, show) {
  try {
    show(await get(path));
  } catch (error) {
    const text = error instanceof Problem && error.isMissing ? "Not available in this service." : describe(error);
    if (error instanceof Problem && error.wantsKey) askForKey(text);
    table.say(text);
  }
}
