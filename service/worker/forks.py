"""Several copies of one process, forked once everything is loaded and compiled."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import structlog

from service.tether import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

QUICK_DEATH_S = 5.0
PAUSE_S = 1.0

log = structlog.get_logger()


def run_forks(count: int, work: Callable[[], None]) -> None:
    """Run `work` in `count` children until SIGTERM or SIGINT; one that dies by itself is started again.

    At the signal every child gets SIGTERM and ends its work in its own time. On Linux children die with
    this process, however it ends.
    """
    _Forks(work).run(count)


class _Forks:
    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._started: dict[int, float] = {}
        self._stopping = False

    def run(self, count: int) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for _ in range(count):
            self._start()
        while self._started:
            pid, status = os.wait()
            started = self._started.pop(pid, None)
            if started is None or self._stopping:
                continue
            log.error("worker_died", pid=pid, status=status)
            if time.monotonic() - started < QUICK_DEATH_S:
                time.sleep(PAUSE_S)
            if not self._stopping:
                self._start()

    def _start(self) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_child(parent)
        self._started[pid] = time.monotonic()
        if self._stopping:  # the signal came between the fork and now
            os.kill(pid, signal.SIGTERM)

    def _be_child(self, parent: int) -> NoReturn:
        status = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            die_with_parent(parent)
            self._work()
            status = 0
        except BaseException:
            log.exception("worker_failed")
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        self._stopping = True
        for pid in list(self._started):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
