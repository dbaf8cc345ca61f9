/** Tables that sort, filter and turn pages: the same for ten rows and for ten thousand. */

import { el } from "./dom.js";
import { number } from "./format.js";

const PAGE_ROWS = 100;

/**
 * @template R
 * @typedef {{title: string, value: (row: R) => any, show?: (row: R) => Node|string|null, num?: boolean,
 *   wrap?: boolean}} Column
 *   `value` sorts and, without `show`, is what is shown.
 */

/**
 * A table that stands in `root` from its first rows on. It is made once: fresh rows keep the order, the page, the
 * chosen row and the place of the keyboard.
 * @template R
 */
export class DataTable {
  /**
   * @param {HTMLElement} root
   * @param {{caption: string, columns: Column<R>[], filter?: (row: R) => string, empty?: string,
   *   onChoose?: (row: R) => void, keyOf?: (row: R) => any, sort?: {column: number, down: boolean}}} options
   *   `filter` is the text that a filter looks in; with `onChoose` rows can be chosen, and `keyOf` tells them apart
   */
  constructor(root, options) {
    this.root = root;
    this.options = options;
    /** @type {R[]} */
    this.rows = [];
    /** Those of the page that is drawn. @type {R[]} */
    this.drawn = [];
    this.page = 0;
    this.wanted = "";
    this.sort = options.sort ?? null;
    this.chosen = undefined;
    this.heads = options.columns.map((column, at) => this.#head(column, at));
    this.body = el("tbody");
    this.foot = el("div", { class: "table-foot" });
    this.box = el(
      "div",
      { class: "table-box", tabindex: 0, role: "region", "aria-label": options.caption },
      el("table", { class: "data" }, el("caption", { class: "unseen" }, options.caption), el("thead", {}, el("tr", {}, ...this.heads)), this.body),
    );
    this.#makeFoot();
  }

  /** @param {R[]} rows */
  show(rows) {
    this.rows = rows;
    if (this.box.parentNode !== this.root) this.root.replaceChildren(this.box, this.foot);
    this.#draw();
  }

  /** Say in the place of the table why there is none, until rows are shown again. @param {string} text */
  say(text) {
    this.root.replaceChildren(el("p", { class: "quiet" }, text));
  }

  /** Mark a row as the chosen one. @param {any} key */
  choose(key) {
    this.chosen = key;
    const rows = this.#visible();
    if (rows.length && this.options.keyOf) {
      const at = rows.findIndex((row) => this.options.keyOf?.(row) === key);
      if (at >= 0) this.page = Math.floor(at / PAGE_ROWS);
    }
    this.#draw();
    const row = this.body.querySelector("[aria-selected=true]");
    if (row) this.#reveal(row);
  }

  /** Scroll to a row; `scrollIntoView` would move the place from which the next Tab starts. @param {HTMLElement} row */
  #reveal(row) {
    const { box } = this;
    if (row.offsetTop < box.scrollTop + row.offsetHeight) box.scrollTop = row.offsetTop - row.offsetHeight;
    const below = row.offsetTop + row.offsetHeight - box.clientHeight;
    if (below > box.scrollTop) box.scrollTop = below;
  }

