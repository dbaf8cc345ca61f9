"""How the number of GPUs changed: a bounded stream in the store for each workload in force."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import orjson

from service.storage.connection import store_call
from service.storage.workloads import FleetKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis

STREAM = "loadmaster:{history}:gpus:"
RUNNING = "loadmaster:{history}:running"
MAX_POINTS = 2000
"""Changes that are kept, about; a month without one and the stream goes."""

LIFE_S = 30 * 86_400

APPEND = """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if newest[1] and newest[1][2][2] == ARGV[1] then return 0 end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'counts', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""
"""Add counts unless they are the newest already: every process on the store observes the same change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCounts:
    """GPUs of one workload at a time.

    Attributes
    ----------
    gpus_needed
        What an autoscaler was told.
    planned
        GPUs of the plan; None where no GPU can serve any of it.
    running
        As was reported; None where nobody did, lately.
    """

    gpus_needed: int
    planned: int | None
    running: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPoint:
    """Counts and since when they stood, seconds since the epoch by the store's clock."""

    at_s: float
    counts: GpuCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningReport:
    """How many GPUs somebody saw running, and when: seconds since the epoch."""

    num_gpus: int
    at_s: float


class HistoryStore:
    """Keeps counts that changed, and the last report of what runs."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def append(self, key: FleetKey, counts: GpuCounts) -> None:
        """Add counts from now on; nothing where they are the newest already."""
        with store_call():
            self._client.eval(APPEND, 1, _stream(key), orjson.dumps(asdict(counts)), MAX_POINTS, LIFE_S)  # type: ignore[arg-type]

    def points(self, key: FleetKey, limit: int) -> tuple[HistoryPoint, ...]:
        """Return the newest points, the oldest of them first."""
        with store_call():
            entries = self._client.xrevrange(_stream(key), count=limit)
        return tuple(_point(name, fields) for name, fields in reversed(entries))  # type: ignore[arg-type]

    def report(self, key: FleetKey, report: RunningReport) -> None:
        """Remember what runs."""
        with store_call():
            self._client.hset(RUNNING, _field(key), orjson.dumps(asdict(report)))  # type: ignore[arg-type]

    def reports(self) -> Mapping[FleetKey, RunningReport]:
        """Return the last report for each workload."""
        with store_call():
            found: Mapping[bytes, bytes] = self._client.hgetall(RUNNING)  # type: ignore[assignment]
        return {
            FleetKey(*orjson.loads(field)): RunningReport(**orjson.loads(value))
            for field, value in found.items()
        }


def _field(key: FleetKey) -> bytes:
    return orjson.dumps(list(key))


def _stream(key: FleetKey) -> bytes:
    return STREAM.encode() + _field(key)


def _point(name: bytes, fields: Mapping[bytes, bytes]) -> HistoryPoint:
    at_ms = int(name.partition(b"-")[0])
    return HistoryPoint(at_s=at_ms / 1000, counts=GpuCounts(**orjson.loads(fields[b"counts"])))
