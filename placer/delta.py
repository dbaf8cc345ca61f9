"""From the plan in force to a feasible one with few moves and fewer restarts.

Moving an adapter takes a second; another `max_loras` or `max_lora_rank` is a restart of the server and
takes minutes. So servers that run keep their flags as long as that can be: broken ones give adapters
away, the fewest that help, and only where that fails or costs more moves than a restart is worth do
they start anew. Healthy ones are touched only to take adapters, and stay healthy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from models.features import NUM_FEATURES
from placer import fleets, packing
from placer.errors import InvalidProblemError
from placer.improvement import copy_of
from placer.kernels.delta import place_kept
from placer.ranks import ACCEPTED_MAX_LORA_RANKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from placer.kernels.packing import Fleet
    from placer.packing import Tables
    from placer.placement import Placement
    from placer.problem import PlacementProblem

MOVES_A_RESTART_IS_WORTH = 60
"""A move takes about a second, a restart one to four minutes."""

EMPTYING_SHARE = 0.05
"""Of all adapters, that emptying a GPU may move where no `max_moves` is given."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunningGpu:
    """A server that runs.

    Attributes
    ----------
    gpu
        Its number in the plan in force.
    max_loras, max_lora_rank
        Its flags.
    rows
        Rows of the workload that it serves; adapters that the workload no longer has are left out.
    """

    gpu: int
    max_loras: int
    max_lora_rank: int
    rows: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.max_lora_rank not in ACCEPTED_MAX_LORA_RANKS:
            known = ", ".join(map(str, ACCEPTED_MAX_LORA_RANKS))
            raise InvalidProblemError(
                "current.gpus.max_lora_rank", f"must be one of {known}, got {self.max_lora_rank}"
            )


