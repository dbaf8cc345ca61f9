"""First-Fit-Decreasing over open GPUs, one adapter at a time, each GPU with a `max_loras` of its own.

A GPU's state is its vector of aggregates, so a trial costs one addition and one evaluation of the
trees, whatever the number of its adapters. Three things keep trials few: a GPU's present
`max_loras` is asked first and the others only when it fails; a refusal is remembered for every
adapter that costs as much or nearly; and the best-case utilisation of `placer.bounds` refuses
without asking. `tests/support/packing_oracle.py` states the same rules in plain Python.
"""

import numpy as np
from numba import njit

from models.kernels.features import (
    KV_PRESSURE,
    KV_REQUESTS,
    OUTPUT_TOKENS,
    RHO,
    SLOTS_OVER_ACTIVE,
    SLOTS_OVER_COUNT,
    adapter_terms,
    joined_terms,
)
from models.kernels.surrogate import evaluate, evaluate_all
from placer.kernels.best_case import NUM_DEMANDS, best_case_utilisation

REACH = 3
"""Values of the ladder that a trial looks at on each side of a GPU's present `max_loras`."""

FEW_SLOTS = 8
"""Values of `max_loras` up to this are worth a trial for any number of adapters."""

RETRY_BELOW = 0.8
"""A GPU that refused an adapter is asked again for one that costs less than this share of it."""

MAX_RHO = 1.05
"""Offered load over the capacity that the formulas give, at most: they err by 4 % on the safe side."""

MIN_SLOTS_OVER_ACTIVE = 1.0
"""Slots over adapters with a request running, at least, where not every adapter has a slot."""

FEW_KV_REQUESTS = 80.0
"""A KV cache that holds about so many requests, or fewer, may fill to a smaller share.

Long requests that meet a full cache preempt each other: each is admitted again as soon as its first
chunk fits, and its recomputation fills the cache anew. Such a server does not recover by itself, and
neither the capacity by formula nor the trees see it coming.
"""

MIN_SERVED_FRACTION = 0.95
"""What the tree for throughput must predict: below 0.9 a server is starved, and the tree errs by 2 %."""

REFUSED = 2.0
"""Stands for a probability where the physics refuse."""

# What became of an adapter: a GPU's number, or one of these.
NO_GPU_LEFT, STARVES_ALONE, OVERLOADS_ALONE, NO_MEMORY = -1, -2, -3, -4


@njit(cache=True, nogil=True)
def starvation_risk_of(surrogate, aggregates, max_loras, max_lora_rank, scratch):
    """Return a GPU's probability of starvation, `REFUSED` where another estimate says it starves.

    A packer that adds adapters until the tree says no finds the leaf that says yes by mistake. So
    four more must agree: the capacity by formula, a margin of KV cache where it holds few requests,
    slots for the adapters with a request running, and the tree for throughput. Parameters as in
    `best_choice`.
    """
    served, risk = evaluate(surrogate, aggregates, max_loras, max_lora_rank, scratch)
    slots_suffice = scratch[SLOTS_OVER_COUNT] >= 1.0 or scratch[SLOTS_OVER_ACTIVE] >= MIN_SLOTS_OVER_ACTIVE
    kv_margin = 1.0 + (FEW_KV_REQUESTS / scratch[KV_REQUESTS]) ** 2
    if scratch[KV_PRESSURE] * kv_margin > 1.0:
        return REFUSED
    if scratch[RHO] > MAX_RHO or not slots_suffice or served < MIN_SERVED_FRACTION:
        return REFUSED
    return risk


@njit(cache=True, nogil=True)
def best_choice(surrogate, aggregates, ladder, max_lora_rank, count, scratch):
    """Return the ladder's index with the least starvation probability, and that probability.

    Ties go to fewer slots.

    Parameters
    ----------
    surrogate
        `SurrogateArrays` of the surrogate.
    aggregates
        (NUM_AGGREGATES,) float64.
    ladder
        (k,) int64, ascending values of `max_loras` that fit in memory at this rank; 0 where none is left.
    max_lora_rank, count
        Slot rank of the GPU, and its adapters.
    scratch
        (NUM_FEATURES,) float32, overwritten.
    """
    best, best_risk = -1, REFUSED
    for index in range(last_choice(ladder, count) + 1):
        risk = starvation_risk_of(surrogate, aggregates, ladder[index], max_lora_rank, scratch)
        if risk < best_risk:
            best, best_risk = index, risk
    return best, best_risk


