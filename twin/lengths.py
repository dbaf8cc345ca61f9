"""How long requests are: ShareGPT's joint law, a gamma law, or quantiles, for each adapter.

An adapter's mean and coefficient of variation are those of the law. Lengths are whole tokens from 1
to the model's longest, so a law with much of itself below one token or above the longest request
has another mean after that: `twin/README.md` says by how much.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from twin.kernels.requests import GAMMA_LENGTH, QUANTILE_LENGTH, SHAREGPT, draw_lengths
from twin.traffic import MAX_TOKENS, SMALLEST_CV

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.domain import Workload

QUANTILES = 65_536

SHAREGPT_OUTPUT_LEVELS = (
    *(0.0, 0.1, 0.2, 0.3, 0.39, 0.49, 0.56, 0.64, 0.72, 0.79, 0.845),
    *(0.88, 0.91, 0.935, 0.955, 0.972, 0.986, 0.991, 0.9935, 0.9965, 0.9985, 1.0),
)
SHAREGPT_OUTPUT_QUANTILES = (
    *(0.017, 0.041, 0.102, 0.194, 0.305, 0.595, 0.851, 1.135, 1.413, 1.693, 1.989),
    *(2.263, 2.594, 3.002, 3.382, 3.791, 4.147, 4.344, 4.511, 5.279, 6.092, 6.742),
)
"""Output lengths over their mean at these levels, linear between, fitted to a histogram of ShareGPT.

Its longest 1 % matter: an adapter holds its slot until its longest request ends. A Beta law of the
same mean and deviation has no such tail and overstates slot-bound throughput by up to 4 % more.
"""

SHAREGPT_FRANK_THETA = -2.4
"""Parameter of the Frank copula between ShareGPT's prompt and output lengths.

Measured servers hold about 360 KV tokens for each running request in every regime (KV use x KV size /
running requests); independent lengths would make it 430. This value gives the measured one.
"""


@lru_cache(maxsize=8)
def _beta_quantiles(alpha: float, beta: float, low: float, width: float) -> NDArray[np.float64]:
    """Return QUANTILES mid-point quantiles of ``low + width * Beta(alpha, beta)``, over their mean.

    With ``y = x**alpha`` the density is ``(1 - y**(1/alpha))**(beta-1)``: smooth, so a trapezoid
    rule on a grid of y gives the distribution function without the singularity at 0.
    """
    grid = np.linspace(0.0, 1.0, 65_537)
    density = (1.0 - grid ** (1.0 / alpha)) ** (beta - 1.0)
    cumulative = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2)))
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    y = np.interp(levels * cumulative[-1], cumulative, grid)
    quantiles = low + width * y ** (1.0 / alpha)
    quantiles /= quantiles.mean()
    quantiles.flags.writeable = False
    return quantiles


@lru_cache(maxsize=1)
def sharegpt_lengths() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return joint samples of ShareGPT's prompt and output lengths, each over its mean.

    An additive recurrence covers the unit square evenly; the Frank copula's conditional quantile
    turns it into dependent levels, and the two marginal laws turn those into lengths.

    Returns
    -------
    Two (QUANTILES,) float64 arrays; row `i` of both belongs to one request.
    """
    plastic = 1.324717957244746
    index = np.arange(QUANTILES)
    u = (0.5 + index / plastic) % 1.0
    w = (0.5 + index / plastic**2) % 1.0
    theta = SHAREGPT_FRANK_THETA
    odds = np.expm1(-theta)
    v = -np.log1p(w * odds / (w + (1.0 - w) * np.exp(-theta * u))) / theta
    prompt = _beta_quantiles(0.40, 1.48, 4.0, 1020.0)[(u * QUANTILES).astype(np.int64)]
    output = np.interp(v, SHAREGPT_OUTPUT_LEVELS, SHAREGPT_OUTPUT_QUANTILES)
    lengths = prompt / prompt.mean(), output / output.mean()
    for column in lengths:
        column.flags.writeable = False
    return lengths


@lru_cache(maxsize=1)
def _joint_lengths() -> NDArray[np.float32]:
    """Return `sharegpt_lengths` side by side, (QUANTILES, 2) float32: a pair is one cache line."""
    joint = np.column_stack(sharegpt_lengths()).astype(np.float32)
    joint.flags.writeable = False
    return joint


def lengths_of(
    workload: Workload, adapter_of: NDArray[np.int32], rng: np.random.Generator, *, max_model_len: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Draw prompt and output length of each request.

    Parameters
    ----------
    workload
        The adapters with their laws.
    adapter_of
        (num_requests,) int32, the adapter of each request.
    rng
        Source of all randomness.
    max_model_len
        Prompt and output together are cut to this many tokens.

    Returns
    -------
    Two (num_requests,) int32 columns, each length >= 1.
    """
    cv = np.column_stack((workload.input_tokens_cv, workload.output_tokens_cv))
    law = np.where(np.isnan(cv), SHAREGPT, GAMMA_LENGTH).astype(np.int8)
    first_knot = np.zeros((workload.num_adapters, 2, 2), np.int64)
    knot_level, knot_tokens = _knots(workload, law, first_knot)
    return draw_lengths(
        rng,
        adapter_of,
        _joint_lengths(),
        law,
        np.column_stack((workload.input_tokens_mean, workload.output_tokens_mean)),
        np.maximum(cv, SMALLEST_CV),
        first_knot,
        knot_level,
        knot_tokens,
        min(max_model_len, MAX_TOKENS),
    )


def _knots(
    workload: Workload, law: NDArray[np.int8], first_knot: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lay all laws by quantiles end to end; mark whose they are in `law` and `first_knot`."""
    levels: list[float] = []
    tokens: list[float] = []
    for side, laws in enumerate((workload.input_tokens_quantiles, workload.output_tokens_quantiles)):
        for row, quantiles in enumerate(laws):
            if quantiles is not None:
                law[row, side] = QUANTILE_LENGTH
                first_knot[row, side] = len(levels), len(levels) + len(quantiles.levels) - 1
                levels.extend(quantiles.levels)
                tokens.extend(quantiles.tokens)
    return np.array(levels, np.float64), np.array(tokens, np.float64)
