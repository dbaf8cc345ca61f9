"""How an adapter's requests come and how long they are, beyond a mean and a deviation.

Standard library and numpy only, as `twin.domain`, which puts these values into adapters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from twin.errors import InvalidInputError

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

MAX_RATE_RPS = 1e6
"""No single vLLM server answers more; a higher rate is a mistake in units."""

MAX_TOKENS = 1_000_000
"""Above every context length that a served model has."""

MAX_CV = 100.0
"""Measured clients reach a coefficient of variation of about 30."""

SMALLEST_CV = 1e-9
"""A law needs some variation; this much moves no length by a token, and gaps are fixed below it."""

ARRIVAL_LAWS = ("gamma", "weibull", "lognormal")
"""Laws of the gaps between an adapter's requests; a column holds the index of each adapter's."""

REFERENCE_LOGNORMAL = len(ARRIVAL_LAWS)
"""A law of schedules alone: gaps of ``exp(rate_rps * z)`` seconds, z standard normal, whose rate is
not `rate_rps`. See `twin.regimes`."""

LARGEST_MEAN_ERROR = 0.01
"""A mean length given beside quantiles may differ by this share from theirs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RateSchedule:
    """An adapter's traffic piece by piece: rate, variation and law are constant within one.

    Each piece is a stationary process of its own, so that every one has its mean. The last holds to
    the end of the window.

    Attributes
    ----------
    start_s
        (num_pieces,) float64, ascending from 0.
    rate_rps
        (num_pieces,) float64, >= 0; nothing comes in a piece of rate 0.
    arrival_cv
        (num_pieces,) float64, of the gaps; 1 is a Poisson process (unless its law is log-normal).
    arrival_law
        (num_pieces,) int8, index into `ARRIVAL_LAWS`, or `REFERENCE_LOGNORMAL`.

    Raises
    ------
    InvalidInputError
        Naming ``rate_schedule[i].field``.
    """

    start_s: NDArray[np.float64]
    rate_rps: NDArray[np.float64]
    arrival_cv: NDArray[np.float64]
    arrival_law: NDArray[np.int8]

    def __post_init__(self) -> None:
        for name in self.__slots__:
            dtype = np.int64 if name == "arrival_law" else np.float64
            column = np.array(getattr(self, name), dtype=dtype)
            column.flags.writeable = False
            object.__setattr__(self, name, column)
            if column.ndim != 1 or column.shape != self.start_s.shape or column.shape[0] == 0:
                raise InvalidInputError(
                    f"rate_schedule.{name}", f"must hold one value for each piece, got shape {column.shape}"
                )
        start_s, law = self.start_s, self.arrival_law
        rises = np.concatenate(([start_s[0] == 0.0], np.diff(start_s) > 0.0)) & np.isfinite(start_s)
        _require_pieces(rises, start_s, "start_s", "ascending from 0")
        rate = self.rate_rps
        _require_pieces((rate >= 0) & (rate <= MAX_RATE_RPS), rate, "rate_rps", f"in [0, {MAX_RATE_RPS:g}]")
        cv = self.arrival_cv
        _require_pieces((cv >= 0) & (cv <= MAX_CV), cv, "arrival_cv", f"in [0, {MAX_CV:g}]")
        known = (law >= 0) & (law <= REFERENCE_LOGNORMAL)
        _require_pieces(known, law, "arrival_law", f"in 0..{REFERENCE_LOGNORMAL}")
        law = law.astype(np.int8)  # only now: 256 would become 0
        law.flags.writeable = False
        object.__setattr__(self, "arrival_law", law)

    @classmethod
    def from_rates(
        cls, rate_rps: NDArray[np.float64], *, window_s: float, arrival_cv: float = 1.0
    ) -> RateSchedule:
        """Return the schedule of windows of equal length with these rates, gamma gaps.

        Parameters
        ----------
        rate_rps
            (num_windows,) requests a second.
        window_s
            Seconds of each window, > 0.
        arrival_cv
            Of the gaps in all windows.
        """
        rates = np.asarray(rate_rps, dtype=np.float64)
        return cls(
            start_s=np.arange(rates.shape[0]) * window_s,
            rate_rps=rates,
            arrival_cv=np.full(rates.shape[0], arrival_cv),
            arrival_law=np.zeros(rates.shape[0], np.int8),
        )

    def ends_s(self, horizon_s: float) -> NDArray[np.float64]:
        """Return when each piece ends, (num_pieces,) float64; one outside the window ends as it starts."""
        ends = np.append(self.start_s[1:], max(horizon_s, float(self.start_s[-1])))
        return np.clip(ends, self.start_s, np.maximum(horizon_s, self.start_s))

    def mean_rate_rps(self, horizon_s: float) -> float:
        """Return the mean rate over a window from 0."""
        return float(np.sum(self.rate_rps * (self.ends_s(horizon_s) - self.start_s))) / horizon_s


def _require_pieces(valid: NDArray[np.bool_], values: NDArray[Any], name: str, rule: str) -> None:
    if not valid.all():
        piece = int(np.argmin(valid))
        raise InvalidInputError(f"rate_schedule[{piece}].{name}", f"must be {rule}, got {values[piece]!s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthQuantiles:
    """A law of lengths by quantiles, linear between them.

    Attributes
    ----------
    levels
        Ascending, the first 0, the last 1.
    tokens
        Length at each level, >= 1, not descending.

    Raises
    ------
    InvalidInputError
        Naming the field.
    """

    levels: tuple[float, ...]
    tokens: tuple[float, ...]

    def __post_init__(self) -> None:
        levels, tokens = self.levels, self.tokens
        if len(levels) < 2 or levels[0] != 0.0 or levels[-1] != 1.0:  # noqa: PLR2004 (both ends)
            raise InvalidInputError("levels", f"must run from 0 to 1, got {levels[:1] + levels[-1:]}")
        if any(not low < high for low, high in pairwise(levels)):
            raise InvalidInputError("levels", "must ascend")
        if len(tokens) != len(levels):
            raise InvalidInputError(
                "tokens", f"must hold {len(levels)} values, one a level, got {len(tokens)}"
            )
        if any(not low <= high for low, high in pairwise(tokens)):
            raise InvalidInputError("tokens", "must not descend")
        if not 1.0 <= tokens[0] <= tokens[-1] <= MAX_TOKENS:
            raise InvalidInputError(
                "tokens", f"must be in [1, {MAX_TOKENS}], got {tokens[0]!r} to {tokens[-1]!r}"
            )

    @property
    def mean_tokens(self) -> float:
        """Mean of the law, before lengths are rounded to whole tokens."""
        return math.fsum(
            (high - low) * (first + second) / 2
            for low, high, first, second in zip(
                self.levels, self.levels[1:], self.tokens, self.tokens[1:], strict=False
            )
        )
