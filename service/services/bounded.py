"""Work in threads and turns at a lock, with limits on how much runs, how much waits, and for how long."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from service.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

T = TypeVar("T")


class BoundedPool:
    """Threads for blocking work of one kind.

    Parameters
    ----------
    name
        Of the threads.
    num_threads, backlog
        Calls that run and calls that wait at most; one more is refused at once.
    deadline_s
        A caller is answered by then, though its thread ends in its own time.
    """

    def __init__(self, name: str, *, num_threads: int, backlog: int, deadline_s: float) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
        self._name = name
        self._limit = num_threads + backlog
        self._deadline_s = deadline_s
        self._num_in_flight = 0

    async def run(self, function: Callable[[], T]) -> T:
        """Return what `function` returns, from a thread.

        Raises
        ------
        OverloadedError
            Too many calls wait, or this one was not done in time.
        """
        if self._num_in_flight >= self._limit:
            raise OverloadedError(f"{self._limit} calls for {self._name} are waiting", retry_after_s=1)
        context = contextvars.copy_context()
        future = self._threads.submit(partial(context.run, function))
        self._num_in_flight += 1
        waiter = asyncio.wrap_future(future)
        waiter.add_done_callback(self._done)
        # Not `wait_for`: before Python 3.12 it swallows a cancellation that meets the result.
        deadline = asyncio.timeout(self._deadline_s)
        try:
            async with deadline:
                return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            future.cancel()
            raise
        except TimeoutError:
            if not deadline.expired():  # the function's own
                raise
            future.cancel()
            raise OverloadedError(
                f"{self._name} took longer than {self._deadline_s:g} s", retry_after_s=5
            ) from None

    def _done(self, waiter: asyncio.Future[Any]) -> None:
        self._num_in_flight -= 1
        if not waiter.cancelled():
            waiter.exception()  # looked at, so that one nobody waits for any more is not reported

    def close(self) -> None:
        """Let running calls end and refuse the waiting ones."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class BoundedTurn:
    """Turns at a lock, one after the other in the order of their coming.

    Parameters
    ----------
    lock
        Others may wait for it without a limit.
    name
        Of what is done in a turn.
    backlog
        Turns that wait at most; one more is refused at once.
    deadline_s
        One that has not come by then is refused.
    """

    def __init__(self, lock: asyncio.Lock, name: str, *, backlog: int, deadline_s: float) -> None:
        self._lock = lock
        self._name = name
        self._backlog = backlog
        self._deadline_s = deadline_s
        self._num_waiting = 0

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Hold the lock while the block runs.

        Raises
        ------
        OverloadedError
            Too many wait, or the turn did not come in time.
        """
        await self._wait()
        try:
            yield
        finally:
            self._lock.release()

    async def _wait(self) -> None:
        if self._lock.locked() and self._num_waiting >= self._backlog:
            raise OverloadedError(f"{self._backlog} {self._name} are waiting", retry_after_s=1)
        self._num_waiting += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._lock.acquire()
        except TimeoutError:
            raise OverloadedError(
                f"{self._name} have taken longer than {self._deadline_s:g} s", retry_after_s=5
            ) from None
        finally:
            self._num_waiting -= 1
