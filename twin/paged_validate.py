"""The paged twin against measured runs: fitted to all of them, or to all but one rate's."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from twin.metrics import accuracy, mape_pct, smape_half_pct
from twin.paged_domain import PagedServerConfig
from twin.paged_measured import (
    QUEUE_FREE_TTFT_MS,
    paged_workload_of,
    restated_itl_ms,
    restated_throughput_tok_s,
)
from twin.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twin.paged_domain import PagedCalibration
    from twin.paged_measured import MeasuredPagedRun, PagedOutcome

VALIDATION_SEED = 1
"""Not the seed of the fit: a fit may follow the requests it was shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedPrediction:
    """What a predictor says of one measured run that ended; None where it says nothing.

    Attributes
    ----------
    run, outcome
        The run and what came out of it.
    generated_tokens
        Tokens that each request generates.
    throughput_tok_s, itl_ms, ttft_median_ms, ttft_incl_unfinished_ms
        As in `twin.domain.SimulationReport`.
    wall_s
        Seconds that the prediction took.
    """

    run: MeasuredPagedRun
    outcome: PagedOutcome
    generated_tokens: float
    throughput_tok_s: float
    itl_ms: float | None = None
    ttft_median_ms: float | None = None
    ttft_incl_unfinished_ms: float | None = None
    wall_s: float = 0.0


def predict_paged_run(
    run: MeasuredPagedRun,
    outcome: PagedOutcome,
    calibration: PagedCalibration,
    *,
    seed: int = VALIDATION_SEED,
) -> PagedPrediction:
    """Return the twin's prediction of a measured run, from its configuration only."""
    start = time.perf_counter()
    report = simulate(
        paged_workload_of(run, calibration),
        PagedServerConfig(max_total_token_num=calibration.pool_tokens),
        calibration,
        horizon_s=run.duration_s,
        seed=seed,
    )
    return PagedPrediction(
        run=run,
        outcome=outcome,
        generated_tokens=run.output_tokens * calibration.generated_over_requested,
        throughput_tok_s=report.throughput_tok_s,
        itl_ms=report.itl.mean_ms,
        ttft_median_ms=report.ttft.p50_ms,
        ttft_incl_unfinished_ms=report.ttft_incl_unfinished_ms,
        wall_s=time.perf_counter() - start,
    )


def predict_paged_runs(
    runs: Sequence[MeasuredPagedRun],
    calibration_of: Callable[[MeasuredPagedRun], PagedCalibration],
    *,
    seed: int = VALIDATION_SEED,
) -> list[PagedPrediction]:
    """Return the twin's prediction of each run that ended, after a prediction that compiles."""
    ended = [(run, run.outcome) for run in runs if run.outcome is not None]
    for run, outcome in ended[:1]:
        predict_paged_run(run, outcome, calibration_of(run))
    return [predict_paged_run(run, outcome, calibration_of(run), seed=seed) for run, outcome in ended]


def leave_one_rate_out(
    runs: Sequence[MeasuredPagedRun],
    fit: Callable[[list[MeasuredPagedRun]], PagedCalibration],
    *,
    seed: int = VALIDATION_SEED,
) -> list[PagedPrediction]:
    """Return predictions of each run by a fit to the runs of all other rates an adapter."""
    left_out = {
        rate: fit([run for run in runs if run.rate_rps != rate])
        for rate in sorted({run.rate_rps for run in runs})
    }
    return predict_paged_runs(runs, lambda run: left_out[run.rate_rps], seed=seed)


def baseline_paged_predictions(runs: Sequence[MeasuredPagedRun]) -> list[PagedPrediction]:
    """Return ``min(offered tokens a second, cap)``: the median of starved runs of *other* rates."""
    ended = [(run, run.outcome) for run in runs if run.outcome is not None]
    return [
        PagedPrediction(
            run=run,
            outcome=outcome,
            generated_tokens=run.output_tokens,
            throughput_tok_s=min(run.ideal_tok_s, _cap(run, ended)),
        )
        for run, outcome in ended
    ]


def _cap(run: MeasuredPagedRun, ended: Sequence[tuple[MeasuredPagedRun, PagedOutcome]]) -> float:
    others = [
        outcome.throughput_tok_s
        for other, outcome in ended
        if other.rate_rps != run.rate_rps and other.is_starved(outcome.throughput_tok_s)
    ]
    return median(others) if others else float("inf")


