"""Which jobs have lost their worker, told without comparing clocks.

RQ writes until when a job is its worker's, by the clock of the worker's host, and compares with the clock of
whoever cleans up. Where a clock jumps, or two differ, what runs is given away and what is dead is kept. Here
a lease is lost once whoever looks has seen it stay the same for too long, by a clock that never jumps.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rq.intermediate_queue import IntermediateQueue
from rq.registry import StartedJobRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import redis
    from rq.job import Job

VOID = """
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '-1') ~= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], 'XX', 0, ARGV[1])
return 1
"""
"""End a lease unless it was prolonged since it was read."""

ENDED_AT = 0
"""Score of a lease that was ended: no clock says so early a time."""


class Silences:
    """How long each of some values has stayed the same, as far as this process has seen.

    Parameters
    ----------
    now_s
        A clock that never jumps.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._seen: dict[str, tuple[float, float]] = {}

    def observe(self, values: Mapping[str, float]) -> None:
        """Take notice of every value that there is now; one that is gone begins anew when it comes back."""
        now_s = self._now_s()
        self._seen = {
            name: known if (known := self._seen.get(name)) and known[0] == value else (value, now_s)
            for name, value in values.items()
        }

    def longer_than(self, limit_s: float) -> dict[str, float]:
        """Return the values that were seen unchanged for longer than a limit, by name."""
        now_s = self._now_s()
        return {name: value for name, (value, since_s) in self._seen.items() if now_s - since_s > limit_s}


class LeaseRegistry(StartedJobRegistry):
    """RQ's registry of jobs that run; those silent for `lost_after_s` are given back, and no others."""

    silences: Silences
    lost_after_s: float

    def observe(self) -> None:
        """Take notice of every lease as it stands."""
        rows = self.connection.zrange(self.key, 0, -1, withscores=True)
        self.silences.observe({name.decode(): score for name, score in rows})  # type: ignore[union-attr]

    def cleanup(self, timestamp: float | None = None, exception_handlers: list | None = None) -> None:  # noqa: ARG002 (RQ's signature)
        """Give back the jobs of lost leases; RQ's own look at the calendar is left out."""
        self.observe()
        for name, score in self.silences.longer_than(self.lost_after_s).items():
            self.connection.eval(VOID, 1, self.key, name, score)  # type: ignore[arg-type]
        super().cleanup(timestamp=ENDED_AT, exception_handlers=exception_handlers)


class TransitQueue(IntermediateQueue):
    """RQ's queue of jobs on their way to a worker, given back once one was seen there for `lost_after_s`."""

    silences: Silences
    lost_after_s: float

    def observe(self) -> None:
        """Take notice of every job that is on its way."""
        self.silences.observe(dict.fromkeys(self.get_job_ids(), 0.0))

    def set_first_seen(self, job_id: str) -> bool:  # noqa: ARG002 (RQ's signature)
        """Return False: whoever looks remembers by itself."""
        return False

    def should_be_cleaned_up(self, job_id: str) -> bool:
        """Tell whether a job was seen here, with no worker that runs it, for `lost_after_s`."""
        return job_id in self.silences.longer_than(self.lost_after_s)


def delete_job(job: Job) -> None:
    """Delete a job, also one whose worker died a moment ago.

    RQ reads each run that it knows of, and fails on one whose own record has expired already.
    """
    connection: redis.Redis = job.connection
    connection.delete(job.execution_registry.key)
    job.delete()
