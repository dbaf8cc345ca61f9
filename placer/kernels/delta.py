"""Place adapters on servers that run already: their flags stay, what is opened anew chooses its own."""

import numpy as np
from numba import njit

from placer.kernels.acceptance import accepted_choice, planned_risk_of
from placer.kernels.packing import FULL, open_gpu, take, terms_of
from placer.kernels.rates import joined


@njit(cache=True, nogil=True)
def choice_with(oracle, fleet, gpu, is_kept, own_class, trial, scratch):
    """Return the `max_loras` with which a GPU takes an adapter, -1 where it does not.

    Parameters
    ----------
    oracle, fleet, gpu
        What decides, and which GPU.
    is_kept
        Whether the GPU's server runs and keeps its flags.
    own_class
        The adapter's slot rank, as an index.
    trial
        The GPU's state with the adapter.
    scratch
        (NUM_FEATURES,) float32, overwritten.
    """
    rank_class, choice = fleet.rank_class[gpu], fleet.choice[gpu]
    if not is_kept:
        return accepted_choice(oracle, trial, max(rank_class, own_class), choice, scratch)
    if own_class > rank_class or fleet.count[gpu] >= oracle.max_adapters:
        return -1
    max_loras, rank = oracle.ladders[rank_class, choice], oracle.slot_ranks[rank_class]
    risk = planned_risk_of(oracle, trial, max_loras, rank, scratch)
    return choice if risk <= oracle.starvation_risk else -1


@njit(cache=True, nogil=True)
def place_kept(oracle, items, order, is_kept, is_shut, num_gpus, may_open, fleet, scratch):
    """Place adapters in this order on the fullest GPU that takes them; return the number of GPUs.

    Parameters
    ----------
    oracle, items, order, fleet, scratch
        As in `placer.kernels.packing.pack`.
    is_kept, is_shut
        (max_gpus,) bool: GPUs that keep their flags; GPUs that take nothing.
    num_gpus
        GPUs of `fleet` that are open.
    may_open
        Whether new GPUs may be opened.
    """
    num_terms = fleet.aggregates.shape[1]
    terms, trial = np.empty(num_terms), np.empty(num_terms)
    for position in range(order.shape[0]):
        row = order[position]
        own_class = items.rank_class[row]
        terms_of(items, row, terms)
        placed = False
        for gpu in np.argsort(-fleet.share[:num_gpus], kind="mergesort"):
            if is_shut[gpu] or fleet.share[gpu] + items.share[row] > FULL:
                continue
            joined(trial, fleet.aggregates[gpu], terms)
            choice = choice_with(oracle, fleet, gpu, is_kept[gpu], own_class, trial, scratch)
            if choice >= 0:
                take(fleet, items, row, gpu, max(fleet.rank_class[gpu], own_class), choice, trial)
                placed = True
                break
        if not placed and may_open:
            num_gpus = open_gpu(oracle, items, row, terms, fleet, num_gpus, scratch)
    return num_gpus
