"""A calibration from an agent's measurement set: states that a server was held in, and nothing longer.

Each row of ``step_points.csv`` is the mean over the steps of one held state, so one non-negative
least-squares problem over these rows gives the step law, and what a scan costs for each waiting
request. What a scheduler takes for each step and each running request cannot be told from the outside: it
is in the step law. A term that no row shows is 0, and the calibration's provenance names it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from twin.domain import Calibration, LoadLaw, SchedulerLaw, StepLaw
from twin.errors import InvalidInputError, UnidentifiableError
from twin.fitting.estimators import Fitted, fit_memory, load_rows
from twin.fitting.step import StepObservation, errors_of_positive_terms, robust_nnls
from twin.fitting.tables import column, full_column, read_rows
from twin.kernels.latency import step_terms
from twin.latency import STEP_TERMS
from twin.measured import read_runs
from twin.measurement_set import CHECKS, EXACT_ANSWERS, STEPS
from twin.validate import figures, predict_runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from twin.measurement_set import Manifest

SURE = 0.01
"""A relative standard error below this does not make a row weigh more: rows also differ in kind."""

MIN_POINTS = 6

SCAN = "scheduler.scanned_us"
LOAD_TERMS = ("cpu_ms", "cpu_padding_ms", "disk_ms", "disk_rank_ms")
STATE = ("decodes", "prefill_tokens", "context_tokens", "adapters_in_batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepRows:
    """Rows of ``step_points.csv`` as regressors.

    Attributes
    ----------
    terms
        (num_rows, num_terms + 1) float64: the step law's terms, and the scan's at 1 us a request.
    step_ms, weight
        (num_rows,) float64.
    kinds
        What each row held.
    """

    terms: NDArray[np.float64]
    step_ms: NDArray[np.float64]
    weight: NDArray[np.float64]
    kinds: tuple[str, ...]


def fit_points(
    directory: Path, manifest: Manifest, *, command: str = "", report: Callable[[str], None] = lambda _: None
) -> tuple[Calibration, tuple[StepObservation, ...]]:
    """Return the calibration of an agent's set, and the steps that its step law was solved from.

    Raises
    ------
    InvalidInputError, UnidentifiableError
        Naming the table, or the coefficient that the data cannot tell.
    """
    name, model = manifest.base_model, manifest.shape
    memory, load = fit_memory(directory, name, model), fit_load_points(directory, name)
    rows = _step_rows(directory, name)
    step, scheduler, not_shown = _solve(rows)
    report(f"{name}: memory {memory.fitted.error_pct:.2f} %, load {load.error_pct:.2f} %")
    report(f"{name}: step {step.error_pct:.2f} % of {len(rows.step_ms)} states")
    fits = (memory.fitted, load, step, scheduler)
    calibration = Calibration(
        gpu_type=manifest.gpu_type,
        base_model=name,
        engine_version=manifest.engine_version,
        model=model,
        memory=memory.fitted.law,
        step=step.law,
        scheduler=scheduler.law,
        load=load.law,
        generated_over_requested=EXACT_ANSWERS,
        max_known_rank=memory.max_known_rank,
        standard_errors={key: value for fit in fits for key, value in fit.standard_errors.items()},
        errors={
            "memory.kv_tokens_mape_pct": memory.fitted.error_pct,
            "memory.verdict_accuracy": memory.verdict_accuracy,
            "load.ms_mape_pct": load.error_pct,
            "step.ms_mape_pct": step.error_pct,
        },
        provenance=_provenance(directory, manifest, command, not_shown),
    )
    checked = _check_errors(directory, calibration)
    for key, value in checked.items():
        report(f"{name}: {key} {value:.3g}")
    return replace(calibration, errors={**calibration.errors, **checked}), _observations(rows)


def fit_load_points(directory: Path, base_model: str) -> Fitted[LoadLaw]:
    """Fit Lat_load from as many medians as there are; what they do not show is 0.

    The error is relative to the mean load: some loads take next to no time.

    Raises
    ------
    UnidentifiableError
        Without a load from host memory.
    """
    rows = load_rows(directory, base_model)
    if not any(row["source"] == "cpu" for row in rows):
        raise UnidentifiableError("load.cpu_ms needs loads from host memory")
    rank, measured_ms = full_column(rows, "adapter_rank"), full_column(rows, "median_ms")
    padded = rank < full_column(rows, "max_lora_rank")
    from_disk = np.array([row["source"] == "disk" for row in rows])
    terms = np.column_stack((np.ones(len(rows)), padded, from_disk, from_disk * rank)).astype(np.float64)
    scale_ms = float(measured_ms.mean())
    coefficients, _ = nnls(terms, measured_ms)
    residuals = terms @ coefficients - measured_ms
    errors = errors_of_positive_terms(terms, residuals, coefficients)
    return Fitted(
        law=LoadLaw(**{name: float(c) for name, c in zip(LOAD_TERMS, coefficients, strict=True)}),
        standard_errors={f"load.{name}": error for name, error in zip(LOAD_TERMS, errors, strict=True)},
        error_pct=float(100 * np.mean(np.abs(residuals)) / scale_ms) if scale_ms > 0 else 0.0,
    )


def _step_rows(directory: Path, base_model: str) -> _StepRows:
    rows = [row for row in read_rows(directory, STEPS) if row["model"] == base_model]
    if len(rows) < MIN_POINTS:
        raise UnidentifiableError(f"step.base_ms needs {MIN_POINTS} held states, got {len(rows)}")
    states = np.column_stack([full_column(rows, name) for name in STATE])
    slots, ranks = full_column(rows, "max_loras"), full_column(rows, "max_lora_rank")
    terms = np.concatenate(
        [
            step_terms(state[None, :], int(rank), int(count))
            for state, rank, count in zip(states, ranks, slots, strict=True)
        ]
    )
    step_ms = full_column(rows, "step_ms")
    if not (step_ms > 0).all():
        row = rows[int(np.argmin(step_ms > 0))]
        raise InvalidInputError(f"{row.where}, step_ms", f"must be > 0, got {row['step_ms']!r}")
    relative = np.nan_to_num(column(rows, "step_ms_se"), nan=0.0) / step_ms
    return _StepRows(
        terms=np.column_stack((terms, 1e-3 * full_column(rows, "scanned"))),
        step_ms=step_ms,
        weight=SURE / np.maximum(relative, SURE),
        kinds=tuple(row["kind"] for row in rows),
    )


def _solve(rows: _StepRows) -> tuple[Fitted[StepLaw], Fitted[SchedulerLaw], tuple[str, ...]]:
    """Return step law, scheduler law, and the terms that no row shows."""
    names = [f"step.{name}" for name in STEP_TERMS] + [SCAN]
    shown = rows.terms.max(axis=0) > 0
    found, residuals, errors = robust_nnls(rows.terms[:, shown] / rows.step_ms[:, None], rows.weight)
    coefficients, standard_errors = np.zeros(len(names)), dict.fromkeys(names, 0.0)
    coefficients[shown] = found
    standard_errors.update(zip(np.array(names)[shown].tolist(), errors, strict=True))
    error_pct = float(100 * np.average(np.abs(residuals), weights=rows.weight))
    step = StepLaw(**{name: float(c) for name, c in zip(STEP_TERMS, coefficients[:-1], strict=True)})
    scan_error = standard_errors.pop(SCAN)
    return (
        Fitted(law=step, standard_errors=standard_errors, error_pct=error_pct),
        Fitted(
            law=SchedulerLaw(base_us=0.0, running_us=0.0, scanned_us=float(coefficients[-1]), far_us=0.0),
            standard_errors={SCAN: scan_error},
            error_pct=error_pct,
        ),
        tuple(name for name, is_shown in zip(names, shown, strict=True) if not is_shown),
    )


def _observations(rows: _StepRows) -> tuple[StepObservation, ...]:
    """Return the rows that no queue stood behind as observations of the step law alone."""
    return tuple(
        StepObservation(kind=kind, group="", terms=terms[:-1], step_ms=float(step_ms), weight=float(weight))
        for kind, terms, step_ms, weight in zip(
            rows.kinds, rows.terms, rows.step_ms, rows.weight, strict=True
        )
        if terms[-1] == 0
    )


def _check_errors(directory: Path, calibration: Calibration) -> dict[str, float]:
    """Return how far the twin is from the set's own open-loop runs, which taught nothing."""
    path = directory / CHECKS
    if not path.is_file():
        return {}
    runs = [run for run in read_runs(path) if run.model == calibration.base_model]
    found = figures(predict_runs(runs, lambda _: calibration))
    names = ("throughput_smape_half_pct", "itl_smape_half_pct", "starvation_accuracy")
    return {f"check.{name}": float(value) for name in names if (value := found[name]) is not None}


def _provenance(
    directory: Path, manifest: Manifest, command: str, not_shown: tuple[str, ...]
) -> dict[str, str]:
    told = {
        "data": f"{directory.name}: measured by the agent {manifest.agent_id}",
        "device": manifest.device,
        "server": manifest.command,
        "measured_on": manifest.measured_on,
        "not_measured": ", ".join(not_shown),
        "uncertain": "; ".join(manifest.uncertain),
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
    }
    return {name: text for name, text in told.items() if text}
