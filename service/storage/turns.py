"""One at a time, among processes: turns by a lock on a file, given back at the latest by the holder's end."""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

POLL_S = 0.05


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of a file, made where there is none, while the block runs."""
    handle = _open(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@asynccontextmanager
async def turn_of(path: Path) -> AsyncIterator[None]:
    """Hold the lock of a file while the block runs; waiting for it can be cancelled."""
    handle = _open(path)
    try:
        while not _takes(handle):  # noqa: ASYNC110 (another process gives no event)
            await asyncio.sleep(POLL_S)
        yield
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _takes(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
