"""Request streams: when each request arrives, for which adapter, and how long it is.

Lengths have a mean and a shape. Where an adapter gives no coefficient of variation its shape is
ShareGPT's (prompts 4 + 1020 Beta(0.40, 1.48), outputs by quantiles, long answers going with short
prompts), scaled to its mean; otherwise it is a gamma law. Arrivals are a stationary
renewal process with gamma gaps for each adapter, Poisson where `arrival_cv` is 1.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from twin.domain import MAX_TOKENS
from twin.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from twin.domain import Workload

MAX_REQUESTS = 20_000_000
"""A longer stream is refused: it would take more than 2 GB."""

MAX_TRACE_NS = 366 * 24 * 3600 * 10**9
"""Arrivals of a trace lie within a year: others are mistakes in units, and overflow."""

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

SMALLEST_CV = 1e-9
"""A gamma law needs some variation; this much moves no length by a token."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestStream:
    """Requests in order of arrival, as one server's client sends them.

    Attributes
    ----------
    arrival_ns
        (num_requests,) int64, sorted, >= 0.
    adapter_of
        (num_requests,) int32, row of the adapter in its workload.
    prompt_tokens, output_tokens
        (num_requests,) int32, each >= 1.

    Raises
    ------
    InvalidInputError
        Naming the column.
    """

    arrival_ns: NDArray[np.int64]
    adapter_of: NDArray[np.int32]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]

    def __post_init__(self) -> None:
        count = self.arrival_ns.shape[0]
        for name in ("adapter_of", "prompt_tokens", "output_tokens"):
            column = getattr(self, name)
            if column.shape != (count,):
                raise InvalidInputError(name, f"must have shape ({count},), got {column.shape}")
        if count == 0:
            return
        if self.arrival_ns[0] < 0:
            raise InvalidInputError("arrival_ns", f"must be >= 0, got {self.arrival_ns[0]}")
        if (np.diff(self.arrival_ns) < 0).any():
            raise InvalidInputError("arrival_ns", "must be sorted")
        for name, minimum in (("adapter_of", 0), ("prompt_tokens", 1), ("output_tokens", 1)):
            smallest = getattr(self, name).min()
            if smallest < minimum:
                raise InvalidInputError(name, f"must be >= {minimum}, got {smallest}")

    @property
    def num_requests(self) -> int:
        """How many requests the stream holds."""
        return self.arrival_ns.shape[0]


def generate_requests(
    workload: Workload, *, horizon_s: float, seed: int, max_model_len: int, max_requests: int = MAX_REQUESTS
) -> RequestStream:
    """Draw the requests of one window; same arguments, same bytes.

    Parameters
    ----------
    workload
        The adapters with rates and lengths.
    horizon_s
        Length of the window, seconds, > 0.
    seed
        Seed of the only random generator used.
    max_model_len
        Prompt and output together are cut to this many tokens.
    max_requests
        The stream ends after so many requests, if the window holds more.

    Raises
    ------
    InvalidInputError
        When the window would hold more than `MAX_REQUESTS` requests and `max_requests` is not lower.
    """
    expected = float(workload.rate_rps.sum()) * horizon_s
    if expected > MAX_REQUESTS and max_requests >= MAX_REQUESTS:
        raise InvalidInputError("rate_rps", f"gives {expected:.3g} requests in the window, more than 2e7")
    rng = np.random.default_rng(seed)
    arrival_ns, adapter_of = _arrivals(workload, horizon_s, max_requests, rng)
    pair = rng.integers(0, QUANTILES, size=adapter_of.shape[0], dtype=np.uint16)
    prompt_shape, output_shape = sharegpt_lengths()
    prompt = _lengths(
        workload.input_tokens_mean, workload.input_tokens_cv, prompt_shape[pair], adapter_of, rng
    )
    output = _lengths(
        workload.output_tokens_mean, workload.output_tokens_cv, output_shape[pair], adapter_of, rng
    )
    np.minimum(prompt, max_model_len - 1, out=prompt)
    np.minimum(output, max_model_len - prompt, out=output)
    return RequestStream(
        arrival_ns=arrival_ns, adapter_of=adapter_of, prompt_tokens=prompt, output_tokens=output
    )


TRACE_COLUMNS = ("arrival_s", "adapter_id", "input_tokens", "output_tokens")


def read_trace(path: Path, adapter_ids: Sequence[str]) -> RequestStream:
    """Read requests to replay from a CSV with the columns of `TRACE_COLUMNS`.

    Parameters
    ----------
    path
        The file; arrivals in seconds from the window's start, in any order.
    adapter_ids
        The workload's adapters, in its order.

    Raises
    ------
    InvalidInputError
        Naming the line and the column.
    """
    row_of = {adapter_id: row for row, adapter_id in enumerate(adapter_ids)}
    arrivals: list[int] = []
    columns: tuple[list[int], list[int], list[int]] = ([], [], [])
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if missing := [name for name in TRACE_COLUMNS if name not in (reader.fieldnames or ())]:
            raise InvalidInputError(f"trace.{missing[0]}", f"is a column that {path.name} lacks")
        for line, row in enumerate(reader, start=2):
            if row["adapter_id"] not in row_of:
                raise InvalidInputError(
                    f"trace line {line}, adapter_id", f"must be in the workload, got {row['adapter_id']!r}"
                )
            try:
                arrivals.append(round(float(row["arrival_s"]) * 1e9))
                tokens = int(row["input_tokens"]), int(row["output_tokens"])
            except (TypeError, ValueError, OverflowError) as error:
                raise InvalidInputError(f"trace line {line}", f"must hold numbers: {error}") from error
            if abs(arrivals[-1]) > MAX_TRACE_NS or max(map(abs, tokens)) > MAX_TOKENS:
                raise InvalidInputError(
                    f"trace line {line}", f"must hold at most {MAX_TOKENS} tokens, within a year"
                )
            for values, value in zip(columns, (row_of[row["adapter_id"]], *tokens), strict=True):
                values.append(value)
    arrival_ns = np.array(arrivals, dtype=np.int64)
    order = np.argsort(arrival_ns, kind="stable")
    adapter_of, prompt, output = (np.array(values, dtype=np.int32)[order] for values in columns)
    return RequestStream(
        arrival_ns=arrival_ns[order], adapter_of=adapter_of, prompt_tokens=prompt, output_tokens=output
    )


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


