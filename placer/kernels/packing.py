"""First-Fit-Decreasing over open GPUs, one adapter at a time, each GPU with a `max_loras` of its own.

A GPU's state is its vector of aggregates, so a trial costs one addition and one evaluation of the
trees, whatever the number of its adapters. Three things keep trials few: a GPU's present
`max_loras` is asked first and the others only when it fails; a refusal is remembered for every
adapter that brings as much load or nearly; and least shares (`placer.kernels.shares`) that add up to more
than one GPU refuse without asking. `tests/support/packing_oracle.py` states the same rules in plain
Python.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from models.kernels.features import OUTPUT_TOKENS, SLOTS_OVER_ACTIVE, adapter_terms
from models.kernels.surrogate import evaluate_all
from placer.kernels.acceptance import (
    REFUSED,
    RISK_SHARE,
    RISK_SHARE_WITH_SLOTS,
    accepted_choice,
    best_choice,
    last_choice,
    planned_risk_of,
)
from placer.kernels.rates import LOAD, LOAD_VARIANCE, joined

RETRY_BELOW = 0.8
"""A GPU that refused an adapter is asked again for one with less than this share of its load."""

FULL = 1.0 + 1e-9
"""Least shares on one GPU, at most."""

RISK_TIE = 0.005
"""Leaves whose starvation probabilities are nearer than this are the same: shares of a few hundred runs."""

SLOTS_FOR_ALL = 1.3
"""Slots over active adapters from which on hardly a request waits for one, as the twin shows."""

# What became of an adapter: a GPU's number, or one of these.
NO_GPU_LEFT, STARVES_ALONE, OVERLOADS_ALONE, NO_MEMORY = -1, -2, -3, -4


class Items(NamedTuple):
    """The adapters to place.

    Attributes
    ----------
    rank_class
        (num_adapters,) int64, index in `Oracle.slot_ranks` of the slot that an adapter needs.
    traffic
        (num_adapters, 7) float64: rank, rate, input and output tokens, their cvs, arrival cv.
    share
        (num_adapters,) float64, least share of a GPU.
    utilisation
        (num_adapters,) float64, best-case utilisation of a GPU with the adapter alone: its load.
    load_std
        (num_adapters,) float64, standard deviation of the load, from that of the rate.
    """

    rank_class: np.ndarray
    traffic: np.ndarray
    share: np.ndarray
    utilisation: np.ndarray
    load_std: np.ndarray


class Fleet(NamedTuple):
    """GPUs under construction; row `g` of every array is GPU `g`.

    Attributes
    ----------
    gpu_of
        (num_adapters,) int64: each adapter's GPU, or why it has none.
    rank_class, choice, count
        (max_gpus,) int64: slot rank and `max_loras` as indices, and adapters.
    share
        (max_gpus,) float64, sum of least shares.
    aggregates
        (max_gpus, NUM_STATE) float64: state as `placer.kernels.rates` has it.
    """

    gpu_of: np.ndarray
    rank_class: np.ndarray
    choice: np.ndarray
    count: np.ndarray
    share: np.ndarray
    aggregates: np.ndarray


@njit(cache=True, nogil=True)
def terms_of(items, row, terms):
    """Write an adapter's terms."""
    a = items.traffic[row]
    adapter_terms(terms, a[0], a[1], a[2], a[3], a[4], a[5], a[6])
    terms[LOAD] = items.utilisation[row]
    terms[LOAD_VARIANCE] = items.load_std[row] * items.load_std[row]


@njit(cache=True, nogil=True)
def take(fleet, items, row, gpu, joint_class, choice, aggregates):
    """Put an adapter on a GPU whose state with it is `aggregates`."""
    fleet.gpu_of[row] = gpu
    fleet.rank_class[gpu] = joint_class
    fleet.choice[gpu] = choice
    fleet.count[gpu] += 1
    fleet.share[gpu] += items.share[row]
    fleet.aggregates[gpu] = aggregates


@njit(cache=True, nogil=True)
def open_gpu(oracle, items, row, terms, fleet, num_gpus, scratch):
    """Put an adapter on a GPU of its own; return the number of GPUs, and why it has none."""
    own_class = items.rank_class[row]
    if last_choice(oracle.ladders[own_class], 1) < 0:
        fleet.gpu_of[row] = NO_MEMORY
    elif items.utilisation[row] > 1.0:
        fleet.gpu_of[row] = OVERLOADS_ALONE
    else:
        choice, risk = best_choice(oracle, terms, own_class, scratch)
        if risk > oracle.starvation_risk:
            fleet.gpu_of[row] = STARVES_ALONE
        elif num_gpus == fleet.count.shape[0]:
            fleet.gpu_of[row] = NO_GPU_LEFT
        else:
            take(fleet, items, row, num_gpus, own_class, choice, terms)
            return num_gpus + 1
    return num_gpus


