"""Replace this process by a command that the kernel ends when its parent ends, however that ends.

Run as a script (``python -I -S tether.py PARENT_PID COMMAND ...``): standard library only, a few
milliseconds. Linux keeps the parent-death signal across exec. Other systems have no such signal:
there children end with an orderly stop of the parent only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Ask for SIGKILL at the parent's death; exit at once if it is dead already.

    The signal comes when the parent's *thread* that started this process ends.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(1)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 (our own command line, no shell)
