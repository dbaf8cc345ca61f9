"""The laws of a paged server from whole runs: least squares through the engine itself.

A run's figures depend on the step law directly and through the batch, so the engine is inside the
fit: every evaluation serves every run's requests. Coefficients are held non-negative. Where the data
cannot tell a coefficient from the others, the fit refuses it by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import least_squares

from twin.errors import InvalidInputError, UnidentifiableError
from twin.fitting.estimators import Fitted
from twin.metrics import smape_half_pct
from twin.paged import PAGED_STEP_TERMS
from twin.paged_domain import (
    DEFAULT_MAX_REQ_TOTAL_LEN,
    PagedCalibration,
    PagedLoadLaw,
    PagedServerConfig,
    PagedStepLaw,
)
from twin.paged_measured import QUEUE_FREE_TTFT_MS, kept_up, paged_workload_of, restated_itl_ms
from twin.simulate import simulate_requests
from twin.workload import generate_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from twin.domain import SimulationReport
    from twin.paged_measured import MeasuredPagedRun, PagedOutcome
    from twin.workload import RequestStream

GPU_TYPE = "unknown-gpu"
"""The table does not name its GPU."""

ENGINE_VERSION = "slora"
POOL_TOKENS = 82_528
"""The measured server's pool, as told with the runs; their table does not repeat it."""

ADAPTER_TOKENS_PER_RANK = 4
"""Four adapted projections, A and B each as wide as a key or value: a token of pool for each."""

START = {
    "decode_base_ms": 15.0,
    "decode_request_ms": 0.2,
    "decode_crowd_ms": 0.3,
    "decode_rank_ms": 0.001,
    "prefill_base_ms": 25.0,
    "prefill_token_ms": 0.03,
    "prefill_rank_ms": 0.1,
    "load_rank_ms": 0.2,
}
"""Where the fit starts; also the scale of each coefficient."""

_STEPS = ("decode_base_ms", "decode_request_ms", "prefill_base_ms", "prefill_token_ms")

FORMS = {
    "steps": _STEPS,
    "steps + load": (*_STEPS, "load_rank_ms"),
    "steps + crowd + load": (*_STEPS, "decode_crowd_ms", "load_rank_ms"),
    "steps + crowd + prefill rank": (*_STEPS, "decode_crowd_ms", "prefill_rank_ms"),
    "steps + crowd + decode rank + load": (*_STEPS, "decode_crowd_ms", "decode_rank_ms", "load_rank_ms"),
}
"""Candidate laws by the coefficients that are free; the others are 0."""

FORM = "steps + crowd + load"
"""The form that ships; `docs/paged-engine.md` shows the comparison."""

STEP_OF_SCALE = 0.1
"""Derivatives are differences over this share of a coefficient's scale: runs are events, not smooth."""

OUTLIER = 0.05
"""Residuals beyond this share lose weight."""

TTFT_WEIGHT = 0.5
"""TTFT at light load varies more from run to run than ITL does."""

IDENTIFIED = 0.01
"""Least share of a coefficient's occurrences that those of the others must leave unexplained."""

MAX_EVALUATIONS = 12
MIN_RUNS = 12
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """A run that ended, with its requests drawn once."""

    run: MeasuredPagedRun
    outcome: PagedOutcome
    requests: RequestStream
    rank: NDArray[np.int32]


def paged_server(calibration: PagedCalibration) -> PagedServerConfig:
    """Return the flags of the measured server: its pool, and S-LoRA's defaults."""
    return PagedServerConfig(max_total_token_num=calibration.pool_tokens)


def prepare(
    runs: Sequence[MeasuredPagedRun], calibration: PagedCalibration, *, seed: int = SEED
) -> list[PreparedRun]:
    """Draw the requests of each run that ended."""
    prepared = []
    for run in runs:
        if run.outcome is None:
            continue
        workload = paged_workload_of(run, calibration)
        requests = generate_requests(
            workload, horizon_s=run.duration_s, seed=seed, max_model_len=DEFAULT_MAX_REQ_TOTAL_LEN
        )
        prepared.append(PreparedRun(run=run, outcome=run.outcome, requests=requests, rank=workload.rank))
    return prepared


def serve(prepared: PreparedRun, calibration: PagedCalibration) -> SimulationReport:
    """Return the twin's report of a prepared run."""
    return simulate_requests(
        prepared.requests,
        prepared.rank,
        paged_server(calibration),
        calibration,
        horizon_s=prepared.run.duration_s,
    )


