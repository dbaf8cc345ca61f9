"""Empty one GPU into the others: relocations, and swaps that make room.

Each trial is one question to the oracle; a budget of trials, not a clock, ends the search, so the
same problem gives the same plan.
"""

import numpy as np
from numba import njit

from placer.kernels.acceptance import accepted_choice
from placer.kernels.packing import FULL, NO_GPU_LEFT, take, terms_of
from placer.kernels.rates import joined

MAX_SWAPS = 24
"""Adapters that one homeless adapter tries to change places with, at most."""


@njit(cache=True, nogil=True)
def state_without(items, fleet, gpu, leaving, aggregates, terms):
    """Write the state of a GPU without one adapter, and return its rank class; -1 where none is left.

    Maxima cannot be subtracted, and sums added in another order differ in the last bit, so the state
    is made anew from the GPU's adapters in the order of rows.
    """
    rank_class = -1
    aggregates[:] = 0.0
    for row in range(fleet.gpu_of.shape[0]):
        if fleet.gpu_of[row] == gpu and row != leaving:
            terms_of(items, row, terms)
            joined(aggregates, aggregates, terms)
            rank_class = max(rank_class, items.rank_class[row])
    return rank_class


@njit(cache=True, nogil=True)
def _place_somewhere(oracle, items, fleet, num_gpus, row, shut, left, trial, terms, scratch):
    """Put an adapter on the fullest GPU that takes it; return the GPU or -1, and the trials left."""
    terms_of(items, row, terms)
    order = np.argsort(-fleet.share[:num_gpus], kind="mergesort")
    for gpu in order:
        if gpu == shut or fleet.share[gpu] + items.share[row] > FULL:
            continue
        if left <= 0:
            break
        left -= 1
        joint_class = max(fleet.rank_class[gpu], items.rank_class[row])
        joined(trial, fleet.aggregates[gpu], terms)
        choice = accepted_choice(oracle, trial, joint_class, fleet.choice[gpu], scratch)
        if choice >= 0:
            take(fleet, items, row, gpu, joint_class, choice, trial)
            return gpu, left
    return -1, left


@njit(cache=True, nogil=True)
def _swap_in(oracle, items, fleet, num_gpus, row, shut, left, scratch):
    """Put an adapter where a smaller one leaves that another GPU takes; return success, trials left."""
    num_terms = fleet.aggregates.shape[1]
    own, reduced, trial, terms = (
        np.empty(num_terms),
        np.empty(num_terms),
        np.empty(num_terms),
        np.empty(num_terms),
    )
    terms_of(items, row, own)
    # Leavers by how little they free beyond what is needed: the rest of the fleet has little room.
    share = items.share[row]
    candidates = np.empty(fleet.gpu_of.shape[0], dtype=np.int64)
    freed = np.empty(fleet.gpu_of.shape[0])
    count = 0
    for other in range(fleet.gpu_of.shape[0]):
        gpu = fleet.gpu_of[other]
        if gpu < 0 or gpu == shut or fleet.count[gpu] < 2:
            continue
        room = FULL - fleet.share[gpu] + items.share[other]
        if room >= share and items.share[other] < share:
            candidates[count], freed[count] = other, items.share[other]
            count += 1
    order = np.argsort(freed[:count], kind="mergesort")
    for position in range(min(count, MAX_SWAPS)):
        if left <= 0:
            break
        leaver = candidates[order[position]]
        gpu = fleet.gpu_of[leaver]
        rank_class = state_without(items, fleet, gpu, leaver, reduced, terms)
        joint_class = max(rank_class, items.rank_class[row])
        joined(trial, reduced, own)
        left -= 1
        choice = accepted_choice(oracle, trial, joint_class, fleet.choice[gpu], scratch)
        if choice < 0:
            continue
        kept = fleet.aggregates[gpu].copy()
        kept_class, kept_choice, kept_share = fleet.rank_class[gpu], fleet.choice[gpu], fleet.share[gpu]
        fleet.count[gpu] -= 1
        fleet.share[gpu] -= items.share[leaver]
        fleet.gpu_of[leaver] = NO_GPU_LEFT
        take(fleet, items, row, gpu, joint_class, choice, trial)
        home, left = _place_somewhere(
            oracle, items, fleet, num_gpus, leaver, shut, left, reduced, terms, scratch
        )
        if home >= 0:
            return True, left
        fleet.gpu_of[row] = NO_GPU_LEFT
        fleet.gpu_of[leaver] = gpu
        fleet.aggregates[gpu] = kept
        fleet.rank_class[gpu], fleet.choice[gpu], fleet.share[gpu] = kept_class, kept_choice, kept_share
    return False, left


