"""From a measurement set to calibrations, and how well they predict runs that did not teach them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from twin.client import client_view
from twin.domain import Calibration, FrontEndLaw, StepLaw
from twin.errors import InvalidInputError, UnidentifiableError
from twin.fitting.estimators import fit_load, fit_memory, fit_scheduler
from twin.fitting.microbenchmarks import microbenchmark_observations
from twin.fitting.points import fit_points
from twin.fitting.step import match_runs, observations_of, residuals_by_kind, solve
from twin.fitting.tables import read_rows
from twin.measured import DEFAULT_ENGINE_VERSION, DEFAULT_GPU_TYPE, client_of, read_runs
from twin.measurement_set import read_manifest
from twin.shapes import KNOWN_SHAPES
from twin.validate import simulate_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from twin.client import ClientView
    from twin.domain import ModelShape
    from twin.fitting.estimators import Fitted
    from twin.fitting.step import StepObservation
    from twin.measured import MeasuredRun
    from twin.measurement_set import Manifest

START = StepLaw(
    base_ms=12.0,
    decode_ms=0.02,
    prefill_ms=0.005,
    context_ms=0.08,
    compute_ms=0.025,
    adapter_ms=0.4,
    adapter_prefill_ms=0.2,
    rank_ms=1.0,
    slot_ms=0.02,
    slot_token_ms=0.1,
    eager_ms=14.0,
)
"""Where the matching starts; any law of this size ends in the same place."""

MATCHING_ROUNDS = (4, 3)
"""Simulations of every run before the first and the second solution of the step law."""

FIRST_USE_MS = (0.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
"""Candidates for the API server's time for an adapter's first request."""

LABEL_US = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.7)
"""Candidates for what an adapter's name in a label adds to a scrape."""

CALM_STRIDE = 4
"""Every so many runs that were not starved judge a candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedCalibration:
    """A calibration and the steps that its step law was solved from."""

    calibration: Calibration
    observations: tuple[StepObservation, ...]


def fit_calibration(
    directory: Path,
    base_model: str,
    *,
    model: ModelShape | None = None,
    command: str = "",
    report: Callable[[str], None] = lambda _: None,
) -> FittedCalibration:
    """Fit the four estimators of one base model from a measurement set.

    Parameters
    ----------
    directory
        Tables in the layout of ``h100_vllm``: memory_kv, load_times, scheduler_time, step_latency_runs,
        length_stats, runs. Or an agent's set, whose manifest says what it was measured on
        (`twin.measurement_set`).
    base_model
        As the tables name it.
    model
        Its shapes; None takes the known ones. An agent's set brings its own.
    command
        The command line, for the provenance.
    report
        Receives a line about each stage.

    Raises
    ------
    InvalidInputError, UnidentifiableError
        Naming the table, or the coefficient that the data cannot tell.
    """
    manifest = read_manifest(directory)
    if manifest is not None:
        return _fit_agents_set(directory, base_model, manifest, command, report)
    model = model or KNOWN_SHAPES.get(base_model)
    if model is None:
        raise InvalidInputError("model_config", f"must be given: the shapes of {base_model!r} are not known")
    memory, load = fit_memory(directory, base_model, model), fit_load(directory, base_model)
    scheduler = fit_scheduler(directory)
    report(f"{base_model}: memory {memory.fitted.error_pct:.2f} %, load {load.error_pct:.2f} %")
    report(f"{base_model}: scheduler {scheduler.error_pct:.2f} %")
    runs = [run for run in read_runs(directory / "runs.csv") if run.model == base_model and run.outcome]
    calibration = Calibration(
        gpu_type=DEFAULT_GPU_TYPE,
        base_model=base_model,
        engine_version=DEFAULT_ENGINE_VERSION,
        model=model,
        memory=memory.fitted.law,
        step=START,
        scheduler=scheduler.law,
        load=load.law,
        generated_over_requested=_generated_over_requested(directory, base_model),
        max_known_rank=memory.max_known_rank,
        front_end=FrontEndLaw(first_use_ms=300.0),
    )
    benchmarks = microbenchmark_observations(directory, base_model)
    step, observations = _fit_step(runs, benchmarks, calibration, report)
    calibration = replace(calibration, step=step.law)
    calibration = replace(calibration, front_end=fit_front_end(runs, calibration, report))
    errors = {
        "memory.kv_tokens_mape_pct": memory.fitted.error_pct,
        "memory.verdict_accuracy": memory.verdict_accuracy,
        "load.ms_mape_pct": load.error_pct,
        "scheduler.us_mape_pct": scheduler.error_pct,
        "step.ms_mape_pct": step.error_pct,
    }
    fits = (memory.fitted, load, scheduler, step)
    calibration = replace(
        calibration,
        standard_errors={name: value for fit in fits for name, value in fit.standard_errors.items()},
        errors=errors,
        provenance=_provenance(directory, command),
    )
    return FittedCalibration(calibration=calibration, observations=tuple(observations))


def _fit_agents_set(
    directory: Path, base_model: str, manifest: Manifest, command: str, report: Callable[[str], None]
) -> FittedCalibration:
    if base_model != manifest.base_model:
        raise InvalidInputError("model", f"must be {manifest.base_model}, which the set is of")
    calibration, observations = fit_points(directory, manifest, command=command, report=report)
    return FittedCalibration(calibration=calibration, observations=observations)


def measured_models(directory: Path) -> tuple[str, ...]:
    """Return the base models that a measurement set has runs of, sorted."""
    manifest = read_manifest(directory)
    if manifest is not None:
        return (manifest.base_model,)
    return tuple(sorted({run.model for run in read_runs(directory / "runs.csv")}))


def without_group(fitted: FittedCalibration, group: str) -> Calibration:
    """Return the calibration whose step law was solved without one workload group."""
    rest = [one for one in fitted.observations if one.group != group]
    return replace(fitted.calibration, step=solve(rest).law)


def _fit_step(
    runs: Sequence[MeasuredRun],
    benchmarks: Sequence[StepObservation],
    calibration: Calibration,
    report: Callable[[str], None],
) -> tuple[Fitted[StepLaw], list[StepObservation]]:
    """Solve for the step law twice: states matched with a better law are closer to the servers'."""
    threads = os.cpu_count() or 1
    observations: list[StepObservation] = []
    step = None
    for rounds in MATCHING_ROUNDS:
        matched = match_runs(runs, calibration, threads=threads, rounds=rounds)
        observations = [*observations_of(matched, calibration.step), *benchmarks]
        step = solve(observations)
        calibration = replace(calibration, step=step.law)
        report(f"{calibration.base_model}: step {step.error_pct:.2f} % of {len(observations)} times")
        for kind, (count, error_pct, bias_pct) in residuals_by_kind(observations, step.law).items():
            report(f"  {kind}: {count} times, off by {error_pct:.2f} %, {bias_pct:+.2f} % on average")
    assert step is not None, "there is at least one round"
    return step, observations


