"""Spread adapters over a fixed number of GPUs for short requests, the slowest GPU first."""

import numpy as np
from numba import njit

from models.kernels.surrogate import evaluate_all
from placer.kernels.acceptance import accepted_choice
from placer.kernels.improvement import state_without
from placer.kernels.packing import open_gpu, take, terms_of
from placer.kernels.rates import joined


@njit(cache=True, nogil=True)
def request_ms(oracle, aggregates, rank_class, choice, output_tokens, scratch):
    """Return the predicted time of the fleet's mean answer on a GPU: TTFT + ITL x output tokens."""
    _, _, itl_ms, ttft_ms, _ = evaluate_all(
        oracle.surrogate,
        aggregates,
        oracle.ladders[rank_class, choice],
        oracle.slot_ranks[rank_class],
        scratch,
    )
    return ttft_ms + itl_ms * output_tokens


@njit(cache=True, nogil=True)
def _fastest_home(oracle, items, fleet, num_gpus, row, shut, output_tokens, trial, terms, scratch):
    """Return the GPU on which requests are shortest with the adapter, its `max_loras`, and that time."""
    terms_of(items, row, terms)
    home, home_choice, least_ms = -1, -1, np.inf
    for gpu in range(num_gpus):
        if gpu == shut:
            continue
        joint_class = max(fleet.rank_class[gpu], items.rank_class[row])
        joined(trial, fleet.aggregates[gpu], terms)
        choice = accepted_choice(oracle, trial, joint_class, fleet.choice[gpu], scratch)
        if choice < 0:
            continue
        taken_ms = request_ms(oracle, trial, joint_class, choice, output_tokens, scratch)
        if taken_ms < least_ms:
            home, home_choice, least_ms = gpu, choice, taken_ms
    return home, home_choice, least_ms


@njit(cache=True, nogil=True)
def spread(oracle, items, order, output_tokens, fleet, scratch):
    """Open a GPU for each of the first adapters, then give each further one its fastest home.

    Parameters as in `placer.kernels.packing.pack`, and the fleet's mean output tokens; returns the
    number of GPUs in use.
    """
    num_terms = fleet.aggregates.shape[1]
    trial, terms = np.empty(num_terms), np.empty(num_terms)
    num_gpus = 0
    for position in range(order.shape[0]):
        row = order[position]
        if num_gpus < fleet.count.shape[0]:
            terms_of(items, row, terms)
            num_gpus = open_gpu(oracle, items, row, terms, fleet, num_gpus, scratch)
            continue
        home, choice, _ = _fastest_home(
            oracle, items, fleet, num_gpus, row, -1, output_tokens, trial, terms, scratch
        )
        if home >= 0:
            joined(trial, fleet.aggregates[home], terms)
            take(fleet, items, row, home, max(fleet.rank_class[home], items.rank_class[row]), choice, trial)
        else:
            terms_of(items, row, terms)
            open_gpu(oracle, items, row, terms, fleet, num_gpus, scratch)  # says why it has none
    return num_gpus


@njit(cache=True, nogil=True)
def relieve(oracle, items, fleet, num_gpus, max_rounds, output_tokens, scratch):
    """Move adapters off the slowest GPU while neither it nor their new home is as slow as it was."""
    num_terms = fleet.aggregates.shape[1]
    trial, terms, reduced = np.empty(num_terms), np.empty(num_terms), np.empty(num_terms)
    for _ in range(max_rounds):
        slowest, slowest_ms = -1, -1.0
        for gpu in range(num_gpus):
            now_ms = request_ms(
                oracle,
                fleet.aggregates[gpu],
                fleet.rank_class[gpu],
                fleet.choice[gpu],
                output_tokens,
                scratch,
            )
            if now_ms > slowest_ms:
                slowest, slowest_ms = gpu, now_ms
        moved = False
        rows = np.flatnonzero(fleet.gpu_of == slowest)
        order = np.argsort(items.utilisation[rows], kind="mergesort")
        for position in range(min(rows.shape[0] - 1, 8)):
            row = rows[order[position]]
            rank_class = state_without(items, fleet, slowest, row, reduced, terms)
            left_choice = accepted_choice(oracle, reduced, rank_class, fleet.choice[slowest], scratch)
            if left_choice < 0:
                continue
            left_ms = request_ms(oracle, reduced, rank_class, left_choice, output_tokens, scratch)
            home, choice, home_ms = _fastest_home(
                oracle, items, fleet, num_gpus, row, slowest, output_tokens, trial, terms, scratch
            )
            if home < 0 or max(left_ms, home_ms) >= slowest_ms:
                continue
            joined(trial, fleet.aggregates[home], terms)
            take(fleet, items, row, home, max(fleet.rank_class[home], items.rank_class[row]), choice, trial)
            fleet.aggregates[slowest] = reduced
            fleet.rank_class[slowest], fleet.choice[slowest] = rank_class, left_choice
            fleet.count[slowest] -= 1
            fleet.share[slowest] -= items.share[row]
            moved = True
            break
        if not moved:
            return
