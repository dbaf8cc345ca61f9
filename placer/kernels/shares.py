"""The least share of a GPU that each adapter takes, on any GPU that is accepted; `placer.bounds` derives it.

A GPU's state is cut into cells: its slots and the adapters active on it lie between two numbers, and
so do its steps a second. In a cell each condition of acceptance becomes linear in what the adapters
bring, so every mixture of them is a size that no accepted GPU of the cell holds more than 1 of.
"""

import numpy as np
from numba import njit

from models.kernels.features import (
    BLOCK_SIZE,
    LOAD_MS,
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQS,
    MEMORY,
    SCHEDULER_COEFFICIENTS,
    STEP_COEFFICIENTS,
)
from placer.kernels.acceptance import (
    FEW_KV_REQUESTS,
    MAX_KV_PRESSURE,
    MAX_RHO,
    MAX_UNSETTLED,
    MIN_SLOTS_OVER_ACTIVE,
    MIN_SLOTS_OVER_HOT,
)
from twin.kernels.latency import GRAPH_TOKENS, NUM_STEP_TERMS, scheduler_us, step_ms
from twin.kernels.memory import kv_tokens_kernel

# What an adapter brings, a second: decodes, prompt tokens, context tokens; and, at a pace, the chances
# that it has a request running and that it has many.
DECODES, PROMPT, CONTEXT, ACTIVITY, HOT = range(5)
NUM_SIZES = 5

NUM_CONDITIONS = 7
ALL_EAGER_TOKENS = 1.5 * GRAPH_TOKENS
"""Tokens of a mean step from which on every step is beyond the largest CUDA graph."""

EAGER_MS = STEP_COEFFICIENTS + NUM_STEP_TERMS - 1
"""Its place in the calibration."""

