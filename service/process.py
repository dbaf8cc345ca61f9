"""Child processes that never outlive this one, and a supervisor that starts them again."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import structlog

from service.errors import DataDirInUseError
from service.observability import CHILD_RESTARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TETHER = Path(__file__).with_name("tether.py")
LOCK_WAIT_S = 3.0
POLL_S = 0.05
MAX_BACKOFF_S = 30.0
STEADY_S = 60.0
"""A child that ran this long starts again without delay."""

log = structlog.get_logger()


def spawn_tethered(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | int | None = None,
    keep_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a command that ends with this process, even when this one is killed.

    Its own session keeps Ctrl-C of the terminal from it: we end children in order.

    Parameters
    ----------
    command
        Program (absolute path) and arguments.
    env
        Its environment; None inherits ours.
    output
        Where its standard output and error go, as `subprocess.Popen` takes it; None inherits ours.
    keep_fds
        Open file descriptors that it inherits.
    """
    assert threading.current_thread() is threading.main_thread(), "the starting thread must live on"
    shim = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid())]
    return subprocess.Popen(  # noqa: S603 (our own command lines, no shell)
        [*shim, *command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=keep_fds,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """End a child: SIGTERM, then SIGKILL when it is still there after `timeout_s`."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def lock_data_dir(data_dir: Path) -> int:
    """Return a file descriptor whose lock makes this process the data directory's only owner.

    A child that inherits the descriptor holds the lock too, so that after our death nobody starts
    on files that a dying store still writes.

    Raises
    ------
    DataDirInUseError
        Another process has it.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(data_dir / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
                os.close(handle)
                raise DataDirInUseError(str(data_dir), holder) from None
            time.sleep(POLL_S)
        else:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            return handle


@dataclass(slots=True)
class Child:
    """A supervised child: how to start it, and what runs now."""

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_after: float = 0.0
    failures: int = field(default=0)

    def launch(self) -> None:
        """Start it now."""
        self.adopt(self.start())

    def adopt(self, process: subprocess.Popen[bytes]) -> None:
        """Take over one that was just started."""
        self.process = process
        self.started_at = time.monotonic()
        log.info("child_started", child=self.name, pid=process.pid)

    def revive(self) -> None:
        """Start it again if it ended, after a delay that grows with each quick death."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            steady = now - self.started_at > STEADY_S
            self.failures = 0 if steady else self.failures + 1
            delay_s = min(MAX_BACKOFF_S, 0.25 * 2**self.failures) * random.uniform(0.5, 1)  # noqa: S311
            self.start_after = now + delay_s
            log.error("child_ended", child=self.name, returncode=self.process.returncode, retry_s=delay_s)
            CHILD_RESTARTS.labels(self.name).inc()
            self.process = None
        if self.process is None and now >= self.start_after:
            self.launch()

    def ask_to_stop(self) -> None:
        """Send it SIGTERM, if it runs, and do not wait."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self, timeout_s: float) -> None:
        """End it, if it runs."""
        if self.process is not None:
            stop(self.process, timeout_s)
            log.info("child_stopped", child=self.name, returncode=self.process.returncode)


async def supervise(children: Sequence[Child], interval_s: float = 0.25) -> None:
    """Keep the children running until cancelled."""
    while True:
        for child in children:
            try:
                child.revive()
            except OSError:
                child.start_after = time.monotonic() + MAX_BACKOFF_S
                log.exception("child_start_failed", child=child.name)
        await asyncio.sleep(interval_s)


def end_on_sigterm(request_stop: Callable[[], None]) -> None:
    """Call `request_stop` at SIGTERM and SIGINT instead of dying."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(ValueError):  # not the main thread: whoever runs us handles signals
            signal.signal(number, lambda *_: request_stop())
