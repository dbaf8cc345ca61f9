/** Numbers, times and shares as text. What is not known is a dash. */

const NONE = "–";
const formats = new Map();

/** @param {number|null|undefined} value @param {number} [digits] after the point */
export function number(value, digits = 0) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  if (!formats.has(digits)) {
    formats.set(digits, new Intl.NumberFormat("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  }
  return formats.get(digits).format(value);
}

/** @param {number|null|undefined} share 0 to 1 */
export function percent(share, digits = 1) {
  return share === null || share === undefined ? NONE : `${number(100 * share, digits)} %`;
}

/** A probability; tiny ones are not shown as zero. @param {number|null|undefined} share */
export function risk(share) {
  return share && share > 0 && share < 0.0005 ? "< 0.05 %" : percent(share, share && share < 0.1 ? 2 : 1);
}

/** Up to four figures, for rates of any size. @param {number|null|undefined} value */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  return value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(4)));
}

/** @param {string|null|undefined} iso */
export function moment(iso) {
  if (!iso) return NONE;
  if (!iso.includes("T")) return iso; // a day
  const at = new Date(iso);
  const today = at.toDateString() === new Date().toDateString();
  return today ? at.toLocaleTimeString("en-GB") : at.toLocaleString("en-GB", { dateStyle: "short", timeStyle: "short" });
}

/** @param {string|null|undefined} from @param {string|null|undefined} to now, where it has not ended */
export function lasted(from, to) {
  if (!from) return NONE;
  const seconds = ((to ? new Date(to).getTime() : Date.now()) - new Date(from).getTime()) / 1000;
  return seconds < 60 ? `${number(seconds, 1)} s` : `${number(seconds / 60, 1)} min`;
}

/** @param {number} count @param {string} noun */
export function counted(count, noun) {
  return `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
}
