"""Lat_model from micro-benchmarks and long runs together: match each run's state, then solve.

A long run's latency depends on the step law twice: directly, and through the batch, which grows as steps
slow down. The second way makes a plain regression on simulated states unstable near saturation. So each
run gets a factor of its own on the step law, adjusted until the twin shows what the run measured: the
throughput of a starved server, the TPOT of another. The engine then passes through the states that the
real server passed through. TPOT and not ITL, because a benchmark's ITL counts chunks, and chunks merge
while the API server renders metrics (`twin.client`).

Long runs hold prompts, contexts and batches in nearly the same proportions; short runs of one kind of step
(``step_latency_runs.csv``) tell these terms apart. One non-negative least-squares problem over the
means and medians of long runs and the medians of short ones gives the law's coefficients.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from twin.domain import StepLaw
from twin.errors import UnidentifiableError
from twin.fitting.estimators import Fitted
from twin.kernels.latency import step_terms
from twin.latency import STEP_TERMS, step_coefficients, with_slower_steps
from twin.validate import simulate_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from twin.domain import Calibration, SimulationReport
    from twin.measured import MeasuredRun

MATCHING_DAMPING = 0.6
"""Near saturation latency answers a change of the law more than twofold: full steps would overshoot."""

UNMATCHED = 0.05
"""A run that stays further off than this share does not teach: its state is not the server's."""

PROMPT_CLIENT_MS = 5.0
"""A median ITL below this is that of a client too busy to read answers as they come."""

NEAR_MEDIAN = 0.04
"""Steps within this share of tokens around the median step stand for it."""

RUN_WEIGHT, MEDIAN_WEIGHT, BENCHMARK_WEIGHT = 1.0, 0.35, 0.5

OUTLIER = 0.05
"""Residuals beyond this share lose weight (Huber)."""

REWEIGHTINGS = 8
MIN_RUNS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class StepObservation:
    """A measured time and the step, or the mean of steps, that it belongs to.

    Attributes
    ----------
    kind
        What was measured: a regime of long runs, their median steps, or a micro-benchmark.
    group
        Workload group of the long run; empty for a micro-benchmark.
    terms
        (num_terms,) float64: each term of the law at coefficient 1.
    step_ms
        The measured time that is the step law's.
    weight
        In the least squares.
    """

    kind: str
    group: str
    terms: NDArray[np.float64]
    step_ms: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedRun:
    """A measured run, the factor on the step law that shows it, and how far off it stays.

    Attributes
    ----------
    run, report
        The run, and the twin's report with the factor.
    factor
        What the law was multiplied with.
    error
        Relative difference that is left; NaN where the run did not record what would tell.
    """

    run: MeasuredRun
    report: SimulationReport
    factor: float
    error: float


def match_runs(
    runs: Sequence[MeasuredRun],
    calibration: Calibration,
    *,
    threads: int,
    rounds: int,
) -> list[MatchedRun]:
    """Return the runs that ended with the states of their servers, by `rounds` of simulation."""
    usable = [run for run in runs if run.outcome is not None]
    factors = np.ones(len(usable))
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds - 1):
            reports = list(pool.map(_simulate_scaled, usable, [calibration] * len(usable), factors))
            ratios = np.array([_slower(*pair) for pair in zip(usable, reports, strict=True)])
            factors *= np.clip(np.nan_to_num(ratios, nan=1.0), 0.6, 1.6) ** MATCHING_DAMPING
        reports = list(pool.map(_simulate_scaled, usable, [calibration] * len(usable), factors))
    return [
        MatchedRun(run=run, report=report, factor=float(factor), error=abs(_slower(run, report) - 1.0))
        for run, report, factor in zip(usable, reports, factors, strict=True)
        if report.state_samples.size and report.itl.mean_ms > 0
    ]


def _slower(run: MeasuredRun, report: SimulationReport) -> float:
    """Return how much slower the server was than the report: by throughput if starved, else by TPOT.

    NaN where the run or the report lacks it.
    """
    assert run.outcome is not None
    if run.is_starved(run.outcome.throughput_tok_s):
        ratio = report.throughput_tok_s / (run.outcome.throughput_tok_s or math.nan)
    else:
        ratio = run.outcome.tpot_ms / (report.tpot.mean_ms or math.nan)
    return ratio if math.isfinite(ratio) else math.nan


def _simulate_scaled(run: MeasuredRun, calibration: Calibration, factor: float) -> SimulationReport:
    return simulate_run(run, with_slower_steps(calibration, factor))