def paged_figures(rows: Sequence[PagedPrediction]) -> dict[str, float | int | None]:
    """Return how far predictions are from measurements.

    ``throughput…`` and ``itl…`` compare with what the client counted; ``…_restated`` with what it
    would have counted had it seen each token by itself (`twin.paged_measured`). Median TTFT is
    compared where no queue stood.
    """
    counted = _pairs(rows, lambda row: (row.throughput_tok_s, row.outcome.throughput_tok_s))
    restated = _pairs(
        rows,
        lambda row: (
            row.throughput_tok_s,
            restated_throughput_tok_s(row.run, row.outcome, row.generated_tokens),
        ),
    )
    itl = _pairs(rows, lambda row: (row.itl_ms, restated_itl_ms(row.outcome, row.generated_tokens)))
    light = [row for row in rows if row.outcome.ttft_median_ms < QUEUE_FREE_TTFT_MS]
    return {
        "runs": len(rows),
        "throughput_smape_half_pct": smape_half_pct(*counted),
        "throughput_mape_pct": mape_pct(*counted),
        "throughput_restated_smape_half_pct": smape_half_pct(*restated),
        "itl_smape_half_pct": smape_half_pct(
            *_pairs(rows, lambda row: (row.itl_ms, row.outcome.itl_mean_ms))
        ),
        "itl_restated_smape_half_pct": smape_half_pct(*itl),
        "ttft_incl_unfinished_smape_half_pct": smape_half_pct(
            *_pairs(rows, lambda row: (row.ttft_incl_unfinished_ms, row.outcome.ttft_incl_unfinished_ms))
        ),
        "ttft_median_queue_free_smape_half_pct": smape_half_pct(
            *_pairs(light, lambda row: (row.ttft_median_ms, row.outcome.ttft_median_ms))
        ),
        "starvation_accuracy": accuracy(
            [row.run.is_starved(row.throughput_tok_s) for row in rows],
            [row.run.is_starved(row.outcome.throughput_tok_s) for row in rows],
        ),
    }


def paged_figures_by_load(rows: Sequence[PagedPrediction]) -> dict[str, dict[str, float | int | None]]:
    """Return the figures of the runs measured starved, and of the others."""
    starved = [row for row in rows if row.run.is_starved(row.outcome.throughput_tok_s)]
    unstarved = [row for row in rows if not row.run.is_starved(row.outcome.throughput_tok_s)]
    return {"unstarved": paged_figures(unstarved), "starved": paged_figures(starved)}


def paged_document(rows: Sequence[PagedPrediction], *, by_run: bool) -> dict[str, object]:
    """Return the figures of predictions, over all runs and by load, and each run's on demand.

    Where predictions were timed, speed is in simulated seconds a wall second.
    """
    document: dict[str, object] = {"all": paged_figures(rows), **paged_figures_by_load(rows)}
    speeds = [row.run.duration_s / row.wall_s for row in rows if row.wall_s > 0]
    if speeds:
        document |= {"speedup_median": float(np.median(speeds)), "speedup_min": min(speeds)}
    return document | {"by_run": paged_rows(rows)} if by_run else document


def paged_rows(rows: Sequence[PagedPrediction]) -> list[dict[str, float | int | None]]:
    """Return each run's configuration with predicted and measured figures beside each other."""
    return [
        {
            "adapters": row.run.num_adapters,
            "rate_rps": row.run.rate_rps,
            "throughput_tok_s": row.throughput_tok_s,
            "measured_throughput_tok_s": row.outcome.throughput_tok_s,
            "restated_throughput_tok_s": restated_throughput_tok_s(
                row.run, row.outcome, row.generated_tokens
            ),
            "itl_ms": row.itl_ms,
            "restated_itl_ms": restated_itl_ms(row.outcome, row.generated_tokens),
            "ttft_incl_unfinished_ms": row.ttft_incl_unfinished_ms,
            "measured_ttft_incl_unfinished_ms": row.outcome.ttft_incl_unfinished_ms,
        }
        for row in rows
    ]


def _pairs(
    rows: Sequence[PagedPrediction],
    pair: Callable[[PagedPrediction], tuple[float | None, float]],
) -> tuple[np.ndarray, np.ndarray]:
    pairs = [pair(row) for row in rows]
    return (
        np.array([np.nan if predicted is None else predicted for predicted, _ in pairs], dtype=np.float64),
        np.array([measured for _, measured in pairs], dtype=np.float64),
    )