def fit_paged(
    runs: Sequence[MeasuredPagedRun],
    *,
    form: str = FORM,
    data: str = "",
    command: str = "",
    report: Callable[[str], None] = lambda _line: None,
) -> PagedCalibration:
    """Fit the laws of a paged server to its measured runs.

    Parameters
    ----------
    runs
        Measured runs of one base model.
    form
        A name of `FORMS`.
    data, command
        For the provenance.
    report
        Told of the progress.

    Raises
    ------
    InvalidInputError
        For an unknown form or several base models.
    UnidentifiableError
        Naming the coefficient that these runs cannot tell.
    """
    if form not in FORMS:
        raise InvalidInputError("form", f"must be one of {', '.join(FORMS)}, got {form!r}")
    ended = [run for run in runs if run.outcome is not None]
    if len(ended) < MIN_RUNS:
        raise UnidentifiableError(f"step.decode_base_ms needs {MIN_RUNS} runs that ended, got {len(ended)}")
    start = _start(ended)
    prepared = prepare(ended, start)
    _require_identified(prepared, start, FORMS[form])
    fitted = _solve(prepared, start, FORMS[form])
    calibration = replace(
        _with(start, fitted.law),
        standard_errors=fitted.standard_errors,
        errors=_errors(prepared, _with(start, fitted.law)),
        provenance={"data": data, "command": command, "date": datetime.now(UTC).date().isoformat()},
    )
    report(f"{form}: {len(ended)} runs, " + ", ".join(f"{k} {v:.2f}" for k, v in calibration.errors.items()))
    return calibration


def _start(runs: Sequence[MeasuredPagedRun]) -> PagedCalibration:
    models = sorted({run.model for run in runs})
    if len(models) > 1:
        raise InvalidInputError("runs", f"must be of one base model, got {', '.join(models)}")
    shares = [
        run.outcome.counted_output_tokens / run.output_tokens for run in runs if run.outcome is not None
    ]
    return PagedCalibration(
        gpu_type=GPU_TYPE,
        base_model=models[0],
        engine_version=ENGINE_VERSION,
        pool_tokens=POOL_TOKENS,
        adapter_tokens_per_rank=ADAPTER_TOKENS_PER_RANK,
        step=PagedStepLaw(**{name: START[name] for name in PAGED_STEP_TERMS}),
        load=PagedLoadLaw(load_rank_ms=START["load_rank_ms"]),
        generated_over_requested=min(max(shares), 1.0),
        max_known_rank=max(run.rank for run in runs),
    )


def _with(calibration: PagedCalibration, law: dict[str, float]) -> PagedCalibration:
    step = PagedStepLaw(**{name: law.get(name, 0.0) for name in PAGED_STEP_TERMS})
    return replace(calibration, step=step, load=PagedLoadLaw(load_rank_ms=law.get("load_rank_ms", 0.0)))


def _residuals(prepared: Sequence[PreparedRun], calibration: PagedCalibration) -> NDArray[np.float64]:
    """Return logarithms of simulated over measured figures, weighted, of all runs."""
    residuals: list[float] = []
    for one in prepared:
        report = serve(one, calibration)
        residuals.extend(_run_residuals(one, report, calibration))
    return np.array(residuals)


def _run_residuals(one: PreparedRun, report: SimulationReport, calibration: PagedCalibration) -> list[float]:
    outcome = one.outcome
    generated = one.run.output_tokens * calibration.generated_over_requested
    completed_rps = max(report.num_requests_completed, 1) / report.horizon_s
    residuals = [
        np.log(completed_rps / outcome.completed_rps),
        np.log(_or(report.itl.mean_ms) / restated_itl_ms(outcome, generated)),
    ]
    if kept_up(outcome, generated):
        residuals.append(np.log(_or(report.itl.p50_ms) / outcome.itl_median_ms))
    if outcome.ttft_median_ms < QUEUE_FREE_TTFT_MS:
        residuals.append(TTFT_WEIGHT * np.log(_or(report.ttft.p50_ms) / outcome.ttft_median_ms))
    return residuals


def _or(value_ms: float, *, longest_ms: float = 1e7) -> float:
    """A law so slow that nothing finished is as wrong as a law can be."""
    return value_ms if np.isfinite(value_ms) else longest_ms


