"""Check a plan in the twin: every GPU of it served for an hour."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from placer.explain import server_config
from twin.simulate import simulate

if TYPE_CHECKING:
    from placer.placement import GpuPlan, Placement
    from placer.problem import PlacementProblem
    from twin.domain import SimulationReport


def replay(
    placement: Placement,
    problem: PlacementProblem,
    *,
    seed: int = 0,
    horizon_s: float = 3600.0,
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

    def run(gpu: GpuPlan) -> SimulationReport:
        return simulate(
            problem.workload.subset(gpu.rows),
            server_config(gpu, problem),
            problem.calibration,
            horizon_s=horizon_s,
            seed=_seed_of(seed, gpu.gpu),
        )

    with ThreadPoolExecutor(max_workers=max_workers) as pool:
        return tuple(pool.map(run, placement.gpus))


def _seed_of(seed: int, gpu: int) -> int:
    return int(np.random.SeedSequence([seed, gpu]).generate_state(1)[0])
