"""Recalibrations: where each stands, kept in the store and changed by compare-and-swap."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import orjson

from service.errors import NotFoundError
from service.services.measuring import MeasuringTarget
from service.storage.connection import store_call

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import redis

RECALIBRATIONS = "loadmaster:{recalibrations}"
"""Hash: each recalibration's document by job id."""

ACTIVE = "loadmaster:{recalibrations}:active"
"""Hash: the job that is under way, by calibration id."""

ORDER = "loadmaster:{recalibrations}:order"
"""Sorted set: job ids by the time they were asked for."""

KEPT = 1000
"""Recalibrations remembered; of older ones the document is forgotten, what they published stays."""

Stage = Literal[
    "requested",
    "measuring",
    "fitting",
    "simulating",
    "training",
    "validating",
    "published",
    "rejected",
    "failed",
    "cancelled",
]
ENDED: frozenset[Stage] = frozenset({"published", "rejected", "failed", "cancelled"})
PREFIX = "recalibrate-"

ADD = """
local known = redis.call('HGET', KEYS[2], ARGV[3])
if known and redis.call('HEXISTS', KEYS[1], known) == 1 then return known end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[1])
local newest = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')
local at_s = math.max(tonumber(ARGV[4]), tonumber(newest[2] or 0) + 0.000001)
redis.call('ZADD', KEYS[3], string.format('%.6f', at_s), ARGV[1])
return ARGV[1]
"""
"""Keep a document unless its target has a job under way, whose id is returned.

It is the newest, also where the clock has gone back since the one before.
"""

SWAP = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
if ARGV[5] == 'ended' then
  if redis.call('HGET', KEYS[2], ARGV[4]) == ARGV[1] then redis.call('HDEL', KEYS[2], ARGV[4]) end
else
  redis.call('HSET', KEYS[2], ARGV[4], ARGV[1])
end
return 1
"""
"""Write a document unless it has changed since it was read, and whether its target has a job under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """A stage that was entered.

    Attributes
    ----------
    stage
        Which.
    started_at_s, ended_at_s
        Seconds since the epoch; None while it lasts.
    progress
        Share that is done, 0 to 1.
    detail
        A sentence for the reader.
    """

    stage: Stage
    started_at_s: float
    ended_at_s: float | None = None
    progress: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibration:
    """One recalibration: what was asked for, how far it is, what came of it.

    Attributes
    ----------
    job_id, base_model, gpu_type, engine_version, measurement_set, num_rows, seed
        What was asked for; the set is None until there is one.
    requested_at_s, request_id, traceparent, actor
        When, by which request, in which trace (W3C; None where it is not traced), by whom.
    reason
        Why, where it was not asked for outright.
    live_servers
        Directory of the live servers that it simulates beside the design; None for none.
    stages
        Those entered, the present one last; a retried one stands there twice.
    generation
        One higher with each retry: steps of an earlier one do not count any more.
    wave
        Batches of simulations that were asked for so far, in rounds; None before the first.
    calibration_digest, dataset, surrogate_version, report
        What the stages made.
    error
        Why it failed, None where it did not.
    """

    job_id: str
    base_model: str
    gpu_type: str
    engine_version: str
    measurement_set: str | None
    num_rows: int
    seed: int
    requested_at_s: float
    request_id: str | None
    actor: str
    stages: tuple[StageRecord, ...]
    traceparent: str | None = None
    generation: int = 0
    wave: int | None = None
    calibration_digest: str | None = None
    dataset: dict[str, Any] | None = None
    surrogate_version: str | None = None
    report: dict[str, Any] | None = None
    error: str | None = None
    reason: str = ""
    live_servers: str | None = None

    @property
    def target(self) -> MeasuringTarget:
        """The kind of server."""
        return MeasuringTarget(
            base_model=self.base_model, gpu_type=self.gpu_type, engine_version=self.engine_version
        )

    @property
    def stage(self) -> Stage:
        """The present stage."""
        return self.stages[-1].stage

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.stage in ENDED

    def entered(self, stage: Stage, now_s: float, *, detail: str = "", **changes: Any) -> Recalibration:
        """Return it in another stage; the present one ends, complete unless the other is a failure.

        None ends before it began, also where the clock has gone back meanwhile.
        """
        last = self.stages[-1]
        now_s = max(now_s, last.started_at_s)
        is_complete = stage not in {"failed", "cancelled"}
        ended = replace(last, ended_at_s=now_s, progress=1.0 if is_complete else last.progress)
        entered = StageRecord(
            stage=stage,
            started_at_s=now_s,
            ended_at_s=now_s if stage in ENDED else None,
            progress=1.0 if stage in ENDED else 0.0,
            detail=detail,
        )
        return replace(self, stages=(*self.stages[:-1], ended, entered), **changes)

    def noted(self, *, progress: float, detail: str) -> Recalibration:
        """Return it with the present stage's progress."""
        last = replace(self.stages[-1], progress=round(min(max(progress, 0.0), 1.0), 4), detail=detail)
        return replace(self, stages=(*self.stages[:-1], last))