@njit(cache=True, nogil=True)
def _empty(oracle, items, fleet, num_gpus, target, left, scratch):
    """Try to move every adapter off a GPU; return success and the trials left. May leave it half done."""
    num_terms = fleet.aggregates.shape[1]
    trial, terms = np.empty(num_terms), np.empty(num_terms)
    rows = np.flatnonzero(fleet.gpu_of == target)
    order = np.argsort(-items.share[rows], kind="mergesort")
    for position in range(rows.shape[0]):
        row = rows[order[position]]
        home, left = _place_somewhere(
            oracle, items, fleet, num_gpus, row, target, left, trial, terms, scratch
        )
        if home < 0 and left > 0:
            placed, left = _swap_in(oracle, items, fleet, num_gpus, row, target, left, scratch)
            home = 0 if placed else -1
        if home < 0:
            return False, left
    return True, left


@njit(cache=True, nogil=True)
def _close(fleet, gpu, num_gpus):
    """Drop an empty GPU; the last one takes its number. Return the number of GPUs."""
    last = num_gpus - 1
    if gpu != last:
        for row in range(fleet.gpu_of.shape[0]):
            if fleet.gpu_of[row] == last:
                fleet.gpu_of[row] = gpu
        fleet.rank_class[gpu], fleet.choice[gpu] = fleet.rank_class[last], fleet.choice[last]
        fleet.count[gpu], fleet.share[gpu] = fleet.count[last], fleet.share[last]
        fleet.aggregates[gpu] = fleet.aggregates[last]
    fleet.rank_class[last] = fleet.choice[last] = fleet.count[last] = 0
    fleet.share[last] = 0.0
    fleet.aggregates[last] = 0.0
    return last


@njit(cache=True, nogil=True)
def eliminate(oracle, items, fleet, num_gpus, wanted, num_trials, max_targets, scratch):
    """Empty GPUs, the least loaded first, until `wanted` are left or the trials are spent.

    Parameters
    ----------
    oracle, items, fleet, num_gpus
        As `pack` left them.
    wanted
        GPUs that the search need not go below: a lower bound.
    num_trials
        Questions to the oracle, at most.
    max_targets
        GPUs that are tried before the search ends without success.
    scratch
        (NUM_FEATURES,) float32, overwritten.

    Returns
    -------
    num_gpus, left
        GPUs in use, and trials that were not needed.
    """
    left = num_trials
    improved = True
    while improved and num_gpus > wanted and left > 0:
        improved = False
        order = np.argsort(fleet.share[:num_gpus], kind="mergesort")
        budget = left
        for position in range(min(num_gpus, max_targets)):
            target = order[position]
            kept = (
                fleet.gpu_of.copy(),
                fleet.rank_class.copy(),
                fleet.choice.copy(),
                fleet.count.copy(),
                fleet.share.copy(),
                fleet.aggregates.copy(),
            )
            allowed = min(left, max(budget // max_targets, 1))
            emptied, rest = _empty(oracle, items, fleet, num_gpus, target, allowed, scratch)
            left -= allowed - rest
            if emptied:
                num_gpus = _close(fleet, target, num_gpus)
                improved = True
                break
            fleet.gpu_of[:], fleet.rank_class[:], fleet.choice[:] = kept[0], kept[1], kept[2]
            fleet.count[:], fleet.share[:], fleet.aggregates[:] = kept[3], kept[4], kept[5]
            if left <= 0:
                break
    return num_gpus, left
