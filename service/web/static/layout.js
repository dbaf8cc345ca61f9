/** Where each GPU and adapter lies on the map: a band for each GPU, its adapters as cells that wrap. */

export const LABEL_PX = 176;
export const CELL_PX = 11;
const GAP_PX = 8;
const MIN_LINES = 3;

/**
 * @typedef {{top: number, lines: number, count: number}} Band
 * @typedef {{width: number, perLine: number, bands: Band[], height: number}} Layout
 * @typedef {{band: number, cell: number}} Place `cell` is -1 for the GPU itself
 */

/** @param {number[]} counts adapters of each GPU @param {number} width pixels @returns {Layout} */
export function layOut(counts, width) {
  const perLine = Math.max(1, Math.floor((width - LABEL_PX - GAP_PX) / CELL_PX));
  let top = GAP_PX / 2;
  const bands = counts.map((count) => {
    const band = { top, lines: Math.max(MIN_LINES, Math.ceil(count / perLine)), count };
    top += band.lines * CELL_PX + GAP_PX;
    return band;
  });
  return { width, perLine, bands, height: top };
}

/** @param {Layout} layout @param {Place} place @returns {{x: number, y: number}} its upper left corner */
export function cornerOf(layout, { band, cell }) {
  const { top } = layout.bands[band];
  if (cell < 0) return { x: 0, y: top };
  return { x: LABEL_PX + (cell % layout.perLine) * CELL_PX, y: top + Math.floor(cell / layout.perLine) * CELL_PX };
}

/** The bands that meet a stretch of the map. @param {Layout} layout @param {number} from @param {number} to
 * @returns {[first: number, end: number]} */
export function bandsBetween(layout, from, to) {
  let first = lastAbove(layout.bands, from);
  first = Math.max(0, first);
  let end = first;
  while (end < layout.bands.length && layout.bands[end].top < to) end += 1;
  return [first, end];
}

/** @param {Layout} layout @param {number} x @param {number} y @returns {Place|null} what lies there */
export function placeAt(layout, x, y) {
  const at = lastAbove(layout.bands, y);
  if (at < 0) return null;
  const band = layout.bands[at];
  const line = Math.floor((y - band.top) / CELL_PX);
  if (line >= band.lines) return null;
  if (x < LABEL_PX) return { band: at, cell: -1 };
  const column = Math.floor((x - LABEL_PX) / CELL_PX);
  const cell = line * layout.perLine + column;
  return column < layout.perLine && cell < band.count ? { band: at, cell } : null;
}

/** @param {Layout} layout @param {Place} place @param {string} key of the keyboard
 * @returns {Place|null} where a key leads, null where it leads nowhere */
export function moved(layout, { band, cell }, key) {
  const last = layout.bands.length - 1;
  if (last < 0) return null;
  const within = (/** @type {number} */ to, /** @type {number} */ at) => ({ band: to, cell: Math.min(at, layout.bands[to].count - 1) });
  switch (key) {
    case "ArrowRight":
      return cell + 1 < layout.bands[band].count ? { band, cell: cell + 1 } : band < last ? { band: band + 1, cell: -1 } : null;
    case "ArrowLeft":
      return cell >= 0 ? { band, cell: cell - 1 } : band > 0 ? within(band - 1, Infinity) : null;
    case "ArrowDown":
      return band < last ? within(band + 1, cell) : null;
    case "ArrowUp":
      return band > 0 ? within(band - 1, cell) : null;
    case "Home":
      return { band: 0, cell: -1 };
    case "End":
      return within(last, Infinity);
    default:
      return null;
  }
}

/** The last band that begins at or above `y`, -1 for none: halved until found.
 * @param {Band[]} bands @param {number} y */
function lastAbove(bands, y) {
  let low = 0;
  let high = bands.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (bands[middle].top <= y) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