class RecalibrationStore:
    """Keeps the documents."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def add(self, new: Recalibration) -> Recalibration:
        """Keep a new one, unless its target has one under way, which is returned instead."""
        keys, target = (RECALIBRATIONS, ACTIVE, ORDER), new.target.calibration_id
        values = (new.job_id, _encoded(new), target, new.requested_at_s)
        with store_call():
            job_id: bytes = self._client.eval(ADD, 3, *keys, *values)  # type: ignore[assignment]
            self._forget_old()
        return new if job_id.decode() == new.job_id else self.get(job_id.decode())

    def _forget_old(self) -> None:
        old: Sequence[bytes] = self._client.zrange(ORDER, 0, -KEPT - 1)  # type: ignore[assignment]
        if old:
            self._client.hdel(RECALIBRATIONS, *old)
            self._client.zrem(ORDER, *old)

    def get(self, job_id: str) -> Recalibration:
        """Return one.

        Raises
        ------
        NotFoundError
            There is none of this id.
        """
        return _decoded(self._text(job_id))

    def under_way(self) -> tuple[Recalibration, ...]:
        """Return those that have not ended."""
        with store_call():
            rows: Mapping[bytes, bytes] = self._client.hgetall(ACTIVE)  # type: ignore[assignment]
            found = [self._find(job_id.decode()) for job_id in rows.values()]
        return tuple(one for one in found if one is not None and not one.has_ended)

    def latest(self, limit: int) -> tuple[Recalibration, ...]:
        """Return up to `limit`, the newest first."""
        with store_call():
            ids: Sequence[bytes] = self._client.zrevrange(ORDER, 0, limit - 1)  # type: ignore[assignment]
            found = [self._find(job_id.decode()) for job_id in ids]
        return tuple(one for one in found if one is not None)

    def update(
        self, job_id: str, change: Callable[[Recalibration], Recalibration | None]
    ) -> Recalibration | None:
        """Change a document; `change` is called again where another process was first.

        Parameters
        ----------
        change
            Returns what it becomes, None to leave it as it is.

        Returns
        -------
        Recalibration | None
            What it became, None where it was left.
        """
        while True:
            text = self._text(job_id)
            current = _decoded(text)
            changed = change(current)
            if changed is None or changed == current:
                return None
            if self._swap(text, changed):
                return changed

    def _text(self, job_id: str) -> bytes:
        with store_call():
            text: bytes | None = self._client.hget(RECALIBRATIONS, job_id)  # type: ignore[assignment]
        if text is None:
            raise NotFoundError("names no job", field="job_id")
        return text

    def _swap(self, current: bytes, changed: Recalibration) -> bool:
        """Write it unless the text has changed, which may be an earlier version's with fewer fields."""
        with store_call():
            return bool(
                self._client.eval(
                    SWAP,
                    2,
                    RECALIBRATIONS,
                    ACTIVE,
                    changed.job_id,
                    current,
                    _encoded(changed),
                    changed.target.calibration_id,
                    "ended" if changed.has_ended else "under way",
                )
            )

    def _find(self, job_id: str) -> Recalibration | None:
        text: bytes | None = self._client.hget(RECALIBRATIONS, job_id)  # type: ignore[assignment]
        return None if text is None else _decoded(text)


def _encoded(recalibration: Recalibration) -> bytes:
    return orjson.dumps(asdict(recalibration), option=orjson.OPT_SORT_KEYS)


def _decoded(text: bytes) -> Recalibration:
    row = orjson.loads(text)
    stages = tuple(StageRecord(**stage) for stage in row.pop("stages"))
    return Recalibration(**row, stages=stages)
