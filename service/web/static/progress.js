/** How far a job is, as elements. */

import { bar, el } from "./dom.js";
import { percent } from "./format.js";

/**
 * @param {any} told a job, or what a stream tells of it: `progress` is a share, `stage` and `reason` are words
 * @returns {Node[]} none where nothing is known
 */
export function progressOf(told) {
  const share = typeof told?.progress === "number" ? told.progress : told?.progress?.share;
  const words = [told?.stage ?? told?.progress?.stage, told?.reason ?? told?.message].filter(Boolean).join(": ");
  if (typeof share !== "number" && !words) return [];
  const label = [words, typeof share === "number" ? percent(share, 0) : ""].filter(Boolean).join(", ");
  return [el("label", { class: "room" }, label, typeof share === "number" ? bar(share) : null)];
}