@njit(cache=True, nogil=True)
def pack(oracle, items, order, segregated, num_gpus, fleet, scratch):
    """Place adapters in this order, each on the first GPU that takes it; return the number of GPUs.

    Parameters
    ----------
    oracle, items
        What decides, and what is placed.
    order
        (k,) int64, rows in the order of placing.
    segregated
        Whether a GPU takes adapters of one rank class only.
    num_gpus
        GPUs of `fleet` that are open already.
    fleet
        Receives the adapters.
    scratch
        (NUM_FEATURES,) float32, overwritten.
    """
    max_gpus, num_terms = fleet.aggregates.shape
    refused = np.full((max_gpus, oracle.slot_ranks.shape[0]), np.inf)
    terms, trial = np.empty(num_terms), np.empty(num_terms)
    for position in range(order.shape[0]):
        row = order[position]
        own_class, share = items.rank_class[row], items.share[row]
        load = items.utilisation[row] + oracle.rate_z * items.load_std[row]
        terms_of(items, row, terms)
        placed = False
        for gpu in range(num_gpus):
            joint_class = max(fleet.rank_class[gpu], own_class)
            if load >= refused[gpu, joint_class] or fleet.share[gpu] + share > FULL:
                continue
            if segregated and fleet.rank_class[gpu] != own_class:
                continue
            joined(trial, fleet.aggregates[gpu], terms)
            choice = accepted_choice(oracle, trial, joint_class, fleet.choice[gpu], scratch)
            if choice >= 0:
                take(fleet, items, row, gpu, joint_class, choice, trial)
                placed = True
                break
            refused[gpu, joint_class] = RETRY_BELOW * load
        if not placed:
            num_gpus = open_gpu(oracle, items, row, terms, fleet, num_gpus, scratch)
    return num_gpus


@njit(cache=True, nogil=True)
def restate(items, order, starts, fleet):
    """Make every GPU's aggregates anew from its adapters in this order.

    A search adds adapters in an order that nobody can repeat; sums depend on it in the last bit.

    Parameters
    ----------
    items, fleet
        As in `pack`.
    order, starts
        (k,) and (num_gpus + 1,) int64: GPU g has the rows ``order[starts[g] : starts[g + 1]]``.
    """
    terms = np.empty(fleet.aggregates.shape[1])
    for gpu in range(starts.shape[0] - 1):
        fleet.aggregates[gpu] = 0.0
        for position in range(starts[gpu], starts[gpu + 1]):
            terms_of(items, order[position], terms)
            joined(fleet.aggregates[gpu], fleet.aggregates[gpu], terms)


@njit(cache=True, nogil=True)
def choose(oracle, fleet, num_gpus, scratch):
    """Choose each GPU's final `max_loras`: `fleet.choice` receives the index in the ladder.

    Of those within `starvation_risk` the least that the tree says wins; among those within `RISK_TIE` of
    it, slots for all: no adapter waits for one (`SLOTS_FOR_ALL`), which the trees for latency know less
    well than this ratio does; among those, or else among all, the shortest mean request (TTFT + ITL x
    output tokens).
    Never above `starvation_risk` where the GPU was accepted. Parameters as in `pack`.
    """
    risks, leaves = np.empty(oracle.ladders.shape[1]), np.empty(oracle.ladders.shape[1])
    for gpu in range(num_gpus):
        rank_class, aggregates = fleet.rank_class[gpu], fleet.aggregates[gpu]
        rank, ladder = oracle.slot_ranks[rank_class], oracle.ladders[rank_class]
        last = last_choice(ladder, fleet.count[gpu])
        limit = REFUSED
        for index in range(last + 1):
            risk = planned_risk_of(oracle, aggregates, ladder[index], rank, scratch)
            has_slots_for_each = ladder[index] >= fleet.count[gpu]
            share = oracle.margins[RISK_SHARE_WITH_SLOTS if has_slots_for_each else RISK_SHARE]
            risks[index], leaves[index] = risk, risk / max(share, 1e-12) if risk < REFUSED else REFUSED
            limit = min(limit, risk)
        limit = max(limit, oracle.starvation_risk)
        least = REFUSED
        for index in range(last + 1):
            if risks[index] <= limit:
                least = min(least, leaves[index])
        shortest_ms, nobody_waits = np.inf, False
        for index in range(last + 1):
            if risks[index] > limit or leaves[index] > least + RISK_TIE:
                continue
            _, _, itl_ms, ttft_ms, _ = evaluate_all(
                oracle.surrogate, aggregates, ladder[index], rank, scratch
            )
            request_ms = ttft_ms + itl_ms * scratch[OUTPUT_TOKENS]
            for_all = ladder[index] >= fleet.count[gpu] or scratch[SLOTS_OVER_ACTIVE] >= SLOTS_FOR_ALL
            if for_all < nobody_waits or (for_all == nobody_waits and request_ms >= shortest_ms):
                continue
            shortest_ms, nobody_waits = request_ms, for_all
            fleet.choice[gpu] = index


@njit(cache=True, nogil=True)
def describe(oracle, fleet, num_gpus, features, predicted):
    """Write each GPU's features and predictions at its present `max_loras`.

    Predictions are those at its mean rates, features and chance those that acceptance saw. The chance of
    starvation is that of the GPUs that keep every margin, or the tree's where it does not.

    Parameters
    ----------
    oracle, fleet, num_gpus
        As in `pack`.
    features
        (num_gpus, NUM_FEATURES) float32, overwritten.
    predicted
        (num_gpus, 5) float64, receives `evaluate_all`'s results.
    """
    for gpu in range(num_gpus):
        rank_class, aggregates = fleet.rank_class[gpu], fleet.aggregates[gpu]
        max_loras, rank = oracle.ladders[rank_class, fleet.choice[gpu]], oracle.slot_ranks[rank_class]
        served, tree_risk, itl_ms, ttft_ms, offered_tok_s = evaluate_all(
            oracle.surrogate, aggregates, max_loras, rank, features[gpu]
        )
        risk = planned_risk_of(oracle, aggregates, max_loras, rank, features[gpu])
        predicted[gpu, 0], predicted[gpu, 2] = served, itl_ms
        predicted[gpu, 1] = risk if risk < REFUSED else tree_risk
        predicted[gpu, 3], predicted[gpu, 4] = ttft_ms, offered_tok_s
