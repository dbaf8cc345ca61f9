"""Threads that call again and again until they are stopped."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SIZES = (12, 60, 200)
"""Adapters of the workloads that are placed."""

CALL_TIMEOUT_S = 10.0
MAX_TOLD = 20
"""Of what was wrong, so much is told at most."""


class Callers:
    """A thread for each call.

    Parameters
    ----------
    calls
        What each does again and again, and for how long it pauses before.
    """

    def __init__(self, calls: Iterable[tuple[Callable[[], None], float]]) -> None:
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=call) for call in calls]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, once the calls that are open have."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, call: Callable[[], None], pause_s: float) -> None:
        while not self._stopped.wait(pause_s):
            call()
