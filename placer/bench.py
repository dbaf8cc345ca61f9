"""`loadmaster bench place`: plans of whole families, judged by the twin, beside simple rules."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from models.artifact import load_shipped
from placer.baselines import BASELINES
from placer.bounds import ROUNDING
from placer.explain import server_config
from placer.families import FAMILIES, family_workload
from placer.kernels.acceptance import MAX_TREE_RISK
from placer.margins import DEFAULT_MARGINS
from placer.packing import place
from placer.problem import PlacementProblem
from placer.trace_families import TRACE_FAMILIES, TraceCase, available, trace_case
from placer.verify import replay, verify
from twin.calibration import load_calibration, shipped_calibration_ids
from twin.simulate import simulate_requests
from twin.workload import RequestStream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from models.surrogate import Surrogate
    from placer.placement import GpuPlan, Placement
    from twin.domain import Calibration

CALIBRATION_ID = "h100-64gb/llama-3.1-8b-instruct/vllm-0.8.5"
SIZES = (100, 1000)
"""Adapters of each family's instances."""

SIZES_OF = {"seed-paper": (100, 384, 1280), "seed-azure": (320, 1280), "servegen": (100, 400)}

GROWTH_FAMILIES = ("zipf", "seed-paper")
GROWTH_SIZES = (1_000, 10_000, 100_000)
"""Adapters of the first plans whose time is told as it grows."""

NUM_TIMINGS = 5
ALL_FAMILIES = "all"
KNOWN_FAMILIES = (*FAMILIES, *TRACE_FAMILIES)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Instance:
    """One problem of a family, and what judges its plans."""

    family: str
    seed: int
    problem: PlacementProblem
    case: TraceCase | None = None


