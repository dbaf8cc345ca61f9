"""Check a plan in the twin, every GPU of it served for an hour, and mend what starves there."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from models.kernels.features import RHO
from placer import fleets, packing
from placer.bounds import LowerBounds
from placer.explain import server_config
from placer.improvement import copy_of
from twin.simulate import simulate

if TYPE_CHECKING:
    from placer.kernels.packing import Fleet
    from placer.packing import Tables
    from placer.placement import GpuPlan, Placement
    from placer.problem import PlacementProblem
    from twin.domain import SimulationReport

HORIZON_S = 3600.0
"""The window of a replay, as long as that of the measured runs."""

MAX_ROUNDS = 6
"""Times that a plan is changed and replayed at most."""

SHED_SHARE = 0.06
"""Of its load that a starved GPU gives away beyond what it could not serve."""

SHUT = 2.0
"""As the share of a GPU: it takes nothing more."""

Status = Literal["verified", "starved", "slow", "incomplete", "no_gpus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """One change to a plan that starved in the twin.

    Attributes
    ----------
    gpu
        Which GPU starved.
    action
        ``moved``: adapters went to GPUs that were open; ``opened``: at least one went to a new GPU.
    adapters
        How many moved.
    """

    gpu: int
    action: Literal["moved", "opened"]
    adapters: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verification:
    """A plan as it is after its replay and repairs.

    Attributes
    ----------
    placement
        The plan, changed where it had to be.
    reports
        What each GPU did in the twin, in the plan's order; None where there was no time to ask.
    repairs
        What was changed, in order.
    max_ttft_ms
        The problem's limit of a GPU's mean TTFT, if it has one.
    """

    placement: Placement
    reports: tuple[SimulationReport | None, ...]
    repairs: tuple[Repair, ...]
    max_ttft_ms: float | None = None

    @property
    def status(self) -> Status:
        """``verified`` only where every GPU was replayed as it is now, none starved and none was ``slow``.

        A slow one keeps up with its load, and its mean TTFT is above `max_ttft_ms`.
        """
        if not self.reports:
            return "no_gpus"
        known = [report for report in self.reports if report is not None]
        if any(report.starved for report in known):
            return "starved"
        if any(is_slow(report, self.max_ttft_ms) for report in known):
            return "slow"
        return "incomplete" if any(report is None for report in self.reports) else "verified"


def is_slow(report: SimulationReport, max_ttft_ms: float | None) -> bool:
    """Tell whether a replayed server's mean TTFT is above a limit; never where there is none."""
    return max_ttft_ms is not None and report.ttft.mean_ms > max_ttft_ms


def replay(
    placement: Placement,
    problem: PlacementProblem,
    *,
    seed: int = 0,
    horizon_s: float = HORIZON_S,
    max_workers: int | None = None,
) -> tuple[SimulationReport, ...]:
    """Return what each GPU of the plan does in the twin, in the plan's order.

    The engine's kernel releases the interpreter lock, so threads run side by side. Same arguments,
    same reports, whatever the number of threads.

    Parameters
    ----------
    placement, problem
        A plan, and what it was made for.
    seed
        Of arrivals and lengths; every GPU draws its own from it.
    horizon_s
        The window of each run, seconds.
    max_workers
        Threads; None leaves the number to the machine.
    """
    with ThreadPoolExecutor(max_workers=max_workers) as pool:
        return tuple(pool.map(lambda gpu: _run(gpu, problem, seed=seed, horizon_s=horizon_s), placement.gpus))


def verify(
    placement: Placement,
    problem: PlacementProblem,
    *,
    seed: int = 0,
    horizon_s: float = HORIZON_S,
    max_workers: int | None = None,
    deadline_s: float | None = None,
) -> Verification:
    """Replay a plan, mend what starves or is slow, and replay what was changed, until nothing does.

    A GPU that starves, or whose mean TTFT is above the problem's limit, gives adapters away: to open GPUs
    that then carry less load for their capacity than any that failed, else to new ones as far as
    `max_gpus` allows. It keeps its `max_loras`.
    Without a deadline the same arguments give the same plan and reports.

    Parameters
    ----------
    placement, problem, seed, horizon_s, max_workers
        As in `replay`.
    deadline_s
        No replay begins later than this after the call.
    """
    until_s = math.inf if deadline_s is None else time.monotonic() + deadline_s
    known: dict[tuple[int, int, int, bytes], SimulationReport] = {}
    repairs: list[Repair] = []
    reports: tuple[SimulationReport | None, ...] = ()
    for round_ in range(MAX_ROUNDS):
        reports = _replay_new(placement, problem, known, (seed, horizon_s, max_workers, until_s))
        failing = [
            gpu
            for gpu, report in enumerate(reports)
            if report is not None
            and (report.starved or is_slow(report, problem.max_ttft_ms))
            and len(placement.gpus[gpu].rows) > 1
        ]
        if not failing or round_ + 1 == MAX_ROUNDS or time.monotonic() > until_s:
            break
        changed, done = _mend(placement, problem, failing, reports)
        if not done:
            break
        placement = changed
        repairs += done
    return Verification(
        placement=placement, reports=reports, repairs=tuple(repairs), max_ttft_ms=problem.max_ttft_ms
    )


