"""How `starvation_risk` is spread: over the GPUs of a fleet, and between its two causes."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from placer.problem import PlacementProblem

RISK_RESOLUTION = 0.01
"""The tree for starvation does not tell smaller chances apart."""

LEAST_CHANCE = 1e-300
"""Of a normal error: 37 standard deviations."""


def risk_allowance(problem: PlacementProblem, num_gpus: int) -> float:
    """Return the largest chance of starvation that one of so many GPUs may have.

    `starvation_risk` is the chance that any GPU of the fleet starves, spread evenly; not below what
    the trees can tell apart. Where rates are uncertain half of it is for their errors: see `rate_z`.
    """
    risk = problem.starvation_risk / 2 if problem.workload.has_uncertain_rates else problem.starvation_risk
    return min(problem.starvation_risk, max(_spread(risk, num_gpus), least_allowance(problem)))


def rate_z(problem: PlacementProblem, num_gpus: int) -> float:
    """Return the standard deviations of its load that each of so many GPUs is planned for beyond the mean.

    With half of `starvation_risk`, spread evenly, as the chance that the sum of its adapters' normal
    errors is larger; the other half is for starvation at these rates. 0 where all rates are certain.
    """
    if not problem.workload.has_uncertain_rates:
        return 0.0
    # As `_spread`, but exact for chances so small that 1 less one of them is 1.
    of_each = -math.expm1(math.log1p(-problem.starvation_risk / 2) / max(num_gpus, 1))
    return -NormalDist().inv_cdf(max(of_each, LEAST_CHANCE))


def _spread(risk: float, num_gpus: int) -> float:
    """Return the chance of each of so many GPUs with which any of them is hit with this risk."""
    return 1 - (1 - risk) ** (1 / max(num_gpus, 1))


def least_allowance(problem: PlacementProblem) -> float:
    """Return the chance of starvation that a GPU of the largest fleet may have."""
    return min(problem.starvation_risk, problem.kept_margins.risk_share * RISK_RESOLUTION)
