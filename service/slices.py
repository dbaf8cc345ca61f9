"""Turns at a core: Linux's scheduler is told that a thread has little to do at a time and must not wait.

A thread that runs keeps its core for a slice, a millisecond or more, though another one wakes:
unless the slice of that one is shorter.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import struct
import sys

SLICE_NS = 100_000
"""The shortest that Linux grants."""

FIRST_RELEASE = (6, 12)
"""Of Linux that lets a thread choose its slice."""

SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Number of the system call by machine."""

SCHED_ATTR = struct.Struct("=IIQiIQQQ")
"""Size, policy, flags, niceness, priority, runtime (the slice), deadline, period."""

RESET_ON_FORK = 1


def interrupt_others() -> bool:
    """Have this thread take a core at once from threads with usual slices; tells whether it will.

    Threads and processes that it starts have usual slices. They would lose a negative niceness too: a process
    that has one is left alone.
    """
    number = SCHED_SETATTR.get(platform.machine())
    if number is None or not sys.platform.startswith("linux") or _release() < FIRST_RELEASE:
        return False
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    if niceness < 0 or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    wanted = SCHED_ATTR.pack(SCHED_ATTR.size, os.SCHED_OTHER, RESET_ON_FORK, niceness, 0, SLICE_NS, 0, 0)
    return ctypes.CDLL(None).syscall(number, 0, wanted, 0) == 0


def _release() -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return tuple(map(int, found.groups())) if found else (0, 0)
