"""GPUs between plans: a plan taken up again, changed, and written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.features import NUM_FEATURES
from placer.kernels import packing as kernel
from placer.kernels.acceptance import accepted_choice, planned_risk_of
from placer.packing import empty_fleet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from placer.packing import Tables


def fleet_of(tables: Tables, groups: Sequence[NDArray[np.int64]], max_gpus: int) -> kernel.Fleet:
    """Return GPUs that hold these groups of rows, each with its smallest slot rank and first `max_loras`."""
    fleet = empty_fleet(len(tables.items.share), max(max_gpus, len(groups)))
    for gpu, rows in enumerate(groups):
        fleet.gpu_of[rows] = gpu
        refresh(tables, fleet, gpu)
    return fleet


def rows_of(fleet: kernel.Fleet, gpu: int) -> NDArray[np.int64]:
    """Return a GPU's adapters, ascending."""
    return np.flatnonzero(fleet.gpu_of == gpu)


def refresh(tables: Tables, fleet: kernel.Fleet, gpu: int, least_class: int = 0) -> None:
    """Make a GPU's state anew from `gpu_of`.

    Parameters
    ----------
    tables, fleet, gpu
        What is placed, and which GPU.
    least_class
        Slot rank that the GPU keeps, as an index, where its adapters need less.
    """
    rows = rows_of(fleet, gpu)
    starts = np.array([0, len(rows)])
    one = kernel.Fleet(
        gpu_of=fleet.gpu_of,
        rank_class=fleet.rank_class[gpu : gpu + 1],
        choice=fleet.choice[gpu : gpu + 1],
        count=fleet.count[gpu : gpu + 1],
        share=fleet.share[gpu : gpu + 1],
        aggregates=fleet.aggregates[gpu : gpu + 1],
    )
    kernel.restate(tables.items, rows, starts, one)
    fleet.count[gpu] = len(rows)
    fleet.share[gpu] = tables.items.share[rows].sum()
    fleet.rank_class[gpu] = max(int(tables.items.rank_class[rows].max(initial=0)), least_class)


def choice_of(tables: Tables, rank_class: int, max_loras: int) -> int:
    """Return the ladder's index of a `max_loras`, -1 where that does not start or is not known."""
    found = np.flatnonzero(tables.oracle.ladders[rank_class] == max_loras)
    return int(found[0]) if len(found) else -1


def risk_of(tables: Tables, fleet: kernel.Fleet, gpu: int) -> float:
    """Return a GPU's probability of starvation as it is, above 1 where the physics refuse."""
    rank_class = fleet.rank_class[gpu]
    return float(
        planned_risk_of(
            tables.oracle,
            fleet.aggregates[gpu],
            tables.oracle.ladders[rank_class, fleet.choice[gpu]],
            tables.oracle.slot_ranks[rank_class],
            np.empty(NUM_FEATURES, dtype=np.float32),
        )
    )


def features_of_gpus(tables: Tables, fleet: kernel.Fleet, num_gpus: int) -> NDArray[np.float32]:
    """Return the features of each GPU as it is, (num_gpus, NUM_FEATURES) float32."""
    features = np.empty((num_gpus, NUM_FEATURES), dtype=np.float32)
    kernel.describe(tables.oracle, fleet, num_gpus, features, np.empty((num_gpus, 5)))
    return features


def settle(tables: Tables, fleet: kernel.Fleet, gpu: int) -> bool:
    """Give a GPU the accepted `max_loras` nearest to its present one; False where none is."""
    choice = accepted_choice(
        tables.oracle,
        fleet.aggregates[gpu],
        fleet.rank_class[gpu],
        fleet.choice[gpu],
        np.empty(NUM_FEATURES, dtype=np.float32),
    )
    if choice >= 0:
        fleet.choice[gpu] = choice
    return choice >= 0


def place_rows(
    tables: Tables, fleet: kernel.Fleet, num_gpus: int, rows: Iterable[int] | NDArray[np.int64]
) -> int:
    """Place rows, the heaviest first, on open GPUs and then on new ones; return the number of GPUs."""
    order = np.asarray(list(rows), dtype=np.int64)
    order = order[np.argsort(-tables.items.utilisation[order], kind="stable")]
    scratch = np.empty(NUM_FEATURES, dtype=np.float32)
    return int(kernel.pack(tables.oracle, tables.items, order, False, num_gpus, fleet, scratch))  # noqa: FBT003
