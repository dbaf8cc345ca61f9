"""Spread adapters evenly over a fixed number of GPUs: the longest-processing-time rule, with an oracle."""

import numpy as np
from numba import njit

from placer.kernels.acceptance import accepted_choice
from placer.kernels.packing import FULL, open_gpu, take, terms_of
from placer.kernels.rates import joined


@njit(cache=True, nogil=True)
def balance(oracle, items, order, fleet, scratch):
    """Open a GPU for each of the first adapters; give each further one to the least loaded that takes it.

    Parameters
    ----------
    oracle, items, scratch
        As in `placer.kernels.packing.pack`.
    order
        (k,) int64, rows in the order they are placed.
    fleet
        `Fleet` without adapters; all its GPUs are used.

    Returns
    -------
    num_gpus
        GPUs in use; -1 where some adapter is taken by none: the fleet is then of no use.
    """
    num_terms, most = fleet.aggregates.shape[1], fleet.count.shape[0]
    trial, terms = np.empty(num_terms), np.empty(num_terms)
    load, asked_for = np.zeros(most), np.full(most, -1)
    num_gpus = 0
    for position in range(order.shape[0]):
        row = order[position]
        terms_of(items, row, terms)
        if num_gpus < most:
            opened = open_gpu(oracle, items, row, terms, fleet, num_gpus, scratch)
            if opened == num_gpus:
                return -1
            load[num_gpus] = items.utilisation[row]
            num_gpus = opened
            continue
        is_placed = False
        for _ in range(most):
            gpu = -1
            for other in range(most):
                if asked_for[other] != position and (gpu < 0 or load[other] < load[gpu]):
                    gpu = other
            asked_for[gpu] = position
            if fleet.share[gpu] + items.share[row] > FULL:
                continue
            joint_class = max(fleet.rank_class[gpu], items.rank_class[row])
            joined(trial, fleet.aggregates[gpu], terms)
            choice = accepted_choice(oracle, trial, joint_class, fleet.choice[gpu], scratch)
            if choice >= 0:
                take(fleet, items, row, gpu, joint_class, choice, trial)
                load[gpu] += items.utilisation[row]
                is_placed = True
                break
        if not is_placed:
            return -1
    return num_gpus
