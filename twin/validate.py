"""The twin against measured runs: one simulation a run, from its configuration only."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from twin.client import client_view
from twin.measured import client_of, sending_rate_rps, server_of, workload_of
from twin.memory import fits_in_memory
from twin.metrics import accuracy, f1, mape_pct, smape_half_pct
from twin.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from twin.client import ClientView
    from twin.domain import Calibration, SimulationReport
    from twin.measured import MeasuredRun


AT_LIMIT = 0.98
"""A client with this share of its limit unfinished at the end was held back by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a predictor says of one measured run; None where it says nothing.

    Attributes
    ----------
    run
        The run.
    fits
        Whether the server starts.
    throughput_tok_s, itl_ms, ttft_ms, ttft_incl_unfinished_ms
        As in `RunOutcome`; None when it does not fit or is not predicted.
    binding_constraint
        As in `SimulationReport`.
    wall_s
        Seconds that the prediction took.
    """

    run: MeasuredRun
    fits: bool
    throughput_tok_s: float | None = None
    itl_ms: float | None = None
    ttft_ms: float | None = None
    ttft_incl_unfinished_ms: float | None = None
    binding_constraint: str | None = None
    wall_s: float = 0.0


def simulate_run(run: MeasuredRun, calibration: Calibration, *, seed: int = 0) -> SimulationReport:
    """Return the twin's report of a measured run, simulated from its configuration."""
    return simulate(
        workload_of(run, calibration, seed=seed),
        server_of(run),
        calibration,
        horizon_s=run.duration_s,
        seed=seed,
        client=client_of(run),
    )


def predict_run(run: MeasuredRun, calibration: Calibration) -> Prediction:
    """Return the twin's prediction of a measured run, timed."""
    if not fits_in_memory(calibration, server_of(run)):
        return Prediction(run=run, fits=False)
    if not run.rates_rps:
        return Prediction(run=run, fits=True)
    start = time.perf_counter()
    report = simulate_run(run, calibration)
    seen = client_view(report, calibration.front_end, client_of(run))
    return Prediction(
        run=run,
        fits=True,
        throughput_tok_s=report.throughput_tok_s,
        itl_ms=seen.itl_ms,
        ttft_ms=seen.ttft_ms,
        ttft_incl_unfinished_ms=held_back_ttft_ms(run, report, seen),
        binding_constraint=report.binding_constraint,
        wall_s=time.perf_counter() - start,
    )


def held_back_ttft_ms(run: MeasuredRun, report: SimulationReport, seen: ClientView) -> float:
    """Count requests that the client could not send for want of ports as unfinished, as measured."""
    limit = client_of(run).max_unfinished_requests
    num_unfinished = report.num_requests_sent - report.num_requests_completed
    if limit is None or num_unfinished < AT_LIMIT * limit:
        return seen.ttft_incl_unfinished_ms
    num_due = max(sending_rate_rps(run) * run.duration_s, report.num_requests_sent)
    total_ms = seen.ttft_incl_unfinished_ms * report.num_requests_sent
    total_ms += (num_due - report.num_requests_sent) * run.duration_s * 1e3
    return total_ms / num_due


def predict_runs(
    runs: Iterable[MeasuredRun], calibration_of: Callable[[MeasuredRun], Calibration]
) -> list[Prediction]:
    """Return the twin's predictions, one after another on one core, after a run that compiles."""
    predictions = []
    for run in runs:
        if not predictions:
            predict_run(run, calibration_of(run))
        predictions.append(predict_run(run, calibration_of(run)))
    return predictions


def baseline_predictions(runs: Sequence[MeasuredRun]) -> list[Prediction]:
    """Return ``min(sum of rates x mean tokens, cap[max_lora_rank, max_loras])`` for each run.

    The cap is the median throughput of the *other* starved runs of the same model, rank and slots.
    """
    return [
        Prediction(run=run, fits=True, throughput_tok_s=min(run.ideal_tok_s, _cap(run, runs)))
        if run.rates_rps
        else Prediction(run=run, fits=True)
        for run in runs
    ]


def _cap(run: MeasuredRun, runs: Sequence[MeasuredRun]) -> float:
    others = [
        other.outcome.throughput_tok_s
        for other in runs
        if other is not run
        and other.outcome is not None
        and (other.model, other.max_lora_rank, other.max_loras)
        == (run.model, run.max_lora_rank, run.max_loras)
        and other.is_starved(other.outcome.throughput_tok_s)
    ]
    return median(others) if others else float("inf")


def figures_by_model(predictions: Iterable[Prediction]) -> dict[str, dict[str, float | int | None]]:
    """Return the contract's figures for each base model."""
    by_model = defaultdict(list)
    for prediction in predictions:
        by_model[prediction.run.model].append(prediction)
    return {model: figures(rows) for model, rows in sorted(by_model.items())}


