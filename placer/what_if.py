"""What a change would ask for: GPUs from scratch, and the way there from the servers that run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from placer.errors import InvalidProblemError
from placer.replicas import place_replicated, re_place_replicated, replicas_running

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from placer.delta import PlacementDelta, RunningGpu
    from placer.placement import Placement, Unplaced
    from placer.problem import PlacementProblem
    from twin.domain import Workload


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """What is supposed; parts left out stay as they are.

    Attributes
    ----------
    scale_rates
        Factor on rates and their standard deviations, > 0.
    scaled_rows
        (k,) int64, rows of the workload whose rates it scales; None is all.
    added
        Adapters that come.
    lose_gpus
        Servers that fail and are not replaced: those with the most traffic, the worst case.
    max_loras
        Slots of every server.
    starvation_risk, max_ttft_ms
        In place of the problem's.

    Raises
    ------
    InvalidProblemError
        Naming ``lose_gpus`` where it is below 0.
    """

    scale_rates: float = 1.0
    scaled_rows: NDArray[np.int64] | None = None
    added: Workload | None = None
    lose_gpus: int = 0
    max_loras: int | None = None
    starvation_risk: float | None = None
    max_ttft_ms: float | None = None

    def __post_init__(self) -> None:
        if self.lose_gpus < 0:
            raise InvalidProblemError("lose_gpus", f"must be >= 0, got {self.lose_gpus}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Consequence:
    """What a change comes to.

    Attributes
    ----------
    problem
        The problem with the change.
    placement
        Its plan from scratch, with the fewest GPUs that were found; where an adapter has replicas its
        rows are those of `placer.replicas.Replicated`.
    unplaced
        The adapters without a GPU, by their row in `problem`.
    delta
        The plan near the servers that run, and how to get there.
    lost
        Servers that failed, by number.
    num_loads
        Loads that are no moves: of new adapters, of those of lost servers, of further replicas.
    """

    problem: PlacementProblem
    placement: Placement
    unplaced: tuple[Unplaced, ...]
    delta: PlacementDelta
    lost: tuple[int, ...]
    num_loads: int


def consequence(
    problem: PlacementProblem,
    current: tuple[RunningGpu, ...],
    change: Change,
    max_moves: int | None = None,
) -> Consequence:
    """Return what a change comes to.

    Parameters
    ----------
    problem
        The workload as it is, and how it is planned.
    current
        The servers that run, with the rows that each serves.
    change
        What is supposed.
    max_moves
        As in `placer.delta.re_place`.

    Raises
    ------
    InvalidProblemError, InvalidInputError
        Naming the field: of the change, or ``adapters[i].name`` of the workload with the change.
    """
    lost = _lost(problem, current, change.lose_gpus)
    changed = _changed(problem, change, len(current))
    left = tuple(gpu for gpu in current if gpu.gpu not in lost)
    delta, running = re_place_replicated(changed, left, max_moves)
    served = {(row, gpu.gpu) for gpu in left for row in gpu.rows}
    rows = {
        (row if running is None else int(running.origin[row]), gpu.gpu)
        for gpu in delta.placement.gpus
        for row in gpu.rows.tolist()
    }
    placement, found = place_replicated(changed)
    unplaced = placement.unplaced
    if found is not None:
        unplaced = tuple(replace(lack, row=int(found.origin[lack.row])) for lack in unplaced)
    return Consequence(
        problem=changed,
        placement=placement,
        unplaced=unplaced,
        delta=delta,
        lost=lost,
        num_loads=max(len(rows - served) - len(delta.moves), 0),
    )


def _changed(problem: PlacementProblem, change: Change, num_running: int) -> PlacementProblem:
    workload = problem.workload
    if change.scale_rates != 1.0:
        rates, errors = workload.rate_rps.copy(), workload.rate_rps_std.copy()
        rows = slice(None) if change.scaled_rows is None else change.scaled_rows
        rates[rows] *= change.scale_rates
        errors[rows] *= change.scale_rates
        workload = replace(workload, rate_rps=rates, rate_rps_std=errors)
    if change.added is not None:
        workload = workload.joined(change.added)
    max_gpus = problem.max_gpus
    if change.lose_gpus:
        left = num_running - change.lose_gpus
        max_gpus = left if max_gpus is None else min(left, max_gpus)
    return replace(
        problem,
        workload=workload,
        max_gpus=max_gpus,
        max_loras=problem.max_loras if change.max_loras is None else change.max_loras,
        max_ttft_ms=problem.max_ttft_ms if change.max_ttft_ms is None else change.max_ttft_ms,
        starvation_risk=(
            problem.starvation_risk if change.starvation_risk is None else change.starvation_risk
        ),
    )


def _lost(problem: PlacementProblem, current: tuple[RunningGpu, ...], count: int) -> tuple[int, ...]:
    """Return the numbers of the servers with the most traffic."""
    if count and count >= len(current):
        raise InvalidProblemError(
            "lose_gpus", f"must leave one of the {len(current)} GPUs that run, got {count}"
        )
    workload = problem.workload
    offered = workload.rate_rps * (workload.input_tokens_mean + workload.output_tokens_mean)
    offered = offered / replicas_running(problem, current)
    by_traffic = sorted(
        current, key=lambda gpu: (-float(offered[np.array(gpu.rows, np.int64)].sum()), gpu.gpu)
    )
    return tuple(sorted(gpu.gpu for gpu in by_traffic[:count]))