def fit_front_end(
    runs: Sequence[MeasuredRun], calibration: Calibration, report: Callable[[str], None] = lambda _: None
) -> FrontEndLaw:
    """Return the cost of the API server's pauses, chosen on runs that were not starved: no others show it.

    Chunks merge in the pauses of scrapes, which shows in ITL; an adapter's first use shows in TTFT. Of
    `LABEL_US` and `FIRST_USE_MS` those are taken with which the twin is nearest to what was measured.

    Raises
    ------
    UnidentifiableError
        Without a run that was not starved and has the latency.
    """
    outcomes = [(run, run.outcome) for run in runs if run.outcome is not None]
    calm = [run for run, outcome in outcomes if not run.is_starved(outcome.throughput_tok_s)][::CALM_STRIDE]
    front_end = calibration.front_end
    front_end = _best(
        [replace(front_end, label_us=label_us) for label_us in LABEL_US], calm, calibration, "itl_ms", report
    )
    return _best(
        [replace(front_end, first_use_ms=first_use_ms) for first_use_ms in FIRST_USE_MS],
        calm,
        calibration,
        "ttft_ms",
        report,
    )


def _best(
    candidates: Sequence[FrontEndLaw],
    runs: Sequence[MeasuredRun],
    calibration: Calibration,
    latency: str,
    report: Callable[[str], None],
) -> FrontEndLaw:
    """Return the candidate that is closest to the logarithm of a measured latency."""
    runs = [run for run in runs if getattr(run.outcome, latency) > 0]
    if not runs:
        raise UnidentifiableError(f"front_end needs runs that were not starved, with {latency} measured")
    measured = np.log([getattr(run.outcome, latency) for run in runs])
    errors = []
    for candidate in candidates:
        known = replace(calibration, front_end=candidate)
        predicted = np.log([getattr(_seen(run, known), latency) for run in runs])
        errors.append(float(np.nanmean(np.abs(predicted - measured))))
        report(f"{calibration.base_model}: {candidate}: {latency} off by a factor {np.exp(errors[-1]):.3f}")
    return candidates[int(np.argmin(errors))]


def _seen(run: MeasuredRun, calibration: Calibration) -> ClientView:
    return client_view(simulate_run(run, calibration), calibration.front_end, client_of(run))


def _generated_over_requested(directory: Path, base_model: str) -> float:
    """Return generated over requested tokens, from the tokenizer family's row of ``length_stats.csv``."""
    for row in read_rows(directory, "length_stats.csv"):
        if row["tokenizer"] and base_model.startswith(row["tokenizer"]) and row["field"] == "output":
            return row.required("generated_over_requested")
    raise UnidentifiableError(f"generated_over_requested needs a row of {base_model} in length_stats.csv")


def _provenance(directory: Path, command: str) -> dict[str, str]:
    return {
        "data": f"{directory.name}: memory_kv, load_times, scheduler_time, step_latency_runs, "
        "length_stats, runs",
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
    }
