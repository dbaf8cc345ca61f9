"""Requests counted adapter by adapter: rates over the window, means and variation of their lengths."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field

import numpy as np

from service.errors import ImportSourceError
from service.imports.observations import Seen
from twin.traffic import MAX_CV

ENOUGH_FOR_LENGTHS = 30
"""Requests from which on the variation of an adapter's lengths is told."""

ENOUGH_FOR_ARRIVALS = 100
"""Requests from which on the variation of its gaps is told; fewer say little of it."""

MAX_SLICES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRule:
    """How counts become a rate.

    Attributes
    ----------
    window_s
        Seconds that the counts cover; None takes the time from the first request to the last.
    quantile
        None: the mean over the window. Else the window is cut into slices and this quantile of their rates
        is taken (0.95: the rate that one slice in twenty exceeds); never less than the mean.
    slice_s
        Length of a slice.
    """

    window_s: float | None = None
    quantile: float | None = None
    slice_s: float = 300.0

    def of_rates(self, mean_rps: float, slice_rps: np.ndarray) -> float:
        """Return the rate to plan for, from the mean and (num_slices,) float64 rates of the slices."""
        if self.quantile is None or slice_rps.shape[0] == 0:
            return mean_rps
        return max(mean_rps, float(np.quantile(slice_rps, self.quantile)))


OVER_THE_WINDOW = RateRule()
"""The mean over the time from the first request to the last."""


@dataclass(slots=True)
class _Counts:
    """One adapter's requests; NaN where a request does not tell."""

    at_s: array = field(default_factory=lambda: array("d"))
    input_tokens: array = field(default_factory=lambda: array("d"))
    output_tokens: array = field(default_factory=lambda: array("d"))


class RequestTally:
    """Requests, added one by one."""

    def __init__(self) -> None:
        self._counts: dict[str, _Counts] = {}
        self._first_s = math.inf
        self._last_s = -math.inf
        self._is_fine = False

    @property
    def num_requests(self) -> int:
        """How many were added."""
        return sum(len(counts.at_s) for counts in self._counts.values())

    def add(
        self,
        adapter_id: str,
        *,
        at_s: float | None = None,
        input_tokens: float | None = None,
        output_tokens: float | None = None,
    ) -> None:
        """Count a request; what it does not tell is None."""
        counts = self._counts.setdefault(adapter_id, _Counts())
        counts.at_s.append(math.nan if at_s is None else at_s)
        counts.input_tokens.append(math.nan if input_tokens is None else input_tokens)
        counts.output_tokens.append(math.nan if output_tokens is None else output_tokens)
        if at_s is not None:
            self._first_s = min(self._first_s, at_s)
            self._last_s = max(self._last_s, at_s)
            self._is_fine = self._is_fine or at_s != math.floor(at_s)

    def window_s(self, rule: RateRule, source: str) -> float:
        """Return the seconds that the requests cover.

        Raises
        ------
        ImportSourceError
            Where neither the requests nor the rule tell.
        """
        if rule.window_s is not None:
            return rule.window_s
        window_s = self._last_s - self._first_s
        if not window_s > 0:
            raise ImportSourceError(
                f"{source}: its requests carry no times that span a window; give --window-s",
                field="--window-s",
            )
        return window_s

    def adapters(self, rule: RateRule, window_s: float) -> dict[str, Seen]:
        """Return rate, lengths and variation of each adapter."""
        return {name: self._seen(counts, rule, window_s) for name, counts in self._counts.items()}

    def _seen(self, counts: _Counts, rule: RateRule, window_s: float) -> Seen:
        at_s = np.array(counts.at_s)
        prompt, output = np.array(counts.input_tokens), np.array(counts.output_tokens)
        return Seen(
            rate_rps=rule.of_rates(at_s.shape[0] / window_s, self._slices(at_s, rule, window_s)),
            input_tokens_mean=_mean(prompt),
            output_tokens_mean=_mean(output),
            input_tokens_cv=_variation(prompt, ENOUGH_FOR_LENGTHS),
            output_tokens_cv=_variation(output, ENOUGH_FOR_LENGTHS),
            arrival_cv=_variation(np.diff(np.sort(at_s)), ENOUGH_FOR_ARRIVALS - 1) if self._is_fine else None,
        )

    def _slices(self, at_s: np.ndarray, rule: RateRule, window_s: float) -> np.ndarray:
        """Return the (num_slices,) rates of whole slices; none where times are missing."""
        num_slices = int(min(window_s / rule.slice_s, MAX_SLICES))
        if rule.quantile is None or num_slices == 0 or np.isnan(at_s).any():
            return np.empty(0)
        slices = ((at_s - self._first_s) / rule.slice_s).astype(np.int64)
        return np.bincount(slices[slices < num_slices], minlength=num_slices) / rule.slice_s


def _mean(values: np.ndarray) -> float | None:
    told = values[~np.isnan(values)]
    return max(1.0, float(told.mean())) if told.shape[0] else None


def _variation(values: np.ndarray, enough: int) -> float | None:
    """Return the coefficient of variation; None of too few values."""
    told = values[~np.isnan(values)]
    if told.shape[0] < enough or told.mean() <= 0:
        return None
    return min(MAX_CV, float(told.std() / told.mean()))