@njit(cache=True, nogil=True)
def last_choice(ladder, count):
    """Return the index of the largest `max_loras` worth a trial, -1 where none fits in memory.

    More slots than adapters are pointless, so the first value that holds all `count` is the last;
    but the trees have seen few servers with less than `FEW_SLOTS`, and a spare slot costs little.
    """
    last = -1
    for index in range(ladder.shape[0]):
        if ladder[index] == 0:
            break
        last = index
        if ladder[index] >= max(count, FEW_SLOTS):
            break
    return last


@njit(cache=True, nogil=True)
def accepted_choice(surrogate, aggregates, ladder, max_lora_rank, count, present, starvation_risk, scratch):
    """Return the accepted index of the ladder nearest to `present`, more slots first; -1 if none.

    Looks `REACH` values to each side: a GPU grows by one adapter at a time, and what suits it moves
    slowly. Parameters as in `best_choice`.
    """
    last = last_choice(ladder, count)
    present = min(present, last)
    for distance in range(REACH + 1):
        for index in (present + distance, present - distance):
            if 0 <= index <= last:
                risk = starvation_risk_of(surrogate, aggregates, ladder[index], max_lora_rank, scratch)
                if risk <= starvation_risk:
                    return index
            if distance == 0:
                break
    return -1


@njit(cache=True, nogil=True)
def pack(
    order,
    rank_class,
    traffic,
    demands,
    cost,
    best_case,
    slot_ranks,
    ladders,
    surrogate,
    starvation_risk,
    max_adapters,
    segregated,
    gpu_of,
    gpu_class,
    gpu_choice,
    gpu_count,
    aggregates,
    scratch,
):
    """Place adapters in this order, each on the first GPU that takes it; return the number of GPUs.

    Parameters
    ----------
    order
        (num_adapters,) int64, rows of the workload.
    rank_class
        (num_adapters,) int64, index in `slot_ranks` of the slot that an adapter needs.
    traffic
        (num_adapters, 7) float64: rank, rate, input and output tokens, their cvs, arrival cv.
    demands
        (num_adapters, 4) float64 from `placer.bounds.adapter_demands`.
    cost
        (num_adapters,) float64, best-case utilisation of a GPU with the adapter alone: refusals are
        remembered by it.
    best_case
        `placer.bounds.BestCase`.
    slot_ranks
        (num_classes,) int64, ascending `max_lora_rank` values.
    ladders
        (num_classes, k) int64: feasible `max_loras` of each class, ascending, padded with 0.
    surrogate
        `SurrogateArrays` of the surrogate.
    starvation_risk
        Largest probability of starvation that a GPU may have.
    max_adapters
        Adapters that one GPU may hold.
    segregated
        Whether a GPU takes adapters of one rank class only.
    gpu_of
        (num_adapters,) int64, receives each adapter's GPU or why it has none.
    gpu_class, gpu_choice, gpu_count
        (max_gpus,) int64, receive each GPU's rank class, ladder index and adapters.
    aggregates
        (max_gpus, NUM_AGGREGATES) float64 zeros, receive each GPU's state.
    scratch
        (NUM_FEATURES,) float32, overwritten.
    """
    max_gpus = gpu_class.shape[0]
    held = np.zeros((max_gpus, NUM_DEMANDS))
    joint = np.empty(NUM_DEMANDS)
    step_law, scheduler_law, server = best_case
    refused = np.full((max_gpus, slot_ranks.shape[0]), np.inf)
    terms = np.empty(aggregates.shape[1])
    trial = np.empty(aggregates.shape[1])
    num_gpus = 0
    for position in range(order.shape[0]):
        row = order[position]
        own_class = rank_class[row]
        a = traffic[row]
        adapter_terms(terms, a[0], a[1], a[2], a[3], a[4], a[5], a[6])
        placed = NO_GPU_LEFT

        # --- The first open GPU that takes it.
        for gpu in range(num_gpus):
            joint_class = max(gpu_class[gpu], own_class)
            if cost[row] >= refused[gpu, joint_class] or gpu_count[gpu] >= max_adapters:
                continue
            if segregated and gpu_class[gpu] != own_class:
                continue
            joint[:] = held[gpu]
            joint += demands[row]
            if best_case_utilisation(step_law, scheduler_law, server, joint) > 1.0:
                continue
            joined_terms(trial, aggregates[gpu], terms)
            choice = accepted_choice(
                surrogate,
                trial,
                ladders[joint_class],
                slot_ranks[joint_class],
                gpu_count[gpu] + 1,
                gpu_choice[gpu],
                starvation_risk,
                scratch,
            )
            if choice < 0:
                refused[gpu, joint_class] = RETRY_BELOW * cost[row]
                continue
            gpu_class[gpu] = joint_class
            gpu_choice[gpu] = choice
            aggregates[gpu] = trial
            placed = gpu
            break

        # --- Else a GPU of its own, if one alone carries it.
        if placed < 0:
            ladder = ladders[own_class]
            if last_choice(ladder, 1) < 0:
                placed = NO_MEMORY
            elif cost[row] > 1.0:
                placed = OVERLOADS_ALONE
            else:
                choice, risk = best_choice(surrogate, terms, ladder, slot_ranks[own_class], 1, scratch)
                if risk > starvation_risk:
                    placed = STARVES_ALONE
                elif num_gpus < max_gpus:
                    placed = num_gpus
                    num_gpus += 1
                    gpu_class[placed] = own_class
                    gpu_choice[placed] = choice
                    aggregates[placed] = terms

        gpu_of[row] = placed
        if placed >= 0:
            gpu_count[placed] += 1
            held[placed] += demands[row]
    return num_gpus


