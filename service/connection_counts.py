"""How many connections each HTTP process of one `serve` has, in memory that they share."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BYTES_EACH = 4
SLACK_SHARE = 8
"""One in so many connections more than another process has is as many."""


class ConnectionCounts:
    """The counts as one process sees and tells them: a hint who takes the next connection, and no more.

    Parameters
    ----------
    path
        The file that all of them map; made by whoever comes first.
    number, num_processes
        Which of how many this one is.
    """

    def __init__(self, path: Path, number: int, num_processes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("a+b") as file:
            file.truncate(BYTES_EACH * num_processes)  # what is new is zero: nobody is there
            self._shared = memoryview(mmap.mmap(file.fileno(), 0)).cast("I")
        self._number = number
        self.leave()

    def tell(self, num_connections: int) -> None:
        """Tell how many connections this process has: it takes more."""
        self._shared[self._number] = num_connections + 1

    def leave(self) -> None:
        """Tell that this process takes no connections."""
        self._shared[self._number] = 0

    def is_ahead(self) -> bool:
        """Whether a process that takes connections has fewer than this one."""
        present = [told - 1 for told in self._shared if told]
        if not present or not self._shared[self._number]:
            return False
        fewest = min(present)
        return self._shared[self._number] - 1 > fewest + fewest // SLACK_SHARE
