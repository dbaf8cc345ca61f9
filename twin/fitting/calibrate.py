"""From a measurement set to calibrations, and how well they predict runs that did not teach them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from twin.domain import Calibration, StepLaw
from twin.errors import InvalidInputError, UnidentifiableError
from twin.fitting.estimators import fit_load, fit_memory, fit_scheduler, with_first_use
from twin.fitting.step import match_runs, solve
from twin.fitting.tables import read_rows
from twin.measured import DEFAULT_ENGINE_VERSION, DEFAULT_GPU_TYPE, read_runs
from twin.metrics import smape_half_pct
from twin.shapes import KNOWN_SHAPES
from twin.validate import simulate_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from twin.domain import LoadLaw, ModelShape
    from twin.fitting.estimators import Fitted
    from twin.fitting.step import MatchedRun
    from twin.measured import MeasuredRun

START = StepLaw(
    base_ms=13.0,
    decode_ms=0.0,
    prefill_ms=0.02,
    context_ms=0.05,
    compute_ms=0.04,
    adapter_ms=0.55,
    adapter_token_ms=0.18,
    adapter_rank_ms=0.03,
    slot_ms=0.01,
)
"""Where the matching starts; any law of this size ends in the same place."""

MATCHING_ROUNDS = (4, 3)
"""Simulations of every run before the first and the second solution of the step law."""

FIRST_USE_MS = (0.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
"""Candidates for the API server's time for an adapter's first request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedCalibration:
    """A calibration and the matched runs it was solved from."""

    calibration: Calibration
    matched: tuple[MatchedRun, ...]


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
        Tables in the layout of ``h100_vllm``: memory_kv, load_times, scheduler_time, length_stats, runs.
    base_model
        As the tables name it.
    model
        Its shapes; None takes the known ones.
    command
        The command line, for the provenance.
    report
        Receives a line about each stage.

    Raises
    ------
    InvalidInputError, UnidentifiableError
        Naming the table, or the coefficient that the data cannot tell.
    """
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
        load=with_first_use(load, 300.0).law,
        generated_over_requested=_generated_over_requested(directory, base_model),
        max_known_rank=memory.max_known_rank,
    )
    step, matched = _fit_step(runs, calibration, report)
    calibration = replace(calibration, step=step.law)
    calibration = replace(calibration, load=_fit_first_use(runs, calibration, report))
    errors = {
        "memory.kv_tokens_mape_pct": memory.fitted.error_pct,
        "memory.verdict_accuracy": memory.verdict_accuracy,
        "load.ms_mape_pct": load.error_pct,
        "scheduler.us_mape_pct": scheduler.error_pct,
        "step.itl_mape_pct": step.error_pct,
    }
    fits = (memory.fitted, load, scheduler, step)
    calibration = replace(
        calibration,
        standard_errors={name: value for fit in fits for name, value in fit.standard_errors.items()},
        errors=errors,
        provenance=_provenance(directory, command),
    )
    return FittedCalibration(calibration=calibration, matched=tuple(matched))


def measured_models(directory: Path) -> tuple[str, ...]:
    """Return the base models that a measurement set has runs of, sorted."""
    return tuple(sorted({run.model for run in read_runs(directory / "runs.csv")}))


def without_group(fitted: FittedCalibration, group: str) -> Calibration:
    """Return the calibration whose step law was solved without one workload group."""
    rest = [matched for matched in fitted.matched if matched.run.group != group]
    return replace(fitted.calibration, step=solve(rest).law)


def _fit_step(
    runs: Sequence[MeasuredRun], calibration: Calibration, report: Callable[[str], None]
) -> tuple[Fitted[StepLaw], list[MatchedRun]]:
    """Solve for the step law twice: states matched with a better law are closer to the servers'."""
    threads = os.cpu_count() or 1
    name = calibration.base_model
    first_rounds, more_rounds = MATCHING_ROUNDS
    matched = match_runs(runs, calibration, threads=threads, rounds=first_rounds)
    step = solve(matched)
    report(f"{name}: step, first: {step.error_pct:.2f} % of ITL on {len(matched)} runs")
    matched = match_runs(runs, replace(calibration, step=step.law), threads=threads, rounds=more_rounds)
    step = solve(matched)
    report(f"{name}: step, second: {step.error_pct:.2f} % of ITL on {len(matched)} runs")
    return step, matched


def _fit_first_use(
    runs: Sequence[MeasuredRun], calibration: Calibration, report: Callable[[str], None]
) -> LoadLaw:
    """Choose the first-use time by TTFT on runs that were not starved, where nothing else shows it."""
    outcomes = [(run, run.outcome) for run in runs if run.outcome is not None]
    calm = [pair for pair in outcomes if not pair[0].is_starved(pair[1].throughput_tok_s)][::4]
    measured = [outcome.ttft_ms for _, outcome in calm]
    best, best_error = calibration.load, float("inf")
    for first_use_ms in FIRST_USE_MS:
        load = replace(calibration.load, first_use_ms=first_use_ms)
        candidate = replace(calibration, load=load)
        predicted = [simulate_run(run, candidate).ttft.mean_ms for run, _ in calm]
        error = smape_half_pct(np.log(predicted), np.log(measured))
        report(f"{calibration.base_model}: first use {first_use_ms:.0f} ms: log TTFT off by {error:.2f} %")
        if error is not None and error < best_error:
            best, best_error = load, error
    return best


def _generated_over_requested(directory: Path, base_model: str) -> float:
    """Return generated over requested tokens, from the tokenizer family's row of ``length_stats.csv``."""
    required = ("tokenizer", "field", "generated_over_requested")
    for row in read_rows(directory, "length_stats.csv", required):
        if base_model.startswith(row["tokenizer"]) and row["field"] == "output":
            return float(row["generated_over_requested"])
    raise UnidentifiableError(f"generated_over_requested needs a row of {base_model} in length_stats.csv")


def _provenance(directory: Path, command: str) -> dict[str, str]:
    return {
        "data": f"{directory.name}: memory_kv, load_times, scheduler_time, length_stats, runs",
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
    }