def observations_of(matched: Sequence[MatchedRun], law: StepLaw) -> list[StepObservation]:
    """Return the mean step of each run that was matched with `law`, and the median of calm ones."""
    observations = []
    for one in matched:
        if not one.error <= UNMATCHED:
            continue
        run, outcome, samples = one.run, one.run.outcome, one.report.state_samples
        assert outcome is not None
        terms = step_terms(samples, run.max_lora_rank, run.max_loras)
        tokens = samples[:, 0].astype(np.float64)
        if not tokens.any():
            continue
        law_ms = one.factor * (terms @ step_coefficients(law))
        mean_terms, mean_ms = tokens @ terms / tokens.sum(), float(tokens @ law_ms / tokens.sum())
        starved = run.is_starved(outcome.throughput_tok_s)
        observations.append(
            StepObservation(
                kind=f"starved, bound by {one.report.binding_constraint}" if starved else "not starved",
                group=run.group,
                terms=mean_terms,
                step_ms=mean_ms,
                weight=RUN_WEIGHT,
            )
        )
        if not starved and outcome.itl_median_ms > PROMPT_CLIENT_MS:
            near, rest_ms = _around_the_median(tokens, samples, law_ms)
            median_terms = tokens[near] @ terms[near] / tokens[near].sum()
            step_ms = outcome.itl_median_ms - rest_ms
            if step_ms > 0:
                observations.append(
                    StepObservation(
                        kind="not starved, median step",
                        group=run.group,
                        terms=median_terms,
                        step_ms=step_ms,
                        weight=MEDIAN_WEIGHT,
                    )
                )
    return observations


def _around_the_median(
    tokens: NDArray[np.float64], samples: NDArray[np.int64], law_ms: NDArray[np.float64]
) -> tuple[NDArray[np.intp], float]:
    """Return the steps around the median token's, and what of their time is not the step law's."""
    duration_ms = samples[:, 5] * 1e-6
    order = np.argsort(duration_ms, kind="stable")
    level = np.cumsum(tokens[order]) / tokens.sum()
    near = order[np.abs(level - 0.5) <= max(NEAR_MEDIAN, 1.0 / len(order))]
    near = near[tokens[near] > 0] if (tokens[near] > 0).any() else order[tokens[order] > 0][:1]
    median_ms = float(duration_ms[order[np.searchsorted(level, 0.5)]])
    return near, median_ms - float(tokens[near] @ law_ms[near] / tokens[near].sum())


def solve(observations: Sequence[StepObservation]) -> Fitted[StepLaw]:
    """Return the non-negative law that explains the observed steps best, in relative terms.

    Raises
    ------
    UnidentifiableError
        With too few observations, or naming a term that none shows.
    """
    if len(observations) < MIN_RUNS:
        raise UnidentifiableError(f"step.base_ms needs {MIN_RUNS} steps measured, got {len(observations)}")
    measured_ms = np.array([one.step_ms for one in observations])
    design = np.array([one.terms for one in observations]) / measured_ms[:, None]
    for term, shown in zip(STEP_TERMS, design.max(axis=0), strict=True):
        if shown <= 0:
            raise UnidentifiableError(f"step.{term} is not shown by any run")
    given = np.array([one.weight for one in observations])
    coefficients, residuals, errors = robust_nnls(design, given)
    return Fitted(
        law=StepLaw(**{term: float(c) for term, c in zip(STEP_TERMS, coefficients, strict=True)}),
        standard_errors={f"step.{term}": error for term, error in zip(STEP_TERMS, errors, strict=True)},
        error_pct=float(100 * np.average(np.abs(residuals), weights=given)),
    )


def robust_nnls(
    design: NDArray[np.float64], given: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[float]]:
    """Return non-negative coefficients that bring each row of the design nearest to 1.

    Parameters
    ----------
    design
        (num_rows, num_terms) float64, regressors over the measured value.
    given
        (num_rows,) float64, weights; rows with large residuals lose of theirs (Huber).

    Returns
    -------
    Coefficients, (num_terms,); relative residuals, (num_rows,); standard errors, one a coefficient.
    """
    weights, residuals, coefficients = given, np.zeros(len(given)), np.zeros(design.shape[1])
    for _ in range(REWEIGHTINGS):
        coefficients, _ = nnls(design * weights[:, None], weights)
        residuals = design @ coefficients - 1.0
        weights = given * np.sqrt(np.minimum(1.0, OUTLIER / np.maximum(np.abs(residuals), 1e-9)))
    errors = errors_of_positive_terms(design * weights[:, None], residuals * weights, coefficients)
    return coefficients, residuals, errors


def residuals_by_kind(
    observations: Sequence[StepObservation], law: StepLaw
) -> dict[str, tuple[int, float, float]]:
    """Return, for each kind, how many times were measured, their mean absolute and mean error, in %."""
    errors: dict[str, list[float]] = {}
    for one in observations:
        error = float(one.terms @ step_coefficients(law)) / one.step_ms - 1.0
        errors.setdefault(one.kind, []).append(100.0 * error)
    return {
        kind: (len(values), float(np.mean(np.abs(values))), float(np.mean(values)))
        for kind, values in sorted(errors.items())
    }


def errors_of_positive_terms(
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