def _lengths(
    mean: NDArray[np.float64],
    cv: NDArray[np.float64],
    shape: NDArray[np.float64],
    adapter_of: NDArray[np.int32],
    rng: np.random.Generator,
) -> NDArray[np.int32]:
    """Scale each request's length over the mean; replace it by a gamma draw where a cv is given."""
    drawn = shape
    given = ~np.isnan(cv)
    if given.any():
        rows = np.flatnonzero(given[adapter_of])
        row_cv = np.maximum(cv[adapter_of[rows]], SMALLEST_CV)
        drawn[rows] = rng.standard_gamma(row_cv**-2) * row_cv**2
    tokens = drawn * mean[adapter_of] + 0.5
    return np.clip(tokens, 1.0, MAX_TOKENS).astype(np.int32)


def _arrivals(
    workload: Workload, horizon_s: float, max_requests: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    poisson = workload.arrival_cv == 1.0
    rows = np.flatnonzero(poisson).astype(np.int32)
    arrival_s, adapter_of = _poisson_arrivals(workload.rate_rps[rows], horizon_s, max_requests, rng)
    adapter_of = rows[adapter_of]
    if not poisson.all():
        rows = np.flatnonzero(~poisson).astype(np.int32)
        other_s, other_of = _gamma_arrivals(
            workload.rate_rps[rows], workload.arrival_cv[rows], horizon_s, rng
        )
        arrival_s = np.concatenate((arrival_s, other_s))
        adapter_of = np.concatenate((adapter_of, rows[other_of]))
        order = np.argsort(arrival_s, kind="stable")[:max_requests]
        arrival_s, adapter_of = arrival_s[order], adapter_of[order]
    return (arrival_s * 1e9).astype(np.int64), adapter_of


def _poisson_arrivals(
    rate_rps: NDArray[np.float64], horizon_s: float, max_requests: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Superpose Poisson processes: exponential gaps at the total rate, owners independent."""
    total = float(rate_rps.sum())
    if total == 0.0:
        return np.empty(0), np.empty(0, np.int32)
    arrival_s = np.empty(0)
    last_s = 0.0
    while last_s < horizon_s and arrival_s.shape[0] < max_requests:
        missing = total * (horizon_s - last_s)
        count = min(int(missing + 6.0 * missing**0.5) + 16, max_requests)
        with np.errstate(over="ignore"):  # an infinite gap: nothing arrives
            more_s = last_s + np.cumsum(rng.standard_exponential(count)) / total
        arrival_s = np.concatenate((arrival_s, more_s)) if arrival_s.shape[0] else more_s
        last_s = float(arrival_s[-1])
    arrival_s = arrival_s[: min(int(np.searchsorted(arrival_s, horizon_s)), max_requests)]
    counts = rng.multinomial(arrival_s.shape[0], rate_rps / total)
    adapter_of = np.repeat(np.arange(rate_rps.shape[0], dtype=np.int32), counts)
    rng.shuffle(adapter_of)
    return arrival_s, adapter_of


def _gamma_arrivals(
    rate_rps: NDArray[np.float64],
    arrival_cv: NDArray[np.float64],
    horizon_s: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Draw stationary renewal processes with gamma gaps, one for each adapter, in adapter order.

    The first arrival is a uniform share of a length-biased gap (gamma of shape + 1), as an observer
    who comes at any time would see it.
    """
    cv = np.maximum(arrival_cv, SMALLEST_CV)
    shape = cv**-2
    with np.errstate(over="ignore"):  # an infinite gap: nothing arrives
        scales_s = cv**2 / rate_rps
    arrivals, owners = [], []
    for row in range(rate_rps.shape[0]):
        scale_s = scales_s[row]
        last_s = float(rng.uniform() * rng.standard_gamma(shape[row] + 1.0) * scale_s)
        times = [np.array([last_s])]
        while last_s < horizon_s:
            missing = rate_rps[row] * (horizon_s - last_s)
            gaps = rng.standard_gamma(shape[row], size=int(missing + 3 * missing**0.5) + 8) * scale_s
            times.append(last_s + np.cumsum(gaps))
            last_s = float(times[-1][-1])
        row_s = np.concatenate(times)
        row_s = row_s[row_s < horizon_s]
        arrivals.append(row_s)
        owners.append(np.full(row_s.shape[0], row, dtype=np.int32))
    return np.concatenate(arrivals), np.concatenate(owners)
