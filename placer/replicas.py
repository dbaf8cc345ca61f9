"""Adapters that no single GPU can carry, split into replicas: rows with a part of the rate each.

A replica is an adapter like any other to all that packs, verifies and re-places; only who reads the plan
needs to know which rows are one adapter. Requests go to a replica at random, by its share.

An adapter is served whole or not at all: where a plan has no room for one of its replicas, it has none of
them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from models.features import traffic_columns
from placer.delta import re_place
from placer.packing import (
    VARIANTS,
    build_tables,
    finished,
    first_packing,
    place,
    run,
    unplaced_of,
)
from placer.risk import least_allowance

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from placer.delta import PlacementDelta, RunningGpu
    from placer.packing import Packing, Tables
    from placer.placement import Placement, Unplaced
    from placer.problem import PlacementProblem

TOO_HEAVY = frozenset({"overload", "starvation_risk", "max_ttft_ms"})
"""Codes of adapters that a GPU alone does not carry."""

MAX_SINGLE_ROUNDS = 16
"""Times that one partly placed adapter is left out before all that are not whole are."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replicated:
    """A problem in which heavy adapters are several rows.

    Attributes
    ----------
    whole
        The problem with a row for each adapter.
    problem
        The problem with a row for each replica.
    origin
        (num_rows,) int64, each row's adapter in `whole`; ascending.
    share
        (num_rows,) float64, its part of the adapter's traffic.
    """

    whole: PlacementProblem
    problem: PlacementProblem
    origin: NDArray[np.int64]
    share: NDArray[np.float64]

    def num_without(self, is_placed: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return how many rows of each adapter have no GPU, (num_adapters,) int64.

        Parameters
        ----------
        is_placed
            (num_rows,) bool, the rows that have one.
        """
        return np.bincount(self.origin[~is_placed], minlength=self.origin[-1] + 1)


def replicated(problem: PlacementProblem, counts: NDArray[np.int64]) -> Replicated:
    """Return the problem with so many replicas of each adapter, equal parts of its traffic each.

    Parameters
    ----------
    problem
        What is to be placed.
    counts
        (num_adapters,) int64 >= 1.
    """
    origin = np.repeat(np.arange(len(counts)), counts)
    return Replicated(
        whole=problem,
        problem=replace(problem, workload=problem.workload.divided(counts)),
        origin=origin,
        share=1.0 / counts[origin],
    )


def replicas_needed(problem: PlacementProblem, unplaced: Iterable[Unplaced]) -> NDArray[np.int64]:
    """Return how many replicas each adapter needs so that a GPU alone carries one.

    Parameters
    ----------
    problem
        What is to be placed.
    unplaced
        What got no GPU: those that are too heavy are split.

    Returns
    -------
    (num_adapters,) int64: 1 for all others, and for those that no number of replicas helps.
    """
    return _parts_of(problem, [adapter.row for adapter in unplaced if adapter.code in TOO_HEAVY])


def _parts_of(problem: PlacementProblem, rows: Sequence[int]) -> NDArray[np.int64]:
    """Return the fewest parts of each of these rows, 1 for the others; equal traffic is asked about once."""
    counts = np.ones(problem.workload.num_adapters, dtype=np.int64)
    traffic = np.column_stack([traffic_columns(problem.workload), problem.workload.rate_rps_std])
    schedules = problem.workload.rate_schedules
    known: dict[tuple[bytes, int], int] = {}
    for row in rows:
        kind = (traffic[row].tobytes(), id(schedules[row]) if schedules else 0)
        if kind not in known:
            known[kind] = _fewest(problem, row)
        counts[row] = known[kind]
    return counts


def _fewest(problem: PlacementProblem, row: int) -> int:
    """Return the fewest equal parts of an adapter that a GPU carries, 1 where none is found."""
    alone = replace(
        problem,
        workload=problem.workload.subset(np.array([row])),
        objective="min_gpus",
        max_gpus=None,
        num_trials=0,
        # What one GPU of the largest fleet is allowed: each part must fit in the plan too.
        starvation_risk=least_allowance(problem),
    )
    part = alone.workload
    largest_fleet = 2 * problem.max_replicas * problem.workload.num_adapters

    def is_carried(count: int) -> bool:
        one = part.divided(np.array([count])).subset(np.array([0]))
        tables = build_tables(replace(alone, workload=one), spread_over=largest_fleet)
        return bool((run(tables, VARIANTS[0]).fleet.gpu_of >= 0).all())

    # A first token that comes too late on a GPU with next to no load comes no earlier with more.
    if problem.max_ttft_ms is not None and not is_carried(problem.max_replicas):
        return 1
    return next(filter(is_carried, range(1, problem.max_replicas + 1)), 1)


def place_replicated(problem: PlacementProblem) -> tuple[Placement, Replicated | None]:
    """Return the plan of a problem, with replicas of the adapters that no single GPU carries.

    Where there are none it is `placer.packing.place`. Bounds and reasons are those of the problem
    with the replicas as rows.
    """
    if problem.max_replicas == 1:
        return place(problem), None
    tables = build_tables(problem)
    packing = first_packing(problem, tables)
    counts = replicas_needed(problem, unplaced_of(problem, tables, packing))
    if (counts == 1).all():
        return finished(problem, tables, packing), None
    found = replicated(problem, counts)
    tables = build_tables(found.problem)
    placement = finished(found.problem, tables, _whole_packing(found, tables))
    return _explained(found, placement), found


def _whole_packing(found: Replicated, tables: Tables) -> Packing:
    """Return a first packing that leaves no adapter with some of its rows only.

    Adapters that it has no room for are left out and the others packed again: the heaviest that is
    partly placed, and after a few rounds all that are not whole.
    """
    num_rows = np.bincount(found.origin)
    packed = tables
    for round_ in range(len(num_rows) + 1):
        packing = first_packing(found.problem, packed)
        without = found.num_without(packing.fleet.gpu_of >= 0)
        partly = np.flatnonzero((without > 0) & (without < num_rows))
        if len(partly) == 0:
            return packing
        if round_ < MAX_SINGLE_ROUNDS:
            load = np.bincount(found.origin, tables.items.utilisation)
            left_out = partly[[int(np.argmax(load[partly]))]]
        else:
            left_out = np.flatnonzero((without > 0) & (num_rows > 1))
        stays = ~np.isin(found.origin[packed.candidates], left_out)
        packed = replace(packed, candidates=packed.candidates[stays])
    raise AssertionError("each round leaves out one adapter at least")


def _explained(found: Replicated, placement: Placement) -> Placement:
    """Return the placement with a reason that speaks of all replicas where these have no room together."""
    if placement.feasible:
        return placement
    num_rows, most = np.bincount(found.origin), found.problem.max_gpus
    unplaced = []
    for lack in placement.unplaced:
        parts = int(num_rows[found.origin[lack.row]])
        if parts > 1 and lack.code == "max_gpus":
            gpus = "1 GPU has" if most == 1 else "the GPUs have" if most is None else f"{most} GPUs have"
            reason = f"no GPU alone carries it, and {gpus} no room for all its {parts} replicas"
            lack = replace(lack, reason=reason)  # noqa: PLW2901
        unplaced.append(lack)
    return replace(placement, unplaced=tuple(unplaced))


def re_place_replicated(
    problem: PlacementProblem, current: tuple[RunningGpu, ...], max_moves: int | None = None
) -> tuple[PlacementDelta, Replicated | None]:
    """Return a plan near the one in force, in which an adapter may be on several GPUs.

    An adapter that several of them serve keeps as many replicas, with equal parts of its traffic; one
    that has become too heavy gets more, where there is room for all of them: else it stays as it runs,
    on GPUs that are not mended. Parameters and errors as in `placer.delta.re_place`.
    """
    if problem.max_replicas == 1:
        return re_place(problem, current, max_moves), None
    running = replicas_running(problem, current)
    replicas, delta = _re_placed(problem, current, running, max_moves)
    within = problem if replicas is None else replicas.problem
    needed = np.maximum(replicas_needed(within, delta.placement.unplaced), _needed_to_mend(within, delta))
    most = np.ones(len(running), dtype=np.int64)
    np.maximum.at(most, np.arange(len(running)) if replicas is None else replicas.origin, needed)
    while (most > 1).any():
        more, found = _re_placed(problem, current, running * most, max_moves)
        assert more is not None, "some adapter has several rows"
        is_placed = np.ones(len(more.origin), dtype=np.bool_)
        is_placed[[lack.row for lack in found.placement.unplaced]] = False
        without = more.num_without(is_placed)
        partly = (without > 0) & (without < running * most)
        if not partly.any():
            return replace(found, placement=_explained(more, found.placement)), more
        most[partly] = 1
    return delta, replicas


def _needed_to_mend(problem: PlacementProblem, delta: PlacementDelta) -> NDArray[np.int64]:
    """Return the replicas of adapters that are too heavy for the GPU they run on, as `replicas_needed`."""
    broken = {gpu.gpu for gpu in delta.unmended}
    return _parts_of(problem, [int(gpu.rows[0]) for gpu in delta.placement.gpus if gpu.gpu in broken])


def replicas_running(problem: PlacementProblem, current: tuple[RunningGpu, ...]) -> NDArray[np.int64]:
    """Return on how many GPUs each adapter is, (num_adapters,) int64, at least 1."""
    counts = np.zeros(problem.workload.num_adapters, dtype=np.int64)
    for gpu in current:
        counts[list(set(gpu.rows))] += 1
    return np.maximum(counts, 1)


def _re_placed(
    problem: PlacementProblem,
    current: tuple[RunningGpu, ...],
    counts: NDArray[np.int64],
    max_moves: int | None,
) -> tuple[Replicated | None, PlacementDelta]:
    if (counts == 1).all():
        return None, re_place(problem, current, max_moves)
    found = replicated(problem, counts)
    following = np.concatenate([[0], np.cumsum(counts)[:-1]])
    running = []
    for gpu in current:
        rows = np.array(gpu.rows, dtype=np.int64)
        running.append(replace(gpu, rows=tuple(following[rows].tolist())))
        following[rows] += 1
    return found, re_place(found.problem, tuple(running), max_moves, origin=found.origin)
