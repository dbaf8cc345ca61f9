"""What one source tells of a fleet's adapters, and the seam behind which each source stands."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SHOWN_NAMES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a source tells of one adapter; None where it does not tell.

    Attributes
    ----------
    rank
        LoRA rank.
    rate_rps
        Requests a second.
    input_tokens_mean, output_tokens_mean
        Tokens of a request.
    input_tokens_cv, output_tokens_cv, arrival_cv
        Coefficients of variation of the lengths, and of the gaps between requests.
    """

    rank: int | None = None
    rate_rps: float | None = None
    input_tokens_mean: float | None = None
    output_tokens_mean: float | None = None
    input_tokens_cv: float | None = None
    output_tokens_cv: float | None = None
    arrival_cv: float | None = None


SEEN_FIELDS = Seen.__slots__


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """What one source tells.

    Attributes
    ----------
    source
        Its name for a reader.
    adapters
        By adapter id.
    window_s
        Seconds over which it counted requests; None where it did not count.
    base_model
        The base model that its adapters were made for, as the source spells it; None where it does not tell.
    dropped
        What was left out: how often, by reason.
    notes
        What a reader should know beside.
    """

    source: str
    adapters: Mapping[str, Seen]
    window_s: float | None = None
    base_model: str | None = None
    dropped: Mapping[str, int] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """Somewhere a workload can be read from."""

    def read(self) -> Observations:
        """Return what it tells.

        Raises
        ------
        ImportSourceError
            Naming the file, row and column, or the query.
        """
        ...


def listed(names: list[str]) -> str:
    """Return a few of many names, and how many more there are."""
    shown = ", ".join(names[:MAX_SHOWN_NAMES])
    rest = len(names) - MAX_SHOWN_NAMES
    return f"{shown} and {rest} more" if rest > 0 else shown
