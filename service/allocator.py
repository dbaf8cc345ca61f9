"""glibc's allocator, told to give large blocks back to the system."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
LARGE_BYTES = 2**20
NUM_ARENAS = 2


def give_back_large_blocks() -> None:
    """Have a block of `LARGE_BYTES` or more end with its last use, as long as this process lives.

    Left alone, glibc raises that limit to 32 MB after the first large body was freed, keeps what comes after
    it in an arena for each thread, and the process stays as large as in the worst minute it had.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library has none
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_ARENA_MAX, NUM_ARENAS)
