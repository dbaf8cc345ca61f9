"""Fewer GPUs than the first packing: empty a GPU into the others, and repack a few GPUs at a time.

The search is a large neighbourhood search: a few GPUs, the least loaded among them, are dissolved and
their adapters packed again in another order, with the other GPUs open. What is not worse is kept. A
budget of adapters placed anew ends it, not a clock, and its choices are drawn with a fixed seed: the
same problem gives the same plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.features import NUM_FEATURES
from placer.kernels import improvement, packing
from placer.kernels.packing import NO_GPU_LEFT, Fleet

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from placer.kernels.acceptance import Oracle
    from placer.kernels.packing import Items

MAX_TARGETS = 4
"""GPUs that a round of elimination tries to empty before it gives up."""

TRIALS_OF_ELIMINATION = 4_000
DISSOLVED = (2, 3, 3, 4, 5)
"""GPUs dissolved in one round, drawn evenly."""


def search(
    oracle: Oracle, items: Items, fleet: Fleet, num_gpus: int, *, wanted: int, budget: int
) -> tuple[Fleet, int]:
    """Return a fleet with every placed adapter placed and no more GPUs.

    Parameters
    ----------
    oracle, items, fleet, num_gpus
        What decides, what is placed, and a packing without adapters that found no GPU left.
    wanted
        GPUs below which the search need not go: a lower bound.
    budget
        Adapters that may be placed anew, about.
    """
    rng = np.random.default_rng(0)
    fleet = copy_of(fleet)
    num_gpus = _eliminate(oracle, items, fleet, num_gpus, wanted)
    least = _least_load(fleet, num_gpus)
    while budget > 0 and num_gpus > max(wanted, 1):
        trial = copy_of(fleet)
        rows, kept = _dissolve(trial, num_gpus, rng)
        budget -= len(rows)
        again = packing.pack(
            oracle,
            items,
            _some_order(items, rows, rng),
            bool(rng.integers(2)),
            kept,
            trial,
            np.empty(NUM_FEATURES, dtype=np.float32),
        )
        if (trial.gpu_of[rows] < 0).any() or again > num_gpus:
            continue
        if again < num_gpus:
            num_gpus = _eliminate(oracle, items, trial, again, wanted)
            fleet, least = trial, _least_load(trial, num_gpus)
        elif _least_load(trial, again) <= least:
            fleet, least = trial, _least_load(trial, again)
            if rng.integers(8) == 0:
                num_gpus = _eliminate(oracle, items, fleet, num_gpus, wanted)
                least = _least_load(fleet, num_gpus)
    return fleet, num_gpus


def copy_of(fleet: Fleet) -> Fleet:
    """Return a fleet that shares nothing with the given one."""
    return Fleet(*(array.copy() for array in fleet))


def _eliminate(oracle: Oracle, items: Items, fleet: Fleet, num_gpus: int, wanted: int) -> int:
    scratch = np.empty(NUM_FEATURES, dtype=np.float32)
    return improvement.eliminate(
        oracle, items, fleet, num_gpus, wanted, TRIALS_OF_ELIMINATION, MAX_TARGETS, scratch
    )[0]


def _least_load(fleet: Fleet, num_gpus: int) -> float:
    return float(fleet.share[:num_gpus].min(initial=np.inf))


def _dissolve(fleet: Fleet, num_gpus: int, rng: Generator) -> tuple[NDArray[np.int64], int]:
    """Take the adapters off some GPUs, the least loaded among them; return the rows and the GPUs kept."""
    count = min(int(rng.choice(DISSOLVED)), num_gpus)
    order = np.argsort(fleet.share[:num_gpus], kind="stable")
    gone = np.concatenate([order[:1], rng.choice(order[1:], count - 1, replace=False)])
    is_gone = np.zeros(num_gpus, dtype=np.bool_)
    is_gone[gone] = True
    left = np.flatnonzero(~is_gone)
    number = np.full(num_gpus, -1, dtype=np.int64)
    number[left] = np.arange(len(left))
    rows = np.flatnonzero(np.isin(fleet.gpu_of, gone))
    placed = fleet.gpu_of >= 0
    fleet.gpu_of[placed] = number[fleet.gpu_of[placed]]
    fleet.gpu_of[rows] = NO_GPU_LEFT
    for array in (fleet.rank_class, fleet.choice, fleet.count, fleet.share, fleet.aggregates):
        array[: len(left)] = array[left]
        array[len(left) :] = 0
    return rows, len(left)


def _some_order(items: Items, rows: NDArray[np.int64], rng: Generator) -> NDArray[np.int64]:
    """Return rows by load, by share, or by share for the load, after rank or not, a little shuffled."""
    load, share = items.utilisation[rows], items.share[rows]
    keys = (-load, -share, share / load, -share / load)
    key = keys[int(rng.integers(len(keys)))]
    shuffled = key * rng.uniform(0.8, 1.25, len(rows)) if rng.integers(2) else key
    rank = -items.rank_class[rows] if rng.integers(2) else np.zeros(len(rows), dtype=np.int64)
    return rows[np.lexsort((shuffled, rank))]