  /** @param {Column<R>} column @param {number} at */
  #head(column, at) {
    const sort = () => {
      this.sort = { column: at, down: this.sort?.column === at ? !this.sort.down : Boolean(column.num) };
      this.page = 0;
      this.#draw();
    };
    const content = column.title ? el("button", { type: "button", onclick: sort }, column.title) : el("span", { class: "unseen" }, "Acts");
    return el("th", { scope: "col", class: column.num ? "num" : "" }, content);
  }

  #makeFoot() {
    if (this.options.filter) {
      const input = el("input", { type: "search", size: 16, autocomplete: "off" });
      input.addEventListener("input", () => {
        this.wanted = input.value.trim().toLowerCase();
        this.page = 0;
        this.#draw();
      });
      this.foot.append(el("label", { class: "inline" }, "Filter ", input));
    }
    this.before = el("button", { type: "button", onclick: () => this.#turn(-1) }, "Before");
    this.after = el("button", { type: "button", onclick: () => this.#turn(1) }, "Next");
    this.told = el("span", { "aria-live": "polite" });
    this.foot.append(this.before, this.after, this.told);
  }

  /** @param {number} by */
  #turn(by) {
    this.page += by;
    this.#draw();
    this.box.scrollTop = 0;
  }

  #visible() {
    const { filter, columns } = this.options;
    const kept = filter && this.wanted ? this.rows.filter((row) => filter(row).toLowerCase().includes(this.wanted)) : this.rows;
    if (!this.sort) return kept;
    const { column, down } = this.sort;
    const value = columns[column].value;
    return [...kept].sort((a, b) => (down ? -1 : 1) * compare(value(a), value(b)));
  }

  #draw() {
    const rows = this.#visible();
    const pages = Math.max(1, Math.ceil(rows.length / PAGE_ROWS));
    this.page = Math.min(Math.max(this.page, 0), pages - 1);
    const first = this.page * PAGE_ROWS;
    const shown = rows.slice(first, first + PAGE_ROWS);
    const held = this.#heldPlace();
    this.drawn = shown;
    this.body.replaceChildren(...shown.map((row) => this.#row(row)));
    if (held) this.#takeUp(held);
    if (!shown.length) {
      const text = this.wanted ? "nothing matches" : (this.options.empty ?? "none");
      this.body.append(el("tr", {}, el("td", { class: "quiet", colspan: this.options.columns.length }, text)));
    }
    this.heads.forEach((head, at) => {
      if (this.sort?.column === at) head.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    for (const button of [this.before, this.after]) button.hidden = pages === 1;
    this.before.disabled = this.page === 0;
    this.after.disabled = this.page === pages - 1;
    this.told.textContent = pages > 1 ? `${number(first + 1)} to ${number(first + shown.length)} of ${number(rows.length)}` : "";
    this.foot.hidden = this.rows.length === 0 || (pages === 1 && !this.options.filter);
  }

  /** Where in the rows the keyboard is, so that fresh rows do not lose it.
   * @returns {{row: R, line: number, control: number}|null} */
  #heldPlace() {
    const focused = document.activeElement;
    if (!(focused instanceof HTMLElement) || !this.body.contains(focused)) return null;
    const tr = /** @type {HTMLTableRowElement} */ (focused.closest("tr"));
    const line = tr.sectionRowIndex;
    return { row: this.drawn[line], line, control: [...tr.querySelectorAll("button")].indexOf(/** @type {any} */ (focused)) };
  }

  /** Put the keyboard back on its row, wherever that is now; on the table where the row has gone.
   * @param {{row: R, line: number, control: number}} held */
  #takeUp({ row, line, control }) {
    const { keyOf } = this.options;
    const at = keyOf ? this.drawn.findIndex((other) => keyOf(other) === keyOf(row)) : line;
    const button = this.body.rows[at]?.querySelectorAll("button")[control] ?? this.box;
    button.focus({ preventScroll: true });
  }

  /** @param {R} row */
  #row(row) {
    const { columns, onChoose, keyOf } = this.options;
    const cells = columns.map((column, at) => {
      const shown = column.show ? column.show(row) : column.value(row);
      const content = at === 0 && onChoose ? el("button", { type: "button", class: "plain" }, shown) : shown;
      return el("td", { class: `${column.num ? "num" : ""} ${column.wrap ? "wrap" : ""}`.trim() || null }, content);
    });
    const line = el("tr", {}, ...cells);
    if (onChoose && keyOf) {
      line.setAttribute("aria-selected", String(keyOf(row) === this.chosen));
      line.addEventListener("click", () => {
        this.choose(keyOf(row));
        onChoose(row);
      });
    }
    return line;
  }
}

/** Numbers by size, texts by alphabet, what is not known last. @param {any} a @param {any} b */
function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return 1;
  if (b === null || b === undefined) return -1;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}
