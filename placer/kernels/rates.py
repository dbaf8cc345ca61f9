"""Rates that are known but for an error: what a GPU must carry beside the mean of its load.

An adapter's load is its best-case utilisation of a GPU, which is proportional to its rate. Its error is
that of the rate; errors of adapters are independent, so their variances add. A GPU is planned for its
mean load plus z standard deviations, as if all its rates were higher by the same factor. Both sums are
two more numbers of a GPU's state, behind the aggregates that the surrogate reads.
"""

from math import sqrt

from numba import njit

from models.kernels.features import (
    ACTIVE,
    ACTIVE_TAU_0,
    COUNT,
    MAX_RANK,
    NUM_ACTIVE,
    NUM_AGGREGATES,
    RANK,
    RATE_SQUARED,
    TOKENS_SQUARED,
    expected_active,
    joined_terms,
)

LOAD = NUM_AGGREGATES
"""Place of the sum of loads in a GPU's state; behind it that of their variances."""
LOAD_VARIANCE = NUM_AGGREGATES + 1
NUM_STATE = NUM_AGGREGATES + 2


@njit(cache=True, nogil=True, error_model="numpy")
def joined(out, state, terms):
    """Write to `out` the state of a GPU with one adapter more; each (NUM_STATE,) float64."""
    joined_terms(out, state, terms)
    out[LOAD] = state[LOAD] + terms[LOAD]
    out[LOAD_VARIANCE] = state[LOAD_VARIANCE] + terms[LOAD_VARIANCE]


@njit(cache=True, nogil=True, error_model="numpy")
def rate_factor(state, rate_z):
    """Return planned load over mean load, at least 1; 1 where all rates are certain.

    Parameters
    ----------
    state
        (NUM_STATE,) float64 of at least one adapter.
    rate_z
        Standard deviations of the load that a GPU is planned for beyond its mean.
    """
    if state[LOAD_VARIANCE] == 0.0:
        return 1.0
    return 1.0 + rate_z * sqrt(state[LOAD_VARIANCE]) / state[LOAD]


@njit(cache=True, nogil=True, error_model="numpy")
def at_planned_rates(state, rate_z):
    """Return the aggregates that the surrogate reads with all rates higher by `rate_factor`.

    Sums of 1 - exp(-u tau) at higher rates are those at longer tau, read between the stored ones.
    Parameters as in `rate_factor`.
    """
    factor = rate_factor(state, rate_z)
    raised = state * factor
    for kept in (COUNT, RANK, MAX_RANK):
        raised[kept] = state[kept]
    for squared in (RATE_SQUARED, TOKENS_SQUARED):
        raised[squared] *= factor
    for k in range(NUM_ACTIVE):
        raised[ACTIVE + k] = expected_active(state, factor * ACTIVE_TAU_0 * 2.0**k)
    return raised
