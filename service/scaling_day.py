"""A simulated day of an autoscaler that asks for GPUs: how often the number flaps, and whom it starves.

Traffic: a fleet whose adapters have Zipf popularity, its total following a day's curve times the minute
counts of a recorded trace. Each minute a controller estimates every adapter's rate from the requests of
the last minutes and plans anew. The policies see the same plans.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from placer.packing import place
from placer.problem import PlacementProblem
from service.errors import UsageError
from service.services.scaling import first_window, gpus_with_margin
from twin.domain import Workload

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from service.services.catalog import Target

MINUTES = 1440
SMOOTHING_MINUTES = 10
LOWEST_SHARE = 0.35
PEAK_MINUTE = 15 * 60
FLAP_MINUTES = 30
MIN_RATE_RPS = 1 / 3600
"""What an adapter that was not seen counts as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """What a day is made of.

    Attributes
    ----------
    num_adapters
        Of the fleet.
    peak_rps
        Mean requests a second of all of them at the day's peak.
    window_s, rate_noise
        The policy's, as in `service.settings`.
    seed
        Same seed, same day.
    """

    num_adapters: int = 300
    peak_rps: float = 200.0
    window_s: float = 600.0
    rate_noise: float = 0.2
    seed: int = 0


def minute_counts(trace: Path) -> NDArray[np.float64]:
    """Return a trace's requests in each full minute over their mean: (num_minutes,) float64.

    Raises
    ------
    UsageError
        The file has no column ``t_s``.
    """
    with gzip.open(trace, "rt") if trace.suffix == ".gz" else trace.open() as lines:
        rows = csv.DictReader(lines)
        if "t_s" not in (rows.fieldnames or ()):
            raise UsageError(f"must have a column t_s, got {rows.fieldnames}", field="--trace")
        seconds = np.array([float(row["t_s"]) for row in rows])
    counts = np.bincount((seconds // 60).astype(np.int64))[:-1].astype(np.float64)
    if len(counts) == 0:
        raise UsageError("must last longer than a minute", field="--trace")
    return counts / counts.mean()


def simulate_day(target: Target, counts: NDArray[np.float64], day: Day) -> Mapping[str, Any]:
    """Return figures of the day for each policy.

    Returns
    -------
    Mapping
        ``changes`` of the number, ``flaps`` (a fall that a rise follows within half an hour), ``gpu_hours``,
        ``minutes_below_plan`` (below the plan for the estimated rates) and ``minutes_below_truth`` (below the
        plan for the true rates).
    """
    rng = np.random.default_rng(day.seed)
    shares = rng.permutation(1.0 / np.arange(1, day.num_adapters + 1) ** 0.9)
    shares /= shares.sum()
    curve = _day_curve() * day.peak_rps
    noise = np.concatenate([np.roll(counts, int(rng.integers(len(counts)))) for _ in range(MINUTES)])[
        :MINUTES
    ]
    requests = rng.poisson(60 * (curve * noise)[:, None] * shares)
    problem = _problem(target, shares * day.peak_rps, rng)

    raw, held, truth = (np.zeros(MINUTES, dtype=np.int64) for _ in range(3))
    for minute in range(MINUTES):
        seen = requests[max(0, minute + 1 - SMOOTHING_MINUTES) : minute + 1]
        estimated = np.maximum(seen.sum(axis=0) / (60 * len(seen)), MIN_RATE_RPS)
        planned = _at_rates(problem, estimated)
        placement = place(planned)
        raw[minute] = placement.num_gpus
        held[minute] = gpus_with_margin(planned, placement, day.rate_noise)
        fresh = minute % SMOOTHING_MINUTES == 0
        truth[minute] = (
            place(_at_rates(problem, shares * curve[minute])).num_gpus if fresh else truth[minute - 1]
        )
    policies = {
        "plan_alone": raw,
        "window_alone": levels(raw, raw, day.window_s),
        "window_and_margin": levels(raw, held, day.window_s),
    }
    return {
        "num_adapters": day.num_adapters,
        "peak_rps": day.peak_rps,
        "gpus_lowest": int(raw.min()),
        "gpus_highest": int(raw.max()),
        "policies": {name: _figures(asked, raw, truth) for name, asked in policies.items()},
    }


def levels(raw: NDArray[np.int64], held: NDArray[np.int64], window_s: float) -> NDArray[np.int64]:
    """Return what is asked for in each minute: (num_minutes,) int64."""
    window = first_window(raw=int(raw[0]), held=int(held[0]))
    asked = np.empty_like(raw)
    for minute in range(len(raw)):
        now_s = 60.0 * minute
        window = window.observed(now_s, raw=int(raw[minute]), held=int(held[minute]), window_s=window_s)
        asked[minute] = window.level_at(now_s, window_s)
    return asked


def num_flaps(asked: NDArray[np.int64]) -> int:
    """Return the falls that a rise follows within half an hour: servers closed and opened again."""
    steps = np.diff(asked)
    falls, rises = np.flatnonzero(steps < 0), np.flatnonzero(steps > 0)
    following = np.searchsorted(rises, falls)
    has_rise = following < len(rises)
    return int(np.sum(rises[following[has_rise]] - falls[has_rise] <= FLAP_MINUTES))


def _figures(
    asked: NDArray[np.int64], raw: NDArray[np.int64], truth: NDArray[np.int64]
) -> Mapping[str, float]:
    return {
        "changes": int(np.count_nonzero(np.diff(asked))),
        "flaps": num_flaps(asked),
        "gpu_hours": round(float(asked.sum()) / 60, 1),
        "minutes_below_plan": int(np.sum(asked < raw)),
        "minutes_below_truth": int(np.sum(asked < truth)),
    }


def _day_curve() -> NDArray[np.float64]:
    phase = 2 * np.pi * (np.arange(MINUTES) - PEAK_MINUTE) / MINUTES
    return LOWEST_SHARE + (1 - LOWEST_SHARE) * (1 + np.cos(phase)) / 2


def _problem(target: Target, rates: NDArray[np.float64], rng: np.random.Generator) -> PlacementProblem:
    count, nothing = len(rates), np.full(len(rates), np.nan)
    workload = Workload(
        base_model=target.calibration.base_model,
        gpu_type=target.calibration.gpu_type,
        adapter_ids=tuple(f"adapter-{row}" for row in range(count)),
        rank=rng.choice((8, 16, 32), count),
        rate_rps=rates,
        input_tokens_mean=np.full(count, 223.0),
        output_tokens_mean=np.full(count, 197.0),
        input_tokens_cv=nothing,
        output_tokens_cv=nothing,
        arrival_cv=np.ones(count),
    )
    return PlacementProblem(workload=workload, calibration=target.calibration, surrogate=target.surrogate)


def _at_rates(problem: PlacementProblem, rates: NDArray[np.float64]) -> PlacementProblem:
    return replace(problem, workload=replace(problem.workload, rate_rps=rates))
