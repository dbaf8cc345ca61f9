"""Waiting for what a service under a drill comes to, however it answers meanwhile, up to a deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx

from service.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_S = 0.05


def wait_for(condition: Callable[[], Any], what: str, *, deadline_s: float) -> Any:
    """Return the first true value of a condition; a service that does not answer meanwhile is asked again.

    Raises
    ------
    UsageError
        It stays false for `deadline_s`; the message tells `what`.
    """
    ends_s = time.monotonic() + deadline_s
    while not (value := holds(condition)):
        if time.monotonic() > ends_s:
            raise UsageError(f"{what} did not come within {deadline_s:g} s")
        time.sleep(POLL_S)
    return value


def holds(condition: Callable[[], Any]) -> Any:
    """Return what a condition says, False where the service does not answer it."""
    try:
        return condition()
    except (httpx.HTTPError, KeyError):  # broken off, or a problem in place of the answer
        return False