RISK_TIE = 0.005
"""Starvation probabilities nearer than this are the same: a leaf's share of a few hundred runs."""


@njit(cache=True, nogil=True)
def finish(
    surrogate,
    aggregates,
    gpu_class,
    gpu_count,
    slot_ranks,
    ladders,
    starvation_risk,
    gpu_choice,
    features,
    predicted,
):
    """Choose each GPU's final `max_loras`, and write its features and predictions.

    The least starvation probability wins; among those within `RISK_TIE` of it, the shortest mean
    request (TTFT + ITL x output tokens). Never above `starvation_risk` where `pack` accepted the GPU.

    Parameters
    ----------
    surrogate, slot_ranks, ladders, starvation_risk
        As in `pack`.
    aggregates, gpu_class, gpu_count
        (num_gpus, ...) as `pack` left them.
    gpu_choice
        (num_gpus,) int64, receives the index in the ladder.
    features
        (num_gpus, NUM_FEATURES) float32, receives the features at that choice.
    predicted
        (num_gpus, 5) float64, receives `evaluate_all`'s results at that choice.
    """
    for gpu in range(gpu_class.shape[0]):
        rank, ladder = slot_ranks[gpu_class[gpu]], ladders[gpu_class[gpu]]
        count = gpu_count[gpu]
        row = features[gpu]
        _, least = best_choice(surrogate, aggregates[gpu], ladder, rank, count, row)
        accepted = min(least + RISK_TIE, max(starvation_risk, least))
        shortest_ms = np.inf
        for index in range(last_choice(ladder, count) + 1):
            risk = starvation_risk_of(surrogate, aggregates[gpu], ladder[index], rank, row)
            _, _, itl_ms, ttft_ms, _ = evaluate_all(surrogate, aggregates[gpu], ladder[index], rank, row)
            request_ms = ttft_ms + itl_ms * row[OUTPUT_TOKENS]
            if risk <= accepted and request_ms < shortest_ms:
                shortest_ms = request_ms
                gpu_choice[gpu] = index
        served, risk, itl_ms, ttft_ms, offered_tok_s = evaluate_all(
            surrogate, aggregates[gpu], ladder[gpu_choice[gpu]], rank, row
        )
        predicted[gpu, 0], predicted[gpu, 1], predicted[gpu, 2] = served, risk, itl_ms
        predicted[gpu, 3], predicted[gpu, 4] = ttft_ms, offered_tok_s