def figures_by_regime(
    predictions: Sequence[Prediction], regime_of: Mapping[str, str]
) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Return the contract's figures for each base model and regime, of runs that ended.

    Parameters
    ----------
    predictions
        Of the twin, or of the baseline.
    regime_of
        By run id, from `regimes`.
    """
    by_model: dict[str, dict[str, list[Prediction]]] = defaultdict(lambda: defaultdict(list))
    for prediction in predictions:
        if prediction.run.run_id in regime_of:
            by_model[prediction.run.model][regime_of[prediction.run.run_id]].append(prediction)
    return {
        model: {regime: figures(rows) | {"fits_accuracy": None} for regime, rows in sorted(regimes.items())}
        for model, regimes in sorted(by_model.items())
    }


def regimes(predictions: Iterable[Prediction]) -> dict[str, str]:
    """Name each run's regime: measured as starved or not, and if so what the twin says binds it."""
    return {
        row.run.run_id: f"starved, bound by {row.binding_constraint}"
        if row.run.is_starved(row.run.outcome.throughput_tok_s)
        else "not starved"
        for row in predictions
        if row.run.outcome is not None
        and math.isfinite(row.run.outcome.throughput_tok_s)
        and row.binding_constraint is not None
    }


def figures(predictions: Sequence[Prediction]) -> dict[str, float | int | None]:
    """Return how far predictions are from measurements, by the contract's names.

    Runs that failed count for `fits_accuracy` only, and only where memory was the reason. A run whose
    throughput was not recorded has no verdict on starvation.
    """
    ended = [row for row in predictions if row.run.outcome is not None and row.throughput_tok_s is not None]
    pairs = {
        name: _pairs(ended, name)
        for name in ("throughput_tok_s", "itl_ms", "ttft_ms", "ttft_incl_unfinished_ms")
    }
    judged = [row for row in ended if math.isfinite(row.run.outcome.throughput_tok_s)]  # type: ignore[union-attr]
    starved = [row.run.is_starved(row.throughput_tok_s or 0.0) for row in judged]
    really_starved = [row.run.is_starved(row.run.outcome.throughput_tok_s) for row in judged]  # type: ignore[union-attr]
    launched = [row for row in predictions if row.run.outcome is not None or row.run.failed_for_memory]
    return {
        "runs": len(ended),
        "throughput_smape_half_pct": smape_half_pct(*pairs["throughput_tok_s"]),
        "throughput_mape_pct": mape_pct(*pairs["throughput_tok_s"]),
        "itl_smape_half_pct": smape_half_pct(*pairs["itl_ms"]),
        "ttft_incl_unfinished_smape_half_pct": smape_half_pct(*pairs["ttft_incl_unfinished_ms"]),
        "ttft_completed_mape_pct": mape_pct(*pairs["ttft_ms"]),
        "starvation_accuracy": accuracy(starved, really_starved),
        "starvation_f1": f1(starved, really_starved),
        "fits_accuracy": accuracy(
            [row.fits for row in launched], [not row.run.failed_for_memory for row in launched]
        ),
    }


def _pairs(rows: Sequence[Prediction], name: str) -> tuple[np.ndarray, np.ndarray]:
    def values(objects: Iterable[object]) -> np.ndarray:
        return np.array([np.nan if (v := getattr(o, name)) is None else v for o in objects], dtype=np.float64)

    return values(rows), values(row.run.outcome for row in rows)


def validate(runs: Sequence[MeasuredRun], calibrations: Mapping[str, Calibration]) -> dict[str, object]:
    """Return the twin's and the one-line baseline's figures on measured runs, and the twin's speed.

    Parameters
    ----------
    runs
        Measured runs; they never teach.
    calibrations
        By base model.

    Returns
    -------
    ``{"by_model", "by_regime", "speedup_median", "speedup_min", "baseline": {"by_model", "by_regime"}}``;
    speed in simulated seconds a wall second.
    """
    predictions = predict_runs(runs, lambda run: calibrations[run.model])
    return summary(predictions, runs)


def summary(predictions: Sequence[Prediction], runs: Sequence[MeasuredRun]) -> dict[str, object]:
    """Return the document that `validate` prints, from predictions already made."""
    speeds = [row.run.duration_s / row.wall_s for row in predictions if row.wall_s > 0]
    regime_of, baseline = regimes(predictions), baseline_predictions(runs)
    return {
        "by_model": figures_by_model(predictions),
        "by_regime": figures_by_regime(predictions, regime_of),
        "speedup_median": float(np.median(speeds)) if speeds else None,
        "speedup_min": float(np.min(speeds)) if speeds else None,
        "baseline": {
            "by_model": _without_memory(figures_by_model(baseline)),
            "by_regime": figures_by_regime(baseline, regime_of),
        },
    }


def _without_memory(by_model: dict[str, dict[str, float | int | None]]) -> dict[str, object]:
    """The baseline says nothing about memory."""
    return {model: rows | {"fits_accuracy": None} for model, rows in by_model.items()}
