"""Run a command with all its descendants, and end them all when told to or when the parent is gone.

Run as a script (``python -I -S keeper.py COMMAND ...``): standard library only. Standard input is a pipe
whose other end the parent holds and never writes to: it closes when the parent ends, however that
ends. The keeper adopts orphaned descendants (Linux), so a process that left its group, or whose own parent
was killed, is found and ended too.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE_S = 10.0
POLL_S = 0.05


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _descendants() -> list[int]:
    """Return the process ids of all children, their children and so on."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            fields = path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, queue = [], [os.getpid()]
    while queue:
        for child in children.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found


def _signal_all(number: int) -> None:
    for pid in _descendants():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap() -> bool:
    """Collect ended children; True while any lives."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def _end_all() -> None:
    _signal_all(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while _reap():
        if time.monotonic() > deadline:
            _signal_all(signal.SIGKILL)
        time.sleep(POLL_S)


def main(command: list[str]) -> int:
    """Run the command; return its exit status once nothing of it is left."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    told_to_end: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told_to_end.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(  # noqa: S603 (the command line we were given, no shell)
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 (one thread)
    )
    status = None
    while not told_to_end and (status := child.poll()) is None:
        readable, _, _ = select.select([sys.stdin], [], [], POLL_S)
        if readable:
            break
    _end_all()
    return 0 if status is None else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
