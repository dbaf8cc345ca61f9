"""Whether a GPU may hold its adapters: the trees, and margins of the physics that they must agree with."""

from typing import NamedTuple

import numpy as np
from numba import njit

from models.kernels.features import (
    BATCH,
    CONTEXT_TOKENS,
    COUNT,
    KV_PRESSURE,
    KV_REQUESTS,
    RATE_IN,
    RATE_OUT,
    RHO,
    SLOTS_OVER_ACTIVE,
    SLOTS_OVER_COUNT,
    SLOTS_OVER_HOT,
    laws_of,
    step_of,
)
from models.kernels.surrogate import evaluate, evaluate_all
from placer.kernels.rates import LOAD_VARIANCE, at_planned_rates

REACH = 3
"""Values of the ladder that a trial looks at on each side of a GPU's present `max_loras`."""

FEW_SLOTS = 8
"""Values of `max_loras` up to this are worth a trial for any number of adapters."""

SPARE_SLOTS = 1.25
"""More slots than this for each adapter are not worth a trial."""

MAX_UNSETTLED = 1.015
"""Little's law over the batch that the features settled on, at most, where slots are scarce."""

MAX_TREE_RISK = 0.5
"""What the tree for starvation may say at most: it is right more often than not."""

REFUSED = 2.0
"""Stands for a probability where the physics refuse."""

# Places of `placer.margins.Margins.vector`.
(
    MAX_RHO,
    MAX_KV_PRESSURE,
    FEW_KV_REQUESTS,
    MIN_SLOTS_OVER_ACTIVE,
    MIN_SLOTS_OVER_HOT,
    MIN_SERVED_FRACTION,
    QUIET_SHARE,
    RISK_SHARE,
    RISK_SHARE_WITH_SLOTS,
) = range(9)


class Oracle(NamedTuple):
    """What decides whether a GPU is accepted.

    Attributes
    ----------
    surrogate
        `SurrogateArrays` of the surrogate.
    margins
        (9,) float64, `placer.margins.Margins.vector`.
    starvation_risk
        Largest probability of starvation that a GPU may have.
    rate_z
        Standard deviations of its load that a GPU is planned for beyond the mean.
    max_ttft_ms
        Largest mean TTFT that a GPU may have, milliseconds; infinite where there is no limit.
    known_adapters, max_adapters
        Adapters on a GPU that the surrogate was trained with at most; that a GPU may hold at all.
    slot_ranks
        (num_classes,) int64, ascending `max_lora_rank` values.
    ladders
        (num_classes, k) int64: feasible `max_loras` of each class, ascending, padded with 0.
    """

    surrogate: tuple
    margins: np.ndarray
    starvation_risk: float
    rate_z: float
    max_ttft_ms: float
    known_adapters: int
    max_adapters: int
    slot_ranks: np.ndarray
    ladders: np.ndarray


@njit(cache=True, nogil=True)
def _settled(calibration, aggregates, features, max_loras, max_lora_rank):
    """Tell whether the batch of the features is the one that the load asks for, or nearly.

    Few secants find it. One that stopped too low counts too few adapters as active, and too few
    slots would pass.
    """
    active = max_loras / features[SLOTS_OVER_ACTIVE]
    step_coefs, eager_ms, scheduler_coefs = laws_of(calibration)
    step = step_of(
        step_coefs,
        eager_ms,
        scheduler_coefs,
        features[BATCH],
        min(active + 1.0 - active / aggregates[COUNT], max_loras * 1.0),
        aggregates[RATE_IN] / aggregates[RATE_OUT],
        features[CONTEXT_TOKENS],
        max_loras,
        max_lora_rank,
    )
    step_s = 1e-3 * step
    return aggregates[RATE_OUT] * step_s <= MAX_UNSETTLED * features[BATCH]


@njit(cache=True, nogil=True)
def _is_slow(oracle, aggregates, max_loras, max_lora_rank, scratch):
    """Tell whether a GPU's mean TTFT is above the limit, which is asked only where there is one."""
    if oracle.max_ttft_ms == np.inf:
        return False
    _, _, _, ttft_ms, _ = evaluate_all(oracle.surrogate, aggregates, max_loras, max_lora_rank, scratch)
    return ttft_ms > oracle.max_ttft_ms