def bench_place(
    family: str = ALL_FAMILIES,
    seed: int = 0,
    *,
    calibration_id: str = CALIBRATION_ID,
    sizes: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """Return one record for each instance of a family, or of all, in the shape of ``bench place --json``.

    `placement_ms` is the median time of the first plan, compiled, on this machine; `search_ms` that of
    the answer, with the search for fewer GPUs and the fine bound. Families of traces that are absent are
    left out with a line on standard error. ``growth`` has the median time of first plans of up to a hundred
    thousand adapters.

    Parameters
    ----------
    family, seed
        Which instances.
    calibration_id
        Whose server.
    sizes
        Numbers of adapters; None takes each family's own.
    """
    calibration, surrogate = load_calibration(calibration_id), load_shipped(calibration_id)
    families = KNOWN_FAMILIES if family == ALL_FAMILIES else (family,)
    instances = [
        _record(instance)
        for name in families
        for instance in _instances(name, seed, calibration, surrogate, sizes)
    ]
    return {"instances": instances, "growth": _growth(families, seed, calibration, surrogate)}


def _growth(
    families: Sequence[str], seed: int, calibration: Calibration, surrogate: Surrogate
) -> list[dict[str, Any]]:
    return [
        {
            "family": instance.family,
            "num_adapters": instance.problem.workload.num_adapters,
            "placement_ms": _median_ms(replace(instance.problem, num_trials=0)),
        }
        for family in GROWTH_FAMILIES
        if family in families
        for instance in _instances(family, seed, calibration, surrogate, GROWTH_SIZES)
    ]


def _instances(
    family: str, seed: int, calibration: Calibration, surrogate: Surrogate, sizes: tuple[int, ...] | None
) -> Iterator[_Instance]:
    if family in TRACE_FAMILIES and not available(family):
        print(f"{family} is left out: {TRACE_FAMILIES[family]} is not there", file=sys.stderr)  # noqa: T201
        return
    for size in sizes or SIZES_OF.get(family, SIZES):
        case = None
        if family in TRACE_FAMILIES:
            case = trace_case(family, seed, size, calibration)
            workload = case.known
        else:
            workload = family_workload(family, seed, size, calibration)
        problem = PlacementProblem(workload=workload, calibration=calibration, surrogate=surrogate)
        yield _Instance(family=family, seed=seed, problem=problem, case=case)


def _record(instance: _Instance) -> dict[str, Any]:
    problem = instance.problem
    placement = place(problem)
    first = place(replace(problem, num_trials=0))
    checked = verify(placement, problem, seed=instance.seed)
    return {
        "family": instance.family,
        "seed": instance.seed,
        "num_adapters": problem.workload.num_adapters,
        "num_gpus": placement.num_gpus if placement.feasible else None,
        "num_unplaced": len(placement.unplaced),
        "lower_bound": placement.lower_bound,
        "bound_rests_on": placement.bound_rests_on,
        "gap": placement.gap,
        "placement_ms": _median_ms(replace(problem, num_trials=0)),
        "search_ms": _median_ms(problem),
        "first_plan": _judged(first, instance) | {"lower_bound": first.lower_bound},
        "starvation_probability": placement.starvation_probability,
        "starved_gpus_unverified": _starved_gpus(placement, instance),
        "num_gpus_verified": checked.placement.num_gpus,
        "starved_gpus_verified": _starved_gpus(checked.placement, instance),
        "verification": checked.status,
        "baselines": {name: _judged(rule(problem), instance) for name, rule in BASELINES.items()},
    }


def _judged(placement: Placement | None, instance: _Instance) -> dict[str, int | None]:
    if placement is None:
        return {"num_gpus": None, "starved_gpus": None}
    return {"num_gpus": placement.num_gpus, "starved_gpus": _starved_gpus(placement, instance)}


def _starved_gpus(placement: Placement, instance: _Instance) -> int:
    """Return the GPUs that starve: on the requests that really came, where the family has them."""
    case = instance.case
    if case is None or case.requests is None:
        return sum(report.starved for report in replay(placement, instance.problem, seed=instance.seed))
    return sum(_starves(gpu, instance.problem, case) for gpu in placement.gpus)


def _starves(gpu: GpuPlan, problem: PlacementProblem, case: TraceCase) -> bool:
    assert case.requests is not None, "the caller looked"
    requests = case.requests
    place_of = np.full(problem.workload.num_adapters, -1, dtype=np.int32)
    place_of[gpu.rows] = np.arange(len(gpu.rows))
    mine = place_of[requests.adapter_of] >= 0
    if not mine.any():
        return False
    stream = RequestStream(
        arrival_ns=requests.arrival_ns[mine],
        adapter_of=place_of[requests.adapter_of[mine]],
        prompt_tokens=requests.prompt_tokens[mine],
        output_tokens=requests.output_tokens[mine],
    )
    return simulate_requests(
        stream,
        problem.workload.rank[gpu.rows],
        server_config(gpu, problem),
        problem.calibration,
        horizon_s=case.horizon_s,
    ).starved


def _median_ms(problem: PlacementProblem) -> float:
    """Return the median time of `place`, milliseconds; the caller has compiled it."""
    taken = []
    for _ in range(NUM_TIMINGS):
        start = time.perf_counter()
        place(problem)
        taken.append(1e3 * (time.perf_counter() - start))
    return sorted(taken)[NUM_TIMINGS // 2]


MARGIN_ROWS: tuple[dict[str, float], ...] = (
    {},
    {"max_rho": 1.0},
    {"max_rho": 1.1},
    {"max_kv_pressure": 1.0},
    {"max_kv_pressure": 1.06},
    {"few_kv_requests": 0.0},
    {"few_kv_requests": 40.0},
    {"few_kv_requests": 160.0},
    {"min_slots_over_active": 0.15},
    {"min_slots_over_active": 0.6},
    {"min_slots_over_active": 1.0},
    {"min_slots_over_hot": 0.8},
    {"min_slots_over_hot": 1.5},
    {"min_served_fraction": 0.92},
    {"min_served_fraction": 0.97},
    {"risk_share": 0.1},
    {"risk_share": 0.4},
    {"risk_share": 1.0},
    {"risk_share_with_slots": 0.01},
    {"risk_share_with_slots": 0.2},
)
"""Changes to `placer.margins.DEFAULT_MARGINS`, one at a time; the first row changes nothing."""

MARGIN_SIZES = (100, 600)
TINY_SHARE = 1e-4
"""Shares of the tree's risk with which it refuses only beyond `MAX_TREE_RISK`."""

TREE_RISKS = (0.01, 0.05, 0.1, 0.2, 0.3, MAX_TREE_RISK)
"""What the tree for starvation says at most, row by row; both shares of `Margins` are read from the table."""


def bench_margins(seed: int = 0, *, calibration_ids: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return for each row of margins how many GPUs plans need and how many of them starve in the twin.

    A margin is chosen so that fewer than `starvation_risk` of the GPUs starve and no more GPUs are
    needed than that takes. Run again whenever the twin or the trees change.

    ``tree_risks`` tells how many GPUs starve of those to which the tree gives a chance up to each of
    `TREE_RISKS`, and above the one before it, where only the other margins refuse; those with a slot for
    every adapter apart.
    """
    records, reliability = [], []
    for calibration_id in calibration_ids or shipped_calibration_ids():
        calibration, surrogate = load_calibration(calibration_id), load_shipped(calibration_id)
        instances = [
            instance
            for family in KNOWN_FAMILIES
            for instance in _instances(family, seed, calibration, surrogate, MARGIN_SIZES)
        ]
        for change in MARGIN_ROWS:
            margins = replace(DEFAULT_MARGINS, **change)
            plans = [
                (replace(instance, problem=replace(instance.problem, margins=margins, num_trials=0)))
                for instance in instances
            ]
            placed = [(place(each.problem), each) for each in plans]
            records.append(
                {
                    "calibration_id": calibration_id,
                    "change": change,
                    "num_gpus": sum(plan.num_gpus for plan, _ in placed),
                    "starved_gpus": sum(_starved_gpus(plan, each) for plan, each in placed),
                    "unplaced": sum(len(plan.unplaced) for plan, _ in placed),
                }
            )
        reliability.append({"calibration_id": calibration_id, "tree_risks": _by_tree_risk(instances)})
    return {"default": asdict(DEFAULT_MARGINS), "rows": records, "reliability": reliability}


def _by_tree_risk(instances: Sequence[_Instance]) -> list[dict[str, float]]:
    said, starved, has_slots = [], [], []
    margins = replace(DEFAULT_MARGINS, risk_share=TINY_SHARE, risk_share_with_slots=TINY_SHARE)
    for instance in instances:
        problem = replace(instance.problem, num_trials=0, margins=margins)
        placement = place(problem)
        said += [gpu.predicted.starvation_probability for gpu in placement.gpus]
        starved += [report.starved for report in replay(placement, problem, seed=instance.seed)]
        has_slots += [gpu.max_loras >= len(gpu.rows) for gpu in placement.gpus]
    rows = np.searchsorted(TREE_RISKS, np.array(said) / TINY_SHARE - ROUNDING)
    kinds = [(each, row) for each in (True, False) for row in range(len(TREE_RISKS))]
    return [
        {
            "has_slots_for_each": each,
            "tree_risk": TREE_RISKS[row],
            "num_gpus": int(chosen.sum()),
            "starved_gpus": int(np.array(starved)[chosen].sum()),
        }
        for each, row in kinds
        for chosen in [(rows == row) & (np.array(has_slots) == each)]
    ]