def running_of(placement: Placement, origin: NDArray[np.int64] | None = None) -> tuple[RunningGpu, ...]:
    """Return the servers of a plan, as they run once it is in force.

    Parameters
    ----------
    placement
        The plan.
    origin
        (num_rows,) int64, the adapter that each row of the plan is, where some have several rows.
    """
    return tuple(
        RunningGpu(
            gpu=gpu.gpu,
            max_loras=gpu.max_loras,
            max_lora_rank=gpu.max_lora_rank,
            rows=tuple((gpu.rows if origin is None else np.unique(origin[gpu.rows])).tolist()),
        )
        for gpu in placement.gpus
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """An adapter that changes its GPU; numbers are those of the plan in force where the GPU runs."""

    row: int
    source: int
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmended:
    """A GPU that is too full and stays so, and why."""

    gpu: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlacementDelta:
    """A plan and its difference from the one in force.

    Attributes
    ----------
    placement
        The plan; its GPUs carry the numbers of the plan in force, new ones the smallest free numbers.
    moves
        Adapters that change their GPU, never more than `max_moves`.
    restarts
        GPUs that run and start anew with other flags.
    opened, closed
        GPUs that are new; that are no longer needed.
    unmended
        GPUs that are too full and could not be mended within `max_moves` or `max_gpus`.
    """

    placement: Placement
    moves: tuple[Move, ...]
    restarts: tuple[int, ...]
    opened: tuple[int, ...]
    closed: tuple[int, ...]
    unmended: tuple[Unmended, ...]


class _State:
    """GPUs on the way from the plan in force to the next; positions are those of `current`."""

    def __init__(self, problem: PlacementProblem, current: tuple[RunningGpu, ...], budget: int) -> None:
        self.tables: Tables = packing.build_tables(problem, {gpu.max_loras for gpu in current})
        workload = problem.workload
        max_gpus = max(self.tables.max_gpus, len(current))
        size = min(max_gpus, len(current) + 2 * self.tables.bounds.best + 8)
        groups = [np.array(gpu.rows, dtype=np.int64) for gpu in current]
        self.fleet: Fleet = fleets.fleet_of(self.tables, groups, size)
        self.num_gpus = len(current)
        self.budget = budget
        self.home = self.fleet.gpu_of.copy()
        self.is_kept = np.zeros(size, dtype=np.bool_)
        self.is_shut = np.zeros(size, dtype=np.bool_)
        self.restarted: set[int] = set()
        self.unmended: dict[int, str] = {}
        is_candidate = np.zeros(workload.num_adapters, dtype=np.bool_)
        is_candidate[self.tables.candidates] = True
        self.is_candidate = is_candidate
        for position, gpu in enumerate(current):
            self._take_up(position, gpu)

    def _take_up(self, position: int, gpu: RunningGpu) -> None:
        flag_class = ACCEPTED_MAX_LORA_RANKS.index(gpu.max_lora_rank)
        usable = len(self.tables.oracle.slot_ranks)
        choice = fleets.choice_of(self.tables, flag_class, gpu.max_loras) if flag_class < usable else -1
        holds_all = self.fleet.rank_class[position] <= flag_class
        if choice >= 0 and holds_all:
            fleets.refresh(self.tables, self.fleet, position, flag_class)
            self.fleet.choice[position] = choice
            self.is_kept[position] = True
        elif len(gpu.rows):
            self._restart(position)

    def place(self, rows: NDArray[np.int64], *, may_open: bool) -> bool:
        """Place rows that have no GPU; False where one finds none, and then nothing has changed."""
        kept, kept_gpus = copy_of(self.fleet), self.num_gpus
        order = rows[np.argsort(-self.tables.items.utilisation[rows], kind="stable")]
        self.num_gpus = int(
            place_kept(
                self.tables.oracle,
                self.tables.items,
                order,
                self.is_kept,
                self.is_shut,
                self.num_gpus,
                may_open,
                self.fleet,
                np.empty(NUM_FEATURES, dtype=np.float32),
            )
        )
        if (self.fleet.gpu_of[rows] >= 0).all():
            return True
        self.fleet, self.num_gpus = kept, kept_gpus
        return False

    def is_healthy(self, gpu: int) -> bool:
        """Tell whether a GPU is accepted as it is."""
        if self.fleet.count[gpu] == 0:
            return True
        return fleets.risk_of(self.tables, self.fleet, gpu) <= self.tables.oracle.starvation_risk

    def mend(self, gpu: int) -> None:
        """Take the fewest adapters off a broken GPU that make it healthy; else start it anew."""
        kept, kept_gpus = copy_of(self.fleet), self.num_gpus
        leaving = self._fewest_leaving(gpu)
        moved = sum(self.home[row] == gpu for row in leaving)
        affordable = min(self.budget, MOVES_A_RESTART_IS_WORTH)
        if leaving and moved <= affordable:
            self.is_shut[gpu] = True
            if self.place(np.array(leaving, dtype=np.int64), may_open=True):
                self.budget -= moved
                self.is_shut[gpu] = False
                return
            self.is_shut[gpu] = False
        self.fleet, self.num_gpus = kept, kept_gpus
        if self._restart(gpu):
            return
        if leaving and moved <= self.budget:
            reason = "no GPU that is allowed takes what it would have to give away"
        else:
            reason = f"{moved} adapters would have to move, {self.budget} moves are left"
        self.unmended[gpu] = reason

    def _restart(self, gpu: int) -> bool:
        kept = self.fleet.choice[gpu], self.fleet.rank_class[gpu]
        fleets.refresh(self.tables, self.fleet, gpu)
        for start in (kept[0], len(self.tables.oracle.ladders[0]) // 2, 0):
            self.fleet.choice[gpu] = start
            if fleets.settle(self.tables, self.fleet, gpu):
                self.restarted.add(gpu)
                self.is_kept[gpu] = True
                return True
        self.fleet.choice[gpu], self.fleet.rank_class[gpu] = kept
        self.is_kept[gpu] = True
        return False

    def _fewest_leaving(self, gpu: int) -> list[int]:
        """Return adapters whose leaving makes the GPU healthy, and take them off; none where none helps."""
        leaving: list[int] = []
        rank_class = int(self.fleet.rank_class[gpu])
        while self.fleet.count[gpu] > 0 and not self.is_healthy(gpu):
            rows = fleets.rows_of(self.fleet, gpu)
            rows = rows[np.argsort(self.tables.items.utilisation[rows], kind="stable")]
            row = self._lightest_that_helps(gpu, rows, rank_class)
            leaving.append(row)
            self.fleet.gpu_of[row] = -1
            fleets.refresh(self.tables, self.fleet, gpu, rank_class)
        return leaving

    def _lightest_that_helps(self, gpu: int, rows: NDArray[np.int64], rank_class: int) -> int:
        """Return the lightest adapter whose leaving alone is enough, else the heaviest: by bisection."""
        low, high = 0, len(rows) - 1
        while low < high:
            middle = (low + high) // 2
            self.fleet.gpu_of[rows[middle]] = -1
            fleets.refresh(self.tables, self.fleet, gpu, rank_class)
            helps = self.is_healthy(gpu)
            self.fleet.gpu_of[rows[middle]] = gpu
            low, high = (low, middle) if helps else (middle + 1, high)
        fleets.refresh(self.tables, self.fleet, gpu, rank_class)
        return int(rows[low])

    def empty_one(self, allowed: int) -> None:
        """Move every adapter off the GPU with the fewest, where the others take them as they run."""
        used = [gpu for gpu in range(self.num_gpus) if self.fleet.count[gpu] > 0]
        for gpu in sorted(used, key=lambda gpu: (self.fleet.count[gpu], gpu))[:3]:
            rows = fleets.rows_of(self.fleet, gpu)
            moved = int((self.home[rows] >= 0).sum())
            if len(used) < 2 or moved > min(allowed, self.budget) or gpu in self.unmended:  # noqa: PLR2004
                continue
            kept = copy_of(self.fleet)
            self.fleet.gpu_of[rows] = -1
            fleets.refresh(self.tables, self.fleet, gpu)
            self.is_shut[gpu] = True
            if self.place(rows, may_open=False):
                self.budget -= moved
                return
            self.is_shut[gpu] = False
            self.fleet = kept


def re_place(
    problem: PlacementProblem,
    current: tuple[RunningGpu, ...],
    max_moves: int | None = None,
    *,
    origin: NDArray[np.int64] | None = None,
) -> PlacementDelta:
    """Return a plan near the one in force: broken GPUs are mended, new adapters placed, one GPU emptied.

    Parameters
    ----------
    problem
        The workload as it is now.
    current
        The servers that run, with the rows of the workload that each serves.
    max_moves
        Adapters that may change their GPU, a hard limit; None is no limit, but then emptying a GPU
        moves at most `EMPTYING_SHARE` of all.
    origin
        (num_adapters,) int64, rows with the same number are one adapter: those of them that no GPU
        serves yet all get a GPU or none does. None where each row is an adapter.

    Raises
    ------
    InvalidProblemError
        Where a GPU or a row is named twice, or a row is none of the workload's.
    """
    count = problem.workload.num_adapters
    _check_current(current, count)
    state = _State(problem, current, count if max_moves is None else max_moves)
    for gpu in range(len(current)):
        if not state.is_healthy(gpu):
            state.mend(gpu)
    _place_new(state, np.arange(count) if origin is None else origin)
    state.empty_one(int(EMPTYING_SHARE * count) if max_moves is None else state.budget)
    return _delta(problem, current, state)


def _place_new(state: _State, origin: NDArray[np.int64]) -> None:
    """Place what no GPU serves yet, one adapter at a time, so that one that fits nowhere harms no other."""
    new = np.flatnonzero((state.fleet.gpu_of < 0) & state.is_candidate)
    if len(new) and not state.place(new, may_open=True):
        order = new[np.argsort(-state.tables.items.utilisation[new], kind="stable")]
        for adapter in dict.fromkeys(origin[order].tolist()):
            rows = order[origin[order] == adapter]
            if not state.place(rows, may_open=True):
                state.fleet.gpu_of[rows] = place_alone_code(state, int(rows[0]))


def place_alone_code(state: _State, row: int) -> int:
    """Return why a row has no GPU, as the packer says it of a fleet with room."""
    fleet = packing.empty_fleet(len(state.fleet.gpu_of), 1)
    fleets.place_rows(state.tables, fleet, 0, [row])
    return int(fleet.gpu_of[row]) if fleet.gpu_of[row] < 0 else -1


def _check_current(current: tuple[RunningGpu, ...], num_adapters: int) -> None:
    numbers = [gpu.gpu for gpu in current]
    if len(set(numbers)) < len(numbers):
        raise InvalidProblemError("current.gpus", "must name each gpu once")
    rows = [row for gpu in current for row in gpu.rows]
    if len(set(rows)) < len(rows):
        raise InvalidProblemError("current.gpus", "must name each adapter on one gpu only")
    unknown = next((row for row in rows if not 0 <= row < num_adapters), None)
    if unknown is not None:
        raise InvalidProblemError("current.gpus.rows", f"must be in 0..{num_adapters - 1}, got {unknown}")


def _delta(problem: PlacementProblem, current: tuple[RunningGpu, ...], state: _State) -> PlacementDelta:
    fleet = state.fleet
    used = np.flatnonzero(fleet.count[: state.num_gpus] > 0)
    numbers = _numbers(current, state.num_gpus)
    compact = packing.empty_fleet(len(fleet.gpu_of), max(len(used), 1))
    compact.gpu_of[:] = np.minimum(fleet.gpu_of, -1)
    for position, gpu in enumerate(used):
        compact.gpu_of[fleet.gpu_of == gpu] = position
        for name in ("rank_class", "choice", "count", "share", "aggregates"):
            getattr(compact, name)[position] = getattr(fleet, name)[gpu]
    plan = packing.assemble(
        problem,
        state.tables,
        packing.Packing(fleet=compact, num_gpus=len(used)),
        state.tables.bounds,
        choose=False,
    )
    plan = replace(
        plan,
        gpus=tuple(replace(gpu, gpu=numbers[int(place)]) for gpu, place in zip(plan.gpus, used, strict=True)),
    )
    moved = np.flatnonzero((state.home >= 0) & (fleet.gpu_of >= 0) & (state.home != fleet.gpu_of))
    kept = set(used.tolist())
    return PlacementDelta(
        placement=plan,
        moves=tuple(
            Move(row=row, source=numbers[int(state.home[row])], target=numbers[int(fleet.gpu_of[row])])
            for row in moved.tolist()
        ),
        restarts=tuple(
            sorted(
                current[gpu].gpu
                for gpu in state.restarted
                if gpu in kept and _differs(current, plan, numbers, gpu)
            )
        ),
        opened=tuple(numbers[gpu] for gpu in used.tolist() if gpu >= len(current)),
        closed=tuple(current[gpu].gpu for gpu in range(len(current)) if gpu not in kept),
        unmended=tuple(
            Unmended(gpu=numbers[gpu], reason=reason) for gpu, reason in sorted(state.unmended.items())
        ),
    )


def _differs(current: tuple[RunningGpu, ...], plan: Placement, numbers: list[int], position: int) -> bool:
    planned = next(gpu for gpu in plan.gpus if gpu.gpu == numbers[position])
    running = current[position]
    return (planned.max_loras, planned.max_lora_rank) != (running.max_loras, running.max_lora_rank)


def _numbers(current: tuple[RunningGpu, ...], num_gpus: int) -> list[int]:
    """Return each position's number: those that run keep theirs, new ones take the smallest free."""
    taken = {gpu.gpu for gpu in current}
    numbers = [gpu.gpu for gpu in current]
    candidate = 0
    while len(numbers) < num_gpus:
        if candidate not in taken:
            numbers.append(candidate)
        candidate += 1
    return numbers
