"""`loadmaster bench place`: plans of whole families, judged by the twin, beside simple rules."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from models.artifact import load_shipped
from placer.baselines import BASELINES
from placer.families import FAMILIES, family_workload
from placer.packing import place
from placer.problem import PlacementProblem
from placer.verify import replay
from twin.calibration import load_calibration

if TYPE_CHECKING:
    from placer.placement import Placement

CALIBRATION_ID = "h100-64gb/llama-3.1-8b-instruct/vllm-0.8.5"
SIZES = (100, 1000)
"""Adapters of each family's instances."""

NUM_TIMINGS = 7
ALL_FAMILIES = "all"


def bench_place(family: str = ALL_FAMILIES, seed: int = 0) -> dict[str, Any]:
    """Return one record for each instance of a family, or of all, in the shape of ``bench place --json``.

    Times are medians of `place`, compiled, on this machine. `starved_gpus_verified` is None: plans
    are not repaired after a replay.
    """
    calibration = load_calibration(CALIBRATION_ID)
    surrogate = load_shipped(CALIBRATION_ID)
    families = FAMILIES if family == ALL_FAMILIES else (family,)
    problems = [
        (
            name,
            PlacementProblem(
                workload=family_workload(name, seed, size, calibration),
                calibration=calibration,
                surrogate=surrogate,
            ),
        )
        for name in families
        for size in SIZES
    ]
    return {"instances": [_instance(name, seed, problem) for name, problem in problems]}


def _instance(family: str, seed: int, problem: PlacementProblem) -> dict[str, Any]:
    placement = place(problem)
    return {
        "family": family,
        "seed": seed,
        "num_adapters": problem.workload.num_adapters,
        "num_gpus": placement.num_gpus if placement.feasible else None,
        "num_unplaced": len(placement.unplaced),
        "lower_bound": placement.lower_bound,
        "gap": placement.gap,
        "placement_ms": _median_ms(problem),
        "starved_gpus_unverified": _starved_gpus(placement, problem, seed),
        "starved_gpus_verified": None,
        "baselines": {name: _judged(rule(problem), problem, seed) for name, rule in BASELINES.items()},
    }


def _judged(placement: Placement | None, problem: PlacementProblem, seed: int) -> dict[str, int | None]:
    if placement is None:
        return {"num_gpus": None, "starved_gpus": None}
    return {"num_gpus": placement.num_gpus, "starved_gpus": _starved_gpus(placement, problem, seed)}


def _starved_gpus(placement: Placement, problem: PlacementProblem, seed: int) -> int:
    return sum(report.starved for report in replay(placement, problem, seed=seed))


def _median_ms(problem: PlacementProblem) -> float:
    """Return the median time of `place`, milliseconds; the caller has compiled it."""
    taken = []
    for _ in range(NUM_TIMINGS):
        start = time.perf_counter()
        place(problem)
        taken.append(1e3 * (time.perf_counter() - start))
    return sorted(taken)[NUM_TIMINGS // 2]
