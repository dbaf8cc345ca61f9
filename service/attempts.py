"""How often a call is tried, and the pauses between the tries."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from service.calls import Call, LoadmasterError, ProblemError, UnreachableError, retry_after_s

if TYPE_CHECKING:
    from collections.abc import Callable

RETRIED = frozenset({429, 502, 503, 504})
LASTING = frozenset({"no_plan"})
"""Of these, what a repetition within seconds does not change."""

MAX_PAUSE_S = 10.0
FIRST_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and how long a call is tried.

    Attributes
    ----------
    deadline_s
        For a call with all its tries and pauses.
    timeout_s
        For one try.
    tries
        At most.
    """

    deadline_s: float = 60.0
    timeout_s: float = 30.0
    tries: int = 4


class Attempts:
    """The tries of one call: whether there is another one, and the pause before it."""

    def __init__(self, retries: Retries, now_s: Callable[[], float]) -> None:
        self._retries = retries
        self._now_s = now_s
        self._ends_s = now_s() + retries.deadline_s
        self._made = 0

    def timeout_s(self) -> float:
        """Return how long the next try may take."""
        self._made += 1
        return max(0.001, min(self._retries.timeout_s, self._ends_s - self._now_s()))

    def pause_s(self, asked_s: float | None) -> float | None:
        """Return the pause before another try, None where there is none; half of it is jitter."""
        grown_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (self._made - 1))
        pause_s = grown_s * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)
        pause_s = max(pause_s, asked_s or 0.0)
        is_over = self._made >= self._retries.tries or self._now_s() + pause_s >= self._ends_s
        return None if is_over else pause_s

    def judge(
        self, call: Call[Any], outcome: httpx.Response | httpx.TransportError
    ) -> httpx.Response | float:
        """Return the response that answers a call, or the pause in seconds before its next try.

        Raises
        ------
        ProblemError, UnreachableError
            Where trying again is in vain, not allowed, or was done often enough.
        """
        failure: LoadmasterError
        asked_s = None
        if isinstance(outcome, httpx.TransportError):
            failure = UnreachableError(f"{call.method} {call.path}: {outcome!r}")
        elif outcome.status_code not in RETRIED:
            return outcome
        else:
            failure, asked_s = ProblemError(outcome), retry_after_s(outcome)
            if failure.code in LASTING:
                raise failure
        pause_s = self.pause_s(asked_s) if call.idempotent else None
        if pause_s is None:
            raise failure
        return pause_s
