/** Making and finding elements. No text ever becomes markup. */

/**
 * Return a new element.
 * @param {string} tag
 * @param {Record<string, any>} [props] `class`; `onclick` and the like; anything else is an attribute, left out
 *   where it is null or false
 * @param {...(Node|string|number|null|undefined|false)} children
 * @returns {any}
 */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false) element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** @param {string} id @returns {any} the element of that id, which the page has */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no #${id}`);
  return found;
}

/** Return the parts of a clone of the page's template, by their `data-part`, and append it to `root`.
 * @param {string} templateId @param {HTMLElement} root @returns {Record<string, any>} */
export function cloneParts(templateId, root) {
  root.append(byId(templateId).content.cloneNode(true));
  /** @type {Record<string, any>} */
  const parts = {};
  for (const part of root.querySelectorAll("[data-part]")) parts[/** @type {HTMLElement} */ (part).dataset.part ?? ""] = part;
  return parts;
}

/** @param {string} text @param {string} [kind] `good`, `warn` or `bad` */
export function tag(text, kind = "") {
  return el("span", { class: `tag ${kind}` }, text);
}

/** A state in its colour. @param {string} state @param {Record<string, string>} kinds the kind of a tag for each state
 *   that has one */
export function stateTag(state, kinds) {
  return tag(state.replaceAll("_", " "), kinds[state]);
}

/** A share as a bar. @param {number} share 0 to 1 @param {boolean} [low] */
export function bar(share, low = false) {
  return el("progress", { max: 1, value: Math.min(1, Math.max(0, share)), class: low ? "low" : null });
}

/** Figures with their names, as tiles.
 * @param {HTMLElement} root @param {[name: string, value: Node|string|number, note?: string][]} figures */
export function showTiles(root, figures) {
  root.replaceChildren(
    ...figures.map(([name, value, note]) =>
      el("dl", { class: "tile" }, el("dt", {}, name), el("dd", {}, value, note ? el("small", {}, note) : null)),
    ),
  );
}

/** Names and values, one below the other.
 * @param {[name: string, value: Node|string|number][]} facts */
export function factList(facts) {
  return el("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

/**
 * A table that only shows: no order, no filter. The first cell of each row names the row.
 * @param {(string|{title: string, num?: boolean, wrap?: boolean})[]} titles of the columns; `num` is right-aligned
 * @param {(Node|string|number)[][]} rows
 */
export function plainTable(titles, rows) {
  const columns = titles.map((title) => (typeof title === "string" ? { title } : title));
  const heads = columns.map(({ title, num }) => (title ? el("th", { scope: "col", class: num ? "num" : null }, title) : el("td")));
  const [, ...others] = columns.map(({ num, wrap }) => (num ? "num" : wrap ? "wrap" : null));
  const lines = rows.map(([name, ...values]) => el("tr", {}, el("th", { scope: "row" }, name), ...values.map((value, at) => el("td", { class: others[at] }, value))));
  return el("table", { class: "data" }, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...lines));
}

/** Say something to those who listen to the page. @param {string} text */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** A button that copies a text. @param {string} text @param {string} label */
export function copyButton(text, label) {
  const button = el("button", { type: "button" }, label);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      announce("Copied");
    } catch {
      button.textContent = "The browser does not allow it: select the text";
    }
    setTimeout(() => (button.textContent = label), 2000);
  });
  return button;
}

/** The value of a colour of the style sheet, in the scheme of now. @param {string} name */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Call back when light becomes dark or dark light. @param {() => void} redraw */
export function onScheme(redraw) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