ACTIVE_PARTS = (0.0, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
"""Where slots are short at full batch: cuts of the adapters active at the present load, in slots."""

PACE_RANGE = 150.0
"""The fastest pace over the slowest that is told apart."""


MAX_PIVOTS = 40
DEAR = 1.02
"""A condition that costs every cluster more than its price by this needs no mixture."""

FLOAT32_SLACK = 1e-5
"""Features are float32: limits are met to this."""

HEAT_SLACK = 0.01
"""The same of hot adapters, which are a difference of two activities: of the number itself."""

ACTIVITY_SLACK = 0.01
"""The oracle interpolates activity; it is never less than this below the truth."""


@njit(cache=True, nogil=True)
def _step_s(calibration, work, num_adapters, max_lora_rank, max_loras):
    """Return the seconds of a step of this work (decodes, prompt tokens, context tokens)."""
    model_ms = step_ms(
        calibration[STEP_COEFFICIENTS:SCHEDULER_COEFFICIENTS],
        work[0],
        work[1],
        work[2],
        num_adapters,
        max_lora_rank,
        max_loras,
    )
    return 1e-3 * model_ms + 1e-6 * scheduler_us(calibration[SCHEDULER_COEFFICIENTS:MEMORY], work[0], 0.0)


@njit(cache=True, nogil=True)
def _load_row(calibration, total, pace_row, num_adapters, max_lora_rank, max_loras, row):
    """Write a linear lower bound of rho to `row`, and return its part for each step a second.

    rho = N step(X / N) is convex in the work X and the pace N, so its tangent at the class's own
    composition lies below it everywhere; with N at least `pace_row` . X.
    """
    work = total / (pace_row[0] * total[0] + pace_row[1] * total[1] + pace_row[2] * total[2])
    step = _step_s(calibration, work, num_adapters, max_lora_rank, max_loras)
    fixed_s = step
    for k in range(3):
        nudge = 1e-6 * max(work[k], 1.0)
        work[k] -= nudge
        slope = (step - _step_s(calibration, work, num_adapters, max_lora_rank, max_loras)) / nudge
        work[k] += nudge
        row[k] = slope
        fixed_s -= slope * work[k]
    for k in range(3):
        row[k] += fixed_s * pace_row[k]
    row[ACTIVITY] = 0.0
    return fixed_s


@njit(cache=True, nogil=True)
def _eager_s(eager_ms, num_tokens, fixed_s):
    """Return what steps of `num_tokens` tokens or more pay beyond the largest CUDA graph, seconds.

    As a GPU's pace N grows its steps shrink, and this cost with them, by half of `eager_ms` a step
    at most. Where the rest of the step, `fixed_s`, grows by more, the slowest pace is the cheapest.
    """
    eager_s = 1e-3 * eager_ms
    if fixed_s < 0.5 * eager_s:
        return 0.0
    return eager_s * min(max(num_tokens / GRAPH_TOKENS - 0.5, 0.0), 1.0)


@njit(cache=True, nogil=True)
def _eager_parts(eager_ms, is_whole, fixed_s):
    """Return what `eager_ms` adds a second at least: for each token, and for each step of the pace.

    Parameters
    ----------
    eager_ms
        Cost of a step beyond the largest CUDA graph.
    is_whole
        Whether steps hold `ALL_EAGER_TOKENS` or more; with fewer, the cost grows with the tokens.
    fixed_s
        The rest of a step that does not depend on the work; the sum of both must grow with the pace.
    """
    eager_s = 1e-3 * eager_ms
    if is_whole:
        return 0.0, eager_s
    if fixed_s < 0.5 * eager_s:
        return 0.0, 0.0
    return eager_s / GRAPH_TOKENS, -0.5 * eager_s


@njit(cache=True, nogil=True)
def _mixture(worth, num_clusters, table, weights):
    """Choose the mixture of conditions whose cheapest cluster pays most, by the simplex method.

    Maximise ``sum(y)`` with ``worth y <= 1`` and ``y >= 0``: its dual solution, scaled to 1, is the
    mixture. Slacks are the first basis, so any stop leaves a valid mixture.

    Parameters
    ----------
    worth
        (NUM_CONDITIONS, num_clusters) float64 >= 0.
    num_clusters
        Columns in use.
    table
        (NUM_CONDITIONS + 1, max_clusters + NUM_CONDITIONS + 1) float64 scratch.
    weights
        (NUM_CONDITIONS,) float64, overwritten.
    """
    num_columns = num_clusters + NUM_CONDITIONS
    table[:] = 0.0
    for k in range(NUM_CONDITIONS):
        for g in range(num_clusters):
            table[k, g] = worth[k, g]
        table[k, num_clusters + k] = 1.0
        table[k, num_columns] = 1.0
    for g in range(num_clusters):
        table[NUM_CONDITIONS, g] = -1.0
    for _ in range(MAX_PIVOTS):
        enter, least = -1, -1e-9
        for column in range(num_columns):
            if table[NUM_CONDITIONS, column] < least:
                enter, least = column, table[NUM_CONDITIONS, column]
        if enter < 0:
            break
        leave, least = -1, np.inf
        for k in range(NUM_CONDITIONS):
            if table[k, enter] > 1e-12 and table[k, num_columns] / table[k, enter] < least:
                leave, least = k, table[k, num_columns] / table[k, enter]
        if leave < 0:
            break  # a cluster that no condition limits
        pivot = table[leave, enter]
        for column in range(num_columns + 1):
            table[leave, column] /= pivot
        for k in range(NUM_CONDITIONS + 1):
            factor = table[k, enter]
            if k != leave and factor != 0.0:
                for column in range(num_columns + 1):
                    table[k, column] -= factor * table[leave, column]
    total = 0.0
    for k in range(NUM_CONDITIONS):
        weights[k] = max(table[NUM_CONDITIONS, num_clusters + k], 0.0)
        total += weights[k]
    if total > 0.0:
        weights /= total
    else:
        weights[:] = 1.0 / NUM_CONDITIONS


@njit(cache=True, nogil=True)
def _next_above(ladder, num_ladder, value):
    """Return the index of the smallest of the ladder's values above `value`, `num_ladder` if none is."""
    index = 0
    while index < num_ladder and ladder[index] <= value:
        index += 1
    return index


@njit(cache=True, nogil=True)
def _value(row, work, active, hot):
    """Return a condition's size of an adapter, or of a mean one."""
    return row[0] * work[0] + row[1] * work[1] + row[2] * work[2] + row[3] * active + row[4] * hot


@njit(cache=True, nogil=True)
def _dot(first, second):
    """Return the scalar product of the first three elements."""
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


@njit(cache=True, nogil=True)
def _like_order(brought, activity, rank_class):
    """Return the rows by slot rank, then by their activity for each token, (num_adapters,) int64."""
    key = np.empty(brought.shape[0])
    for row in range(brought.shape[0]):
        key[row] = activity[row, activity.shape[1] // 2] / (brought[row, DECODES] + brought[row, PROMPT])
    order = np.argsort(key, kind="mergesort")
    return order[np.argsort(rank_class[order], kind="mergesort")]


@njit(cache=True, nogil=True)
def _cluster_starts(brought, rank_class, num_classes, max_clusters):
    """Return where groups of like adapters begin, and the slot rank of each; rows as in `_like_order`.

    A group has about as large a part as others of the adapters and of the tokens taken together: a
    few hot ones may bring most of the load.

    Returns
    -------
    starts, cluster_class
        (num_clusters + 1,) and (num_clusters,) int64.
    """
    starts = np.zeros(num_classes * max_clusters + 1, dtype=np.int64)
    cluster_class = np.zeros(num_classes * max_clusters, dtype=np.int64)
    num_clusters, first = 0, 0
    for each in range(num_classes):
        last, tokens = first, 0.0
        while last < rank_class.shape[0] and rank_class[last] == each:
            tokens += brought[last, DECODES] + brought[last, PROMPT]
            last += 1
        part, groups = 0.0, 0
        for row in range(first, last):
            part += 0.5 / (last - first) + 0.5 * (brought[row, DECODES] + brought[row, PROMPT]) / tokens
            if row + 1 == last or (part * max_clusters >= groups + 1.0 and groups + 1 < max_clusters):
                cluster_class[num_clusters] = each
                num_clusters += 1
                groups += 1
                starts[num_clusters] = row + 1
        first = last
    return starts[: num_clusters + 1], cluster_class[:num_clusters]


@njit(cache=True, nogil=True)
def _clusters(brought, activity, heat, starts):
    """Return means and least values of what adapters bring, and of their activity, group by group."""
    num_clusters, num_paces = starts.shape[0] - 1, activity.shape[1]
    means, active = np.zeros((num_clusters, 3)), np.zeros((num_clusters, num_paces))
    hot, least_hot = np.zeros((num_clusters, num_paces)), np.full((num_clusters, num_paces), np.inf)
    least, least_active = np.full((num_clusters, 3), np.inf), np.full((num_clusters, num_paces), np.inf)
    most_decodes = np.zeros(num_clusters)
    for g in range(num_clusters):
        for row in range(starts[g], starts[g + 1]):
            means[g] += brought[row]
            active[g] += activity[row]
            hot[g] += heat[row]
            least_hot[g] = np.minimum(least_hot[g], heat[row])
            least[g] = np.minimum(least[g], brought[row])
            least_active[g] = np.minimum(least_active[g], activity[row])
            most_decodes[g] = max(most_decodes[g], brought[row, DECODES])
        means[g] /= starts[g + 1] - starts[g]
        active[g] /= starts[g + 1] - starts[g]
        hot[g] /= starts[g + 1] - starts[g]
    return means, active, hot, least, least_active, least_hot, most_decodes


@njit(cache=True, nogil=True)
def _composition(brought):
    """Return the sums, and the least of each ratio that bounds a class's mixtures.

    Returns
    -------
    total, least_prompt, least_kv, least_context, least_tokens, most_decodes
        (3,) sums; prompt and context tokens for each decode at least; context tokens for each token
        at least, and the reverse; decodes for each token at most.
    """
    total = np.zeros(3)
    least_prompt, least_kv, least_context, most_decodes = np.inf, np.inf, np.inf, 0.0
    least_tokens = np.inf
    for row in range(brought.shape[0]):
        total += brought[row]
        decodes, prompt, context = brought[row, 0], brought[row, 1], brought[row, 2]
        least_prompt = min(least_prompt, prompt / decodes)
        least_kv = min(least_kv, context / decodes)
        least_context = min(least_context, context / (decodes + prompt))
        least_tokens = min(least_tokens, (decodes + prompt) / context)
        most_decodes = max(most_decodes, decodes / (decodes + prompt))
    return total, least_prompt, least_kv, least_context, least_tokens, most_decodes


@njit(cache=True, nogil=True)
def _cells(calibration, eager_ms, brought, ladder, num_ladder, max_lora_rank, margins, paces, bucket_ratio):
    """Return every cell's conditions, and the index of its fastest pace.

    Returns
    -------
    rows, row_pace
        (num_cells, NUM_CONDITIONS, NUM_SIZES) float64: a GPU of the cell holds at most 1 of each;
        (num_cells,) int64.
    """
    num_adapters = brought.shape[0]
    full = 1.0 + FLOAT32_SLACK
    max_rho, max_kv_pressure = margins[MAX_RHO] * full, margins[MAX_KV_PRESSURE] * full
    few_kv_requests = margins[FEW_KV_REQUESTS]
    budget, seqs = calibration[MAX_NUM_BATCHED_TOKENS], calibration[MAX_NUM_SEQS]
    memory, block_size = calibration[MEMORY:LOAD_MS], int(calibration[BLOCK_SIZE])
    nothing = np.zeros(3)
    per_adapter_s = _step_s(calibration, nothing, 2.0, max_lora_rank, 1) - _step_s(
        calibration, nothing, 1.0, max_lora_rank, 1
    )
    total, least_prompt, least_kv, least_context, least_tokens, most_decodes = _composition(brought)
    mean_context = total[CONTEXT] / total[DECODES]
    most_active = min(ladder[num_ladder - 1] * 1.0, num_adapters * 1.0)

    rows = np.zeros((1024, NUM_CONDITIONS, NUM_SIZES))
    row_pace = np.zeros(1024, dtype=np.int64)
    num_cells = 0
    pace_row, pace_kv = np.zeros(3), np.zeros(3)
    load, kv_load, seen_load = np.empty(4), np.empty(4), np.empty(4)
    seen_s = 0.0
    low = 0.0
    while low < most_active:
        # --- Active adapters in (low, high]: as many slots at least, and no more KV than beside them.
        high = max(np.floor(low * bucket_ratio), low + 1.0)
        slots = _next_above(ladder, num_ladder, low)
        if slots == num_ladder:
            break
        last_slots = _next_above(ladder, num_ladder, high) - 1
        max_loras = ladder[slots]
        kv = max(kv_tokens_kernel(memory, max_loras, max_lora_rank, block_size), 1) * 1.0
        for branch in range(3):  # what bounds the batch: KV cache, token budget, max_num_seqs
            if branch > 0 and least_context / kv > max(1.0 / budget, 1.0 / seqs):
                break
            if branch == 2 and most_decodes * budget < seqs:
                break
            pace_row[:] = 0.0
            if branch == 2:
                pace_row[DECODES] = 1.0 / seqs
            else:
                pace_row[DECODES] = pace_row[PROMPT] = 1.0 / budget
            pace_kv[CONTEXT] = 1.0 / kv
            for short_of_slots in range(2):
                if short_of_slots == 1 and (max_loras >= num_adapters or last_slots < slots):
                    continue
                most_slots = ladder[max(last_slots, 0)] / margins[MIN_SLOTS_OVER_ACTIVE]
                on_step = low if short_of_slots == 0 else max_loras * 1.0
                fixed_s = _load_row(calibration, total, pace_row, on_step, max_lora_rank, max_loras, load)
                kv_fixed_s = _load_row(
                    calibration, total, pace_kv, on_step, max_lora_rank, max_loras, kv_load
                )
                for c in range(3):
                    if branch == 0:
                        kv_load[c] += pace_kv[c] * _eager_s(eager_ms, kv * least_tokens, kv_fixed_s)
                    else:
                        fullest = budget if branch == 1 else seqs / most_decodes
                        load[c] += pace_row[c] * _eager_s(eager_ms, fullest, fixed_s)
                usual = max(
                    _dot(total, pace_row) / _dot(total, load), _dot(total, pace_kv) / _dot(total, kv_load)
                )
                limit = max_rho
                if branch == 0:
                    # Full of KV: rho (1 + (few / requests)^2) is limited, requests = KV / mean context.
                    limit = min(max_rho, max_kv_pressure)
                    each = kv_load[DECODES] + kv_load[PROMPT] * least_prompt + kv_load[CONTEXT] * least_kv
                    thrash = few_kv_requests**2 * each / (kv * kv)
                    kv_load[CONTEXT] += 2.0 * thrash * mean_context
                    kv_load[DECODES] -= thrash * mean_context**2
                # Short of slots, the operating pace counts, and the active adapters at it are cut again.
                for part in range(1 if short_of_slots == 0 else len(ACTIVE_PARTS) - 1):
                    if short_of_slots == 1:
                        seen = min(ACTIVE_PARTS[part] * most_slots, max_loras * 1.0)
                        seen_s = _load_row(
                            calibration, total, pace_row, seen, max_lora_rank, max_loras, seen_load
                        )
                    # Steps at the operating pace hold fewer tokens than pay all of `eager_ms`, or not.
                    for eager in range(1 + short_of_slots):
                        k = 0
                        while k < paces.shape[0]:
                            # --- Paces in (slow, fast]: fine about the usual one.
                            fast, pace = paces[k], k
                            k += 1 if 0.4 * usual < fast <= 3.0 * usual else 2
                            slow = paces[k] if k < paces.shape[0] else 0.0
                            if short_of_slots == 0 and slow * fixed_s >= max(max_rho, max_kv_pressure, full):
                                continue
                            if short_of_slots == 1:
                                # At the operating pace: pace x step(work / pace) <= 1 (+ what is unsettled)
                                token_s, pace_s = _eager_parts(eager_ms, eager == 1, seen_s)
                                left = max(limit, MAX_UNSETTLED) * full - slow * (seen_s + pace_s)
                                if left <= 0.0:
                                    continue
                            if num_cells == rows.shape[0]:
                                rows = np.concatenate((rows, np.zeros_like(rows)))
                                row_pace = np.concatenate((row_pace, np.zeros_like(row_pace)))
                            cell = rows[num_cells]
                            row_pace[num_cells] = pace
                            num_cells += 1
                            # pace x active >= pace x low + slow (active - low)
                            active_s = slow * per_adapter_s
                            spread = limit + active_s * low
                            for c in range(3):
                                cell[0, c], cell[1, c] = load[c] / limit, kv_load[c] / limit
                                cell[2, c], cell[3, c] = load[c] / spread, kv_load[c] / spread
                            tokens = budget
                            if short_of_slots == 0:
                                cell[2, ACTIVITY] = cell[3, ACTIVITY] = active_s / spread
                                cell[4, ACTIVITY] = 1.0 / high
                            else:
                                for c in range(3):
                                    cell[2, c] = (seen_load[c] - seen_s * pace_row[c]) / left
                                    cell[3, c] = 0.0
                                cell[2, DECODES] += token_s / left
                                cell[2, PROMPT] += token_s / left
                                cell[3, HOT] = margins[MIN_SLOTS_OVER_HOT] / ladder[last_slots]
                                cell[4, ACTIVITY] = 1.0 / (ACTIVE_PARTS[part + 1] * most_slots)
                                tokens = budget if eager == 1 else min(ALL_EAGER_TOKENS, budget)
                            cell[5, CONTEXT] = 1.0 / (kv * fast)
                            cell[6, DECODES] = cell[6, PROMPT] = 1.0 / (tokens * fast)
        low = high
    return rows[:num_cells], row_pace[:num_cells]


@njit(cache=True, nogil=True)
def _take_least(size, pace, brought, activity, heat, first, last, shares):
    """Lower the shares of the adapters from `first` to `last` to this size, where it is less."""
    for row in range(first, last):
        value = _value(size, brought[row], activity[row, pace], heat[row, pace])
        shares[row] = min(shares[row], value)


@njit(cache=True, nogil=True)
def _all_cells(calibration, eager_ms, brought, rank_class, slot_ranks, ladders, margins, paces, bucket_ratio):
    """Return `_cells` of every slot rank that a GPU may need, and each cell's; rows sorted by rank."""
    rows = np.zeros((0, NUM_CONDITIONS, NUM_SIZES))
    row_pace, cell_class = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for each in range(slot_ranks.shape[0]):
        below = np.searchsorted(rank_class, each, side="right")
        if below == np.searchsorted(rank_class, each):
            continue
        num_ladder = 0
        while num_ladder < ladders.shape[1] and ladders[each, num_ladder] > 0:
            num_ladder += 1
        if num_ladder == 0:
            continue
        more, more_pace = _cells(
            calibration,
            eager_ms,
            brought[:below],
            ladders[each],
            num_ladder,
            slot_ranks[each],
            margins,
            paces,
            bucket_ratio,
        )
        rows = np.concatenate((rows, more))
        row_pace = np.concatenate((row_pace, more_pace))
        cell_class = np.concatenate((cell_class, np.full(more_pace.shape[0], each)))
    return rows, row_pace, cell_class


@njit(cache=True, nogil=True)
def least_shares(
    calibration,
    brought,
    busy,
    rank_class,
    slot_ranks,
    ladders,
    margins,
    pace_ratio,
    bucket_ratio,
    max_clusters,
    shares,
):
    """Write each adapter's least share of a GPU.

    Parameters
    ----------
    calibration
        (NUM_CALIBRATION,) float64 of the surrogate.
    brought
        (num_adapters, 3) float64, a second: decodes, prompt tokens, context tokens.
    busy
        (num_adapters,) float64, tokens generated a second: an adapter is active at a pace with the
        probability ``1 - exp(-busy / pace)``.
    rank_class
        (num_adapters,) int64, index in `slot_ranks` of the slot that an adapter needs.
    slot_ranks, ladders
        As in `placer.kernels.acceptance.Oracle`.
    margins
        (8,) float64, `placer.margins.Margins.vector`.
    pace_ratio
        Steps a second are cut at a geometric row of this ratio.
    bucket_ratio
        Active adapters are cut at whole numbers, and above at a geometric row of this ratio.
    max_clusters
        Mixtures are chosen for so many groups of like adapters of each rank; any mixture is valid.
    shares
        (num_adapters,) float64, overwritten; infinite where no GPU takes an adapter.
    """
    num_adapters, num_classes = brought.shape[0], slot_ranks.shape[0]

    # --- Paces, and the activity at each; like adapters side by side.
    num_paces = int(np.ceil(np.log(PACE_RANGE) / np.log(pace_ratio))) + 1
    paces = np.empty(num_paces)
    fullest = max(margins[MAX_RHO], margins[MAX_KV_PRESSURE], 1.0) * (1.0 + FLOAT32_SLACK)
    paces[0] = fullest / (1e-3 * calibration[STEP_COEFFICIENTS])
    for k in range(1, num_paces):
        paces[k] = paces[k - 1] / pace_ratio
    activity, heat = np.empty((num_adapters, num_paces)), np.empty((num_adapters, num_paces))
    for row in range(num_adapters):
        for k in range(num_paces):
            idle = np.exp(-0.25 * busy[row] / paces[k])
            heat[row, k] = (1.0 - idle) ** 2 * (1.0 - ACTIVITY_SLACK) - HEAT_SLACK
            heat[row, k] = max(heat[row, k], 0.0)
            activity[row, k] = (1.0 - idle**4) * (1.0 - ACTIVITY_SLACK)
    order = _like_order(brought, activity, rank_class)
    brought, activity, heat = brought[order], activity[order], heat[order]
    rank_class = rank_class[order]
    starts, cluster_class = _cluster_starts(brought, rank_class, num_classes, max_clusters)
    means, active, hot, least, least_active, least_hot, most_decodes = _clusters(
        brought, activity, heat, starts
    )
    eager_ms, calibration = calibration[EAGER_MS], calibration.copy()
    calibration[EAGER_MS] = 0.0  # the rest of the step law is convex in the work
    rows, row_pace, cell_class = _all_cells(
        calibration, eager_ms, brought, rank_class, slot_ranks, ladders, margins, paces, bucket_ratio
    )
    num_clusters, num_cells = cluster_class.shape[0], rows.shape[0]

    # --- What a GPU full of like adapters holds: the price that mixtures aim at.
    price = np.full(num_clusters, np.inf)
    for j in range(num_cells):
        for g in range(num_clusters):
            if cluster_class[g] > cell_class[j]:
                break
            most = 0.0
            for c in range(NUM_CONDITIONS):
                most = max(most, _value(rows[j, c], means[g], active[g, row_pace[j]], hot[g, row_pace[j]]))
            price[g] = min(price[g], most)

    # --- Each cell's mixture; the least over cells. A group is passed by where none of it can be less.
    worth = np.empty((NUM_CONDITIONS, num_clusters))
    table = np.empty((NUM_CONDITIONS + 1, num_clusters + NUM_CONDITIONS + 1))
    weights, size, sorted_shares = (
        np.empty(NUM_CONDITIONS),
        np.empty(NUM_SIZES),
        np.full(num_adapters, np.inf),
    )
    ceiling = np.full(num_clusters, np.inf)
    for j in range(num_cells):
        pace = row_pace[j]
        width = np.searchsorted(cluster_class, cell_class[j], side="right")
        dearest, most = 0, -1.0
        for c in range(NUM_CONDITIONS):
            cheapest = np.inf
            for g in range(width):
                worth[c, g] = _value(rows[j, c], means[g], active[g, pace], hot[g, pace]) / price[g]
                cheapest = min(cheapest, worth[c, g])
            if cheapest > most:
                dearest, most = c, cheapest
        if most > DEAR:
            weights[:] = 0.0
            weights[dearest] = 1.0
        else:
            _mixture(worth, width, table, weights)
        for k in range(NUM_SIZES):
            size[k] = 0.0
            for c in range(NUM_CONDITIONS):
                size[k] += weights[c] * rows[j, c, k]
        for g in range(width):
            floor = _value(size, least[g], least_active[g, pace], least_hot[g, pace])
            if size[DECODES] < 0.0:
                floor += size[DECODES] * (most_decodes[g] - least[g, DECODES])
            if floor >= ceiling[g]:
                continue
            _take_least(size, pace, brought, activity, heat, starts[g], starts[g + 1], sorted_shares)
            ceiling[g] = sorted_shares[starts[g] : starts[g + 1]].max()
    shares[order] = sorted_shares