@njit(cache=True, nogil=True)
def starvation_risk_of(oracle, aggregates, max_loras, max_lora_rank, scratch):
    """Return a GPU's probability of starvation at these rates, `REFUSED` where another estimate says no.

    A packer that adds adapters until the tree says no finds the leaf that says yes by mistake. So
    more must agree: the capacity by formula, a margin of KV cache where it holds few requests, slots
    for the adapters that never yield one, and, unless the GPU is quiet, the tree for throughput: of a
    server that is half idle it tells how bursty its few requests are, not that it falls behind. Long
    requests that meet a full cache preempt each other: each is admitted again as soon as its first
    chunk fits, and its recomputation fills the cache anew. Such a server does not recover by itself.

    Parameters
    ----------
    oracle
        `Oracle`.
    aggregates
        (NUM_AGGREGATES,) float64.
    max_loras, max_lora_rank
        Flags of the server.
    scratch
        (NUM_FEATURES,) float32; holds the features afterwards.
    """
    margins = oracle.margins
    served, risk = evaluate(oracle.surrogate, aggregates, max_loras, max_lora_rank, scratch)
    rho, kv_pressure, slots = scratch[RHO], scratch[KV_PRESSURE], scratch[SLOTS_OVER_ACTIVE]
    quiet = margins[QUIET_SHARE]
    has_slots_for_each = scratch[SLOTS_OVER_COUNT] >= 1.0
    is_quiet = rho <= quiet and kv_pressure <= quiet and (has_slots_for_each or slots * quiet >= 1.0)
    if risk > MAX_TREE_RISK or (served < margins[MIN_SERVED_FRACTION] and not is_quiet):
        return REFUSED
    few_requests = (margins[FEW_KV_REQUESTS] / scratch[KV_REQUESTS]) ** 2
    if rho > margins[MAX_RHO] or kv_pressure * (1.0 + few_requests) > margins[MAX_KV_PRESSURE]:
        return REFUSED
    if not has_slots_for_each:
        scarce = scratch[SLOTS_OVER_HOT] < margins[MIN_SLOTS_OVER_HOT]
        if scarce or slots < margins[MIN_SLOTS_OVER_ACTIVE]:
            return REFUSED
        if rho < 1.0 and not _settled(oracle.surrogate[0], aggregates, scratch, max_loras, max_lora_rank):
            return REFUSED
    is_unknown = aggregates[COUNT] > oracle.known_adapters and not is_quiet
    if is_unknown or _is_slow(oracle, aggregates, max_loras, max_lora_rank, scratch):
        return REFUSED
    return margins[RISK_SHARE_WITH_SLOTS if has_slots_for_each else RISK_SHARE] * risk


@njit(cache=True, nogil=True)
def _risk_when_raised(oracle, state, max_loras, max_lora_rank, scratch):
    """Return a GPU's probability of starvation at the rates it is planned for; parameters as below."""
    raised = at_planned_rates(state, oracle.rate_z)
    return starvation_risk_of(oracle, raised, max_loras, max_lora_rank, scratch)


@njit(cache=True, nogil=True)
def planned_risk_of(oracle, state, max_loras, max_lora_rank, scratch):
    """Return a GPU's probability of starvation, the larger of that at its mean and its planned rates.

    The mean counts too: what is accepted is then a part of what the bounds, which know the means, speak of.
    `scratch` holds the features at the planned rates afterwards, unless the mean is refused.

    Parameters
    ----------
    oracle, max_loras, max_lora_rank, scratch
        As in `starvation_risk_of`.
    state
        (NUM_STATE,) float64, see `placer.kernels.rates`.
    """
    risk = starvation_risk_of(oracle, state, max_loras, max_lora_rank, scratch)
    if state[LOAD_VARIANCE] > 0.0 and risk < REFUSED:
        risk = max(risk, _risk_when_raised(oracle, state, max_loras, max_lora_rank, scratch))
    return risk


@njit(cache=True, nogil=True)
def last_choice(ladder, count):
    """Return the index of the largest `max_loras` worth a trial, -1 where none fits in memory.

    Slots that no adapter fills cost memory, so the first value with `SPARE_SLOTS` for all `count` is
    the last; but the trees have seen few servers with less than `FEW_SLOTS`.
    """
    last = -1
    for index in range(ladder.shape[0]):
        if ladder[index] == 0:
            break
        last = index
        if ladder[index] >= max(SPARE_SLOTS * count, FEW_SLOTS):
            break
    return last


@njit(cache=True, nogil=True)
def best_choice(oracle, state, rank_class, scratch):
    """Return the ladder's index with the least starvation probability, and that probability.

    Ties go to fewer slots. Parameters as in `planned_risk_of`; `rank_class` is the GPU's.
    """
    best, best_risk = -1, REFUSED
    ladder, rank = oracle.ladders[rank_class], oracle.slot_ranks[rank_class]
    for index in range(last_choice(ladder, state[COUNT]) + 1):
        risk = planned_risk_of(oracle, state, ladder[index], rank, scratch)
        if risk < best_risk:
            best, best_risk = index, risk
    return best, best_risk


@njit(cache=True, nogil=True)
def accepted_choice(oracle, state, rank_class, present, scratch):
    """Return the accepted index of the ladder nearest to `present`, more slots first; -1 if none.

    Looks `REACH` values to each side: a GPU grows by one adapter at a time, and what suits it moves
    slowly, but for the step beyond `known_adapters`, where all values are tried. Parameters as in
    `best_choice`.
    """
    if state[COUNT] > oracle.max_adapters:
        return -1
    ladder, rank = oracle.ladders[rank_class], oracle.slot_ranks[rank_class]
    is_certain = state[LOAD_VARIANCE] == 0.0
    last = last_choice(ladder, state[COUNT])
    present = min(present, last)
    reach = REACH if state[COUNT] <= oracle.known_adapters else last
    for distance in range(reach + 1):
        for side in range(2 if distance > 0 else 1):
            index = present + distance if side == 0 else present - distance
            if 0 <= index <= last:
                # As `planned_risk_of`, without a call more where rates are certain.
                risk = starvation_risk_of(oracle, state, ladder[index], rank, scratch)
                if risk <= oracle.starvation_risk and not is_certain:
                    risk = _risk_when_raised(oracle, state, ladder[index], rank, scratch)
                if risk <= oracle.starvation_risk:
                    return index
    return -1
