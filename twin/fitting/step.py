"""Lat_model from long runs: match each run's state, then solve for the coefficients.

A run's mean ITL depends on the step law twice: directly, and through the batch, which grows as steps
slow down. The second way makes a plain regression on simulated states unstable near saturation. So
each run gets a factor of its own on the step law, adjusted until the twin shows the run's measured
ITL; the engine then passes through the states that the real server passed through, and the law's
coefficients follow from one non-negative least-squares problem over all runs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from twin.domain import StepLaw
from twin.errors import UnidentifiableError
from twin.fitting.estimators import Fitted
from twin.kernels.latency import token_weighted_terms
from twin.latency import STEP_TERMS, step_coefficients
from twin.measured import BENCHMARK_CLIENT, server_of, workload_of
from twin.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from twin.domain import Calibration, SimulationReport
    from twin.measured import MeasuredRun

MATCHING_DAMPING = 0.6
"""Near saturation ITL answers a change of the law more than twofold: full steps would overshoot."""

UNMATCHED = 0.05
"""A run whose ITL stays further off than this share does not teach: its state is not the server's."""

OUTLIER = 0.06
"""Residuals beyond this share lose weight (Huber)."""

REWEIGHTINGS = 5
MIN_RUNS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedRun:
    """A measured run with the state its server passed through.

    Attributes
    ----------
    run
        The run.
    regressors
        (num_terms,) float64: mean of each term's regressor over emitted tokens.
    rest_ms
        The part of ITL that is not the step law: scheduler, loads, waiting after preemption.
    itl_ms
        Measured mean ITL.
    factor
        What the law was multiplied with to show it.
    error
        Relative difference of the twin's ITL that is left.
    """

    run: MeasuredRun
    regressors: NDArray[np.float64]
    rest_ms: float
    itl_ms: float
    factor: float
    error: float


def match_runs(
    runs: Sequence[MeasuredRun],
    calibration: Calibration,
    *,
    threads: int,
    rounds: int,
) -> list[MatchedRun]:
    """Return the runs that have an ITL with the states of their servers, by `rounds` of simulation."""
    usable = [run for run in runs if run.outcome is not None and run.outcome.itl_ms > 0]
    factors = np.ones(len(usable))
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds - 1):
            reports = list(pool.map(_simulate_scaled, usable, [calibration] * len(usable), factors))
            ratio = np.array([_measured_over_simulated(*pair) for pair in zip(usable, reports, strict=True)])
            factors *= np.clip(ratio, 0.5, 2.0) ** MATCHING_DAMPING
        reports = list(pool.map(_simulate_scaled, usable, [calibration] * len(usable), factors))
    law = step_coefficients(calibration.step)
    return [
        _matched(run, report, factor, law)
        for run, report, factor in zip(usable, reports, factors, strict=True)
        if report.itl.mean_ms > 0
    ]


def solve(matched: Sequence[MatchedRun]) -> Fitted[StepLaw]:
    """Return the non-negative law that explains the runs' ITL best, in relative terms.

    Raises
    ------
    UnidentifiableError
        With too few runs, or naming a term that no run shows.
    """
    used = [run for run in matched if run.error <= UNMATCHED]
    if len(used) < MIN_RUNS:
        raise UnidentifiableError(f"step.base_ms needs {MIN_RUNS} runs with an ITL, got {len(used)}")
    target_ms = np.array([run.itl_ms - run.rest_ms for run in used])
    design = np.array([run.regressors for run in used]) / target_ms[:, None]
    for term, shown in zip(STEP_TERMS, design.max(axis=0), strict=True):
        if shown <= 0:
            raise UnidentifiableError(f"step.{term} is not shown by any run")
    weights, residuals, coefficients = np.ones(len(used)), np.zeros(len(used)), np.zeros(len(STEP_TERMS))
    for _ in range(REWEIGHTINGS):
        coefficients, _ = nnls(design * weights[:, None], weights)
        residuals = design @ coefficients - 1.0
        weights = np.sqrt(np.minimum(1.0, OUTLIER / np.maximum(np.abs(residuals), 1e-9)))
    errors = _errors_of_positive_terms(design * weights[:, None], residuals * weights, coefficients)
    return Fitted(
        law=StepLaw(**{term: float(c) for term, c in zip(STEP_TERMS, coefficients, strict=True)}),
        standard_errors={f"step.{term}": error for term, error in zip(STEP_TERMS, errors, strict=True)},
        error_pct=float(100 * np.mean(np.abs(residuals))),
    )


def _simulate_scaled(run: MeasuredRun, calibration: Calibration, factor: float) -> SimulationReport:
    scaled = StepLaw(**{term: getattr(calibration.step, term) * factor for term in STEP_TERMS})
    return simulate(
        workload_of(run, calibration, seed=0),
        server_of(run),
        replace(calibration, step=scaled),
        horizon_s=run.duration_s,
        client=BENCHMARK_CLIENT,
    )


def _measured_over_simulated(run: MeasuredRun, report: SimulationReport) -> float:
    assert run.outcome is not None
    ratio = run.outcome.itl_ms / report.itl.mean_ms
    return ratio if np.isfinite(ratio) else 1.0


def _matched(
    run: MeasuredRun, report: SimulationReport, factor: float, law: NDArray[np.float64]
) -> MatchedRun:
    assert run.outcome is not None
    # The law is linear in its coefficients: each term at coefficient 1 is a regressor.
    regressors = token_weighted_terms(report.state_samples, len(STEP_TERMS), run.max_lora_rank, run.max_loras)
    return MatchedRun(
        run=run,
        regressors=regressors,
        rest_ms=float(report.itl.mean_ms - factor * (law @ regressors)),
        itl_ms=run.outcome.itl_ms,
        factor=float(factor),
        error=abs(run.outcome.itl_ms / report.itl.mean_ms - 1.0),
    )


def _errors_of_positive_terms(
    design: NDArray[np.float64], residuals: NDArray[np.float64], coefficients: NDArray[np.float64]
) -> list[float]:
    """Return standard errors; a term at its bound of 0 has none of its own and gets 0."""
    free = coefficients > 0
    freedom = max(design.shape[0] - int(free.sum()), 1)
    variance = float(residuals @ residuals) / freedom
    covariance = variance * np.linalg.pinv(design[:, free].T @ design[:, free])
    errors = np.zeros(len(coefficients))
    errors[free] = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return [float(error) for error in errors]
