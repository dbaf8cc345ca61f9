/** Which GPU of one plan is which of another: paired by the adapters they share, the most first. */

/** @typedef {import("./types.js").PlannedGpu} PlannedGpu */

/**
 * @typedef {{moves: {adapter: string, from: number|null, to: number|null}[], restarts: number[], opened: number[],
 *   closed: number[]}} Difference
 *   GPUs by their numbers in the first plan; those that are opened have numbers beyond. A move from or to
 *   null is an adapter that only one of the plans has.
 */

/** @param {PlannedGpu[]} before @param {PlannedGpu[]} after @returns {Difference} */
export function difference(before, after) {
  const home = homes(before);
  const partner = pairs(before, after, home);
  const names = named(before, partner);
  /** @type {Difference["moves"]} */
  const moves = [];
  after.forEach((gpu, at) => {
    for (const adapter of gpu.adapters) {
      const from = home.get(adapter);
      if (from === undefined || from !== partner[at]) moves.push({ adapter, from: from === undefined ? null : before[from].gpu, to: names[at] });
    }
  });
  const kept = homes(after);
  for (const [adapter, from] of home) if (!kept.has(adapter)) moves.push({ adapter, from: before[from].gpu, to: null });
  const paired = new Set(partner);
  return {
    moves,
    restarts: after.flatMap((gpu, at) => (partner[at] >= 0 && differs(before[partner[at]], gpu) ? [before[partner[at]].gpu] : [])),
    opened: names.filter((_name, at) => partner[at] < 0),
    closed: before.filter((_gpu, at) => !paired.has(at)).map(({ gpu }) => gpu),
  };
}

/** The number of each GPU after: its partner's, or one that no GPU had before.
 * @param {PlannedGpu[]} before @param {number[]} partner */
function named(before, partner) {
  let next = Math.max(-1, ...before.map(({ gpu }) => gpu));
  return partner.map((at) => (at < 0 ? (next += 1) : before[at].gpu));
}

/** For each GPU after, the place of its partner before, -1 for none.
 * @param {PlannedGpu[]} before @param {PlannedGpu[]} after @param {Map<string, number>} home */
function pairs(before, after, home) {
  /** @type {{from: number, to: number, shared: number}[]} */
  const shared = [];
  after.forEach((gpu, to) => {
    /** @type {Map<number, number>} */
    const counts = new Map();
    for (const adapter of gpu.adapters) {
      const from = home.get(adapter);
      if (from !== undefined) counts.set(from, (counts.get(from) ?? 0) + 1);
    }
    for (const [from, count] of counts) shared.push({ from, to, shared: count + (differs(before[from], gpu) ? 0 : 0.5) });
  });
  shared.sort((a, b) => b.shared - a.shared || a.from - b.from || a.to - b.to);
  const partner = after.map(() => -1);
  const taken = new Set();
  for (const { from, to } of shared) {
    if (partner[to] >= 0 || taken.has(from)) continue;
    partner[to] = from;
    taken.add(from);
  }
  return partner;
}

/** @param {PlannedGpu[]} gpus @returns {Map<string, number>} the place of each adapter's GPU */
function homes(gpus) {
  return new Map(gpus.flatMap(({ adapters }, at) => adapters.map((adapter) => /** @type {[string, number]} */ ([adapter, at]))));
}

/** @param {PlannedGpu} a @param {PlannedGpu} b @returns {boolean} whether one needs other flags than the other */
function differs(a, b) {
  return a.max_loras !== b.max_loras || a.max_lora_rank !== b.max_lora_rank;
}
