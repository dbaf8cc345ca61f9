"""What one GPU may be: slots that fit in memory, and nothing the surrogate has not seen.

Memory comes first: a `max_loras` that leaves the KV cache too small for one longest request is no
candidate, whatever the trees would say of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.kernels import features as feature
from placer.ranks import ACCEPTED_MAX_LORA_RANKS
from twin.memory import feasible_max_loras

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from placer.problem import PlacementProblem

MAX_LORAS_LADDER = (
    *(1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 28, 32, 36, 40, 44, 48, 56, 64, 72, 80, 88, 96),
    *(112, 128, 144, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024),
)
"""Values of `max_loras` that a plan may choose. Ten slots of rank 32 take 3 % of Llama's KV cache."""

QUIET_FACTOR = 2
"""A quiet GPU (`Margins.quiet_share`) may hold so many times the adapters of the surrogate's training."""


def known_adapters_per_gpu(problem: PlacementProblem) -> int:
    """Return the most adapters that one GPU of the surrogate's training served."""
    return max(int(problem.surrogate.ranges[feature.NUM_ADAPTERS, 1]), 1)


def max_adapters_per_gpu(problem: PlacementProblem) -> int:
    """Return the most adapters that one GPU may hold: beyond those of training only if it is quiet."""
    return QUIET_FACTOR * known_adapters_per_gpu(problem)


def usable_slot_ranks(problem: PlacementProblem) -> tuple[int, ...]:
    """Return the `max_lora_rank` values that the calibration knows, ascending."""
    known = problem.calibration.max_known_rank
    return tuple(rank for rank in ACCEPTED_MAX_LORA_RANKS if rank <= known)


def max_loras_ladders(problem: PlacementProblem, also: Iterable[int] = ()) -> NDArray[np.int64]:
    """Return the feasible values of `max_loras` for each usable slot rank.

    Parameters
    ----------
    problem
        Whose calibration and surrogate limit them.
    also
        Values beside the ladder's; none where the problem fixes `max_loras`.

    Returns
    -------
    (num_slot_ranks, k) int64: each row ascending, padded with 0. The surrogate's
    training range cuts both ends.
    """
    least, greatest = problem.surrogate.ranges[feature.MAX_LORAS]
    known = {*MAX_LORAS_LADDER, *also} if problem.max_loras is None else {problem.max_loras}
    values = sorted(known)
    ladder = np.array([value for value in values if least <= value <= greatest], dtype=np.int64)
    ranks = usable_slot_ranks(problem)
    ladders = np.zeros((len(ranks), len(ladder)), dtype=np.int64)
    for row, rank in enumerate(ranks):
        most = feasible_max_loras(problem.calibration, rank, problem.max_model_len)
        feasible = ladder[ladder <= most]
        ladders[row, : len(feasible)] = feasible
    return ladders
