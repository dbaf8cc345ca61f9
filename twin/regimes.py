"""Unpredictable traffic: every adapter's rate and law change about every 300 seconds.

Two regimes make a workload's schedules. The reference's, as published, does not keep the rate: where
it turns to log-normal gaps, these are ``exp(rate * z)`` seconds, about one request a second for a
small rate. Ours keeps each adapter's mean rate at every moment.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from twin.errors import InvalidInputError
from twin.traffic import ARRIVAL_LAWS, REFERENCE_LOGNORMAL, RateSchedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from twin.domain import Workload

CHANGE_EVERY_S = 300.0
CHANGE_JITTER = 0.2
"""Time between two changes is uniform within this share of the mean: adapters do not change as one."""

RATE_STEP = 1.5
"""A change multiplies or divides the rate by this."""

LARGEST_FACTOR = 7.5
"""The reference keeps rates within 1/7.5 and 7.5 requests a second; ours, within these factors of
the adapter's own rate."""

BURSTY_CV = 2.0
"""Of the log-normal gaps in our regime."""

GAMMA, LOGNORMAL = ARRIVAL_LAWS.index("gamma"), ARRIVAL_LAWS.index("lognormal")


def reference_unpredictable(workload: Workload, *, horizon_s: float, seed: int) -> Workload:
    """Return the workload in the reference's regime.

    An adapter starts Poisson at its rate. At each change its rate is multiplied or divided by 1.5 and
    kept within [1/7.5, 7.5] requests a second; then it draws Poisson or log-normal gaps, evenly.

    Parameters
    ----------
    workload
        The adapters; `rate_rps` stays what a plan counts on.
    horizon_s
        Changes are drawn up to here, seconds, > 0.
    seed
        Of the changes; arrivals have their own.
    """

    def pieces(rate_rps: float, num_pieces: int, rng: np.random.Generator) -> RateSchedule:
        up = rng.random(num_pieces) < 0.5  # noqa: PLR2004 (evenly)
        bursty = rng.random(num_pieces) < 0.5  # noqa: PLR2004 (evenly)
        rates = [rate_rps]
        for rises in up[1:]:
            moved = rates[-1] * RATE_STEP if rises else rates[-1] / RATE_STEP
            rates.append(min(max(moved, 1.0 / LARGEST_FACTOR), LARGEST_FACTOR))
        bursty[0] = False
        return _schedule(rates, np.where(bursty, REFERENCE_LOGNORMAL, GAMMA), 1.0, rng)

    return _with_schedules(workload, horizon_s, seed, pieces)


def unpredictable(
    workload: Workload, *, horizon_s: float, seed: int, bursty_cv: float = BURSTY_CV
) -> Workload:
    """Return the workload in a regime whose rate is, on average and at every moment, each adapter's own.

    A rate moves on a ladder of factors 1.5, one step up or down at a change, staying where a step
    would leave the ladder: all rungs are equally likely at all times, so the ladder is scaled to mean
    1. It has an odd number of rungs, as many as fit within factors of 1/7.5 and 7.5. Gaps are Poisson
    or log-normal, evenly, both of the mean that the rate says.

    Parameters
    ----------
    workload
        The adapters with their mean rates.
    horizon_s
        Changes are drawn up to here, seconds, > 0.
    seed
        Of the changes; arrivals have their own.
    bursty_cv
        Coefficient of variation of the log-normal gaps.
    """
    factors = rate_ladder()

    def pieces(rate_rps: float, num_pieces: int, rng: np.random.Generator) -> RateSchedule:
        steps = np.where(rng.random(num_pieces) < 0.5, 1, -1)  # noqa: PLR2004 (evenly)
        bursty = rng.random(num_pieces) < 0.5  # noqa: PLR2004 (evenly)
        rung = int(rng.integers(factors.shape[0]))
        rungs = []
        for step in steps:
            rungs.append(rung)
            rung = min(max(rung + int(step), 0), factors.shape[0] - 1)
        schedule_cv = np.where(bursty, bursty_cv, 1.0)
        return _schedule(rate_rps * factors[rungs], np.where(bursty, LOGNORMAL, GAMMA), schedule_cv, rng)

    return _with_schedules(workload, horizon_s, seed, pieces)


def rate_ladder() -> NDArray[np.float64]:
    """Return the factors of our regime, ascending, of mean 1, each within 1/7.5 and 7.5."""
    half = int(math.log(LARGEST_FACTOR) / math.log(RATE_STEP))
    while True:
        factors = RATE_STEP ** np.arange(-half, half + 1.0)
        factors /= factors.mean()
        if factors[0] >= 1.0 / LARGEST_FACTOR:
            return factors
        half -= 1


def _with_schedules(
    workload: Workload,
    horizon_s: float,
    seed: int,
    pieces: Callable[[float, int, np.random.Generator], RateSchedule],
) -> Workload:
    if not 0.0 < horizon_s < math.inf:
        raise InvalidInputError("horizon_s", f"must be finite and > 0, got {horizon_s!r}")
    rng = np.random.default_rng(seed)
    num_pieces = 1 + math.ceil(horizon_s / (CHANGE_EVERY_S * (1.0 - CHANGE_JITTER)))
    schedules = tuple(pieces(float(rate_rps), num_pieces, rng) for rate_rps in workload.rate_rps)
    return replace(workload, rate_schedules=schedules)


def _schedule(
    rate_rps: NDArray[np.float64] | list[float],
    law: NDArray[np.int_],
    cv: NDArray[np.float64] | float,
    rng: np.random.Generator,
) -> RateSchedule:
    count = len(rate_rps)
    gaps_s = CHANGE_EVERY_S * rng.uniform(1.0 - CHANGE_JITTER, 1.0 + CHANGE_JITTER, size=count - 1)
    return RateSchedule(
        start_s=np.concatenate(([0.0], np.cumsum(gaps_s))),
        rate_rps=np.asarray(rate_rps),
        arrival_cv=np.broadcast_to(np.asarray(cv, dtype=np.float64), (count,)),
        arrival_law=law.astype(np.int8),
    )
