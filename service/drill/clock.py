"""A wall clock that jumps for some processes alone, where this machine can compile a library of 50 lines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).with_name("clock.c")
DAY_S = 86_400
AHEAD_BYTES = 8
COMPILE_DEADLINE_S = 60.0


class TrialClock:
    """The wall clock of the processes that are started with its environment; others keep theirs.

    Parameters
    ----------
    library
        `clock.c`, compiled; to be loaded before all other libraries.
    path
        File that says how far the clock is ahead; made here.
    """

    def __init__(self, library: Path, path: Path) -> None:
        self._library = library
        self._path = path
        path.write_bytes(bytes(AHEAD_BYTES))

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs among its variables."""
        return {"LD_PRELOAD": str(self._library), "LOADMASTER_TRIAL_CLOCK": str(self._path)}

    def jump_to(self, ahead_s: int) -> None:
        """Set the clock ahead of the true time, at once for every process; behind it where negative."""
        handle = os.open(self._path, os.O_WRONLY)
        try:
            os.pwrite(handle, ahead_s.to_bytes(AHEAD_BYTES, sys.byteorder, signed=True), 0)
        finally:
            os.close(handle)


def why_no_clock_jumps() -> str | None:
    """Return why this machine can have no `TrialClock`; None where it can."""
    if sys.platform != "linux":
        return f"no clock can jump on {sys.platform}: the library for it is Linux's"
    if _compiler() is None:
        return "no clock can jump: the library for it is compiled here, and there is no C compiler `cc`"
    return None


@contextmanager
def trial_clock() -> Iterator[TrialClock | None]:
    """Yield a clock that shows the true time at first; None where this machine can have none.

    Raises
    ------
    UsageError
        The compiler refuses; with what it says.
    """
    if why_no_clock_jumps() is not None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="loadmaster-clock-") as directory:
        yield TrialClock(_compiled(Path(directory) / "clock.so"), Path(directory) / "ahead")


def _compiler() -> str | None:
    return shutil.which("cc")


def _compiled(library: Path) -> Path:
    compiler = _compiler()
    assert compiler is not None, "asked for before"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(  # noqa: S603 (our own command line, no shell)
        command, capture_output=True, text=True, timeout=COMPILE_DEADLINE_S, check=False
    )
    if done.returncode != 0:
        raise UsageError(f"{compiler} did not compile {SOURCE.name}: {done.stderr[-500:]}")
    return library