def _solve(
    prepared: Sequence[PreparedRun], start: PagedCalibration, names: tuple[str, ...]
) -> Fitted[dict[str, float]]:
    scale = np.array([START[name] for name in names])
    lower = np.array([0.01 if name.endswith("base_ms") else 0.0 for name in names])

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        law = dict(zip(names, (x * scale).tolist(), strict=True))
        return _residuals(prepared, _with(start, law))

    def jacobian(x: NDArray[np.float64]) -> NDArray[np.float64]:
        here = residuals(x)
        columns = [(residuals(x + step) - here) / STEP_OF_SCALE for step in STEP_OF_SCALE * np.eye(x.size)]
        return np.array(columns).T

    result = least_squares(
        residuals,
        np.ones(len(names)),
        jac=jacobian,  # pyright: ignore[reportArgumentType] (the stubs know names only)
        bounds=(lower, np.inf),
        loss="soft_l1",
        f_scale=OUTLIER,
        max_nfev=MAX_EVALUATIONS,
        ftol=1e-3,
        xtol=1e-3,
    )
    slopes = jacobian(result.x)
    left = residuals(result.x)
    kept = np.abs(left) < 3 * OUTLIER
    variance = float(np.sum(left[kept] ** 2)) / max(int(kept.sum()) - len(names), 1)
    covariance = variance * np.linalg.inv(slopes[kept].T @ slopes[kept])
    errors = np.sqrt(np.diag(covariance)) * scale
    return Fitted(
        law=dict(zip(names, (result.x * scale).tolist(), strict=True)),
        standard_errors={
            ("load." if name.startswith("load") else "step.") + name: float(error)
            for name, error in zip(names, errors, strict=True)
        },
        error_pct=100 * float(np.sqrt(variance)),
    )


def _occurrences(one: PreparedRun, report: SimulationReport) -> dict[str, float]:
    """Return how often each coefficient counts in a run, a step; adapters all have the run's rank."""
    decodes, prompt_tokens, _, adapters = report.state_samples[:, :4].T.astype(np.float64)
    is_decode = decodes > 0
    loaded_rank = one.run.rank * report.num_loads / report.num_steps
    return {
        "decode_base_ms": float(np.mean(is_decode)),
        "decode_request_ms": float(np.mean(decodes)),
        "decode_crowd_ms": float(np.mean(1e-3 * decodes**2)),
        "decode_rank_ms": one.run.rank * float(np.mean(is_decode * adapters)),
        "prefill_base_ms": float(np.mean(~is_decode)),
        "prefill_token_ms": float(np.mean(prompt_tokens)),
        "prefill_rank_ms": loaded_rank,
        "load_rank_ms": loaded_rank,
    }


def _require_identified(
    prepared: Sequence[PreparedRun], calibration: PagedCalibration, names: tuple[str, ...]
) -> None:
    """Raise for the coefficient whose occurrences are most nearly a mixture of the others'."""
    counts = [_occurrences(one, serve(one, calibration)) for one in prepared]
    columns = np.array([[row[name] for name in names] for row in counts])
    shares = []
    for index in range(len(names)):
        others = np.delete(columns, index, axis=1)
        mixture = others @ np.linalg.lstsq(others, columns[:, index], rcond=None)[0]
        size = float(np.linalg.norm(columns[:, index]))
        shares.append(float(np.linalg.norm(columns[:, index] - mixture)) / size if size > 0 else 0.0)
    worst = int(np.argmin(shares))
    if shares[worst] < IDENTIFIED:
        raise UnidentifiableError(
            f"{names[worst]} cannot be told from the other coefficients by these runs: the others "
            f"explain all but {100 * shares[worst]:.1f} % of where it counts"
        )


def _errors(prepared: Sequence[PreparedRun], calibration: PagedCalibration) -> dict[str, float]:
    """Return how far the fitted laws are from the runs they were fitted to, %, by figure."""
    reports = [serve(one, calibration) for one in prepared]
    pairs = {
        "completed_requests_smape_half_pct": [
            (report.num_requests_completed / report.horizon_s, one.outcome.completed_rps)
            for one, report in zip(prepared, reports, strict=True)
        ],
        "itl_smape_half_pct": [
            (report.itl.mean_ms, restated_itl_ms(one.outcome, _generated(one.run, calibration)))
            for one, report in zip(prepared, reports, strict=True)
        ],
    }
    figures = {name: smape_half_pct(*np.array(values).T) for name, values in pairs.items()}
    return {name: value for name, value in figures.items() if value is not None}


def _generated(run: MeasuredPagedRun, calibration: PagedCalibration) -> float:
    return run.output_tokens * calibration.generated_over_requested