def _run(gpu: GpuPlan, problem: PlacementProblem, *, seed: int, horizon_s: float) -> SimulationReport:
    return simulate(
        problem.workload.subset(gpu.rows),
        server_config(gpu, problem),
        problem.calibration,
        horizon_s=horizon_s,
        seed=_seed_of(seed, gpu.gpu),
    )


def _replay_new(
    placement: Placement,
    problem: PlacementProblem,
    known: dict[tuple[int, int, int, bytes], SimulationReport],
    how: tuple[int, float, int | None, float],
) -> tuple[SimulationReport | None, ...]:
    """Return every GPU's report; those that were replayed as they are now are not replayed again."""
    seed, horizon_s, max_workers, until_s = how

    def report_of(gpu: GpuPlan) -> SimulationReport | None:
        key = (gpu.gpu, gpu.max_loras, gpu.max_lora_rank, np.sort(gpu.rows).tobytes())
        if key not in known and time.monotonic() <= until_s:
            known[key] = _run(gpu, problem, seed=seed, horizon_s=horizon_s)
        return known.get(key)

    with ThreadPoolExecutor(max_workers=max_workers) as pool:
        return tuple(pool.map(report_of, placement.gpus))


def take_up(placement: Placement, tables: Tables, max_gpus: int) -> Fleet:
    """Return a plan's GPUs as they are, with room for more."""
    fleet = fleets.fleet_of(tables, [gpu.rows for gpu in placement.gpus], max_gpus)
    for gpu in placement.gpus:
        rank_class = int(np.searchsorted(tables.oracle.slot_ranks, gpu.max_lora_rank))
        fleets.refresh(tables, fleet, gpu.gpu, rank_class)
        fleet.choice[gpu.gpu] = max(fleets.choice_of(tables, rank_class, gpu.max_loras), 0)
    for adapter in placement.unplaced:
        fleet.gpu_of[adapter.row] = packing.code_of(adapter.code)
    return fleet


def _mend(
    placement: Placement,
    problem: PlacementProblem,
    failing: list[int],
    reports: tuple[SimulationReport | None, ...],
) -> tuple[Placement, list[Repair]]:
    """Return the plan with load taken off the failing GPUs, and what was done; nothing where it cannot be."""
    ladder = {gpu.max_loras for gpu in placement.gpus}
    tables = packing.build_tables(_warned(placement, problem, failing, ladder), ladder)
    fleet = take_up(placement, tables, min(tables.max_gpus, placement.num_gpus + len(failing)))
    num_gpus, repairs = placement.num_gpus, []
    # Nobody may move to a failing GPU: full, for the packer.
    own_share = fleet.share[failing].copy()
    fleet.share[failing] = SHUT
    for gpu in failing:
        report = reports[gpu]
        assert report is not None, "a failing GPU was replayed"
        served = report.throughput_tok_s / report.offered_tok_s
        kept = copy_of(fleet)
        rows = _shed(tables, fleet, gpu, 1 - served + SHED_SHARE)
        fleet.gpu_of[rows] = -1
        more = fleets.place_rows(tables, fleet, num_gpus, rows)
        if (fleet.gpu_of[rows] < 0).any():
            fleet = kept  # all GPUs that are allowed are full: it stays as it was
            continue
        repairs.append(Repair(gpu=gpu, action="opened" if more > num_gpus else "moved", adapters=len(rows)))
        num_gpus = more
    fleet.share[failing] = own_share
    for gpu in failing:
        fleets.refresh(tables, fleet, gpu, int(fleet.rank_class[gpu]))
    bounds = LowerBounds(load=0, share=placement.lower_bound, count=0)
    changed = packing.assemble(
        problem, tables, packing.Packing(fleet=fleet, num_gpus=num_gpus), bounds, choose=False
    )
    return packing.with_bound_of(changed, placement), repairs


def _warned(
    placement: Placement, problem: PlacementProblem, failing: list[int], ladder: set[int]
) -> PlacementProblem:
    """Return the problem with a margin of load that none of the failing GPUs kept."""
    tables = packing.build_tables(problem, ladder)
    fleet = take_up(placement, tables, placement.num_gpus)
    features = fleets.features_of_gpus(tables, fleet, placement.num_gpus)
    least_rho = float(features[failing, RHO].min())
    margins = replace(problem.margins, max_rho=min(problem.margins.max_rho, (1 - SHED_SHARE) * least_rho))
    return replace(problem, margins=margins)


def _shed(tables: Tables, fleet: Fleet, gpu: int, share: float) -> np.ndarray:
    """Return the adapters, the lightest first, that bring this share of a GPU's load; not all of them."""
    rows = fleets.rows_of(fleet, gpu)
    rows = rows[np.argsort(tables.items.utilisation[rows], kind="stable")]
    load = np.cumsum(tables.items.utilisation[rows])
    count = int(np.searchsorted(load, share * load[-1])) + 1
    return rows[: min(count, len(rows) - 1)]


def _seed_of(seed: int, gpu: int) -> int:
    return int(np.random.SeedSequence([seed, gpu]).generate_state(1)[0])
