"""Agents, what they are asked to measure, and the points they have measured, in the store."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import orjson

from service.errors import ConflictError
from service.storage.connection import store_call, swap_field

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import redis

KNOWN = "loadmaster:{agents}:known"
TASKS = "loadmaster:{agents}:tasks"
POINTS = "loadmaster:{agents}:points:"
DRIFT = "loadmaster:{agents}:drift"

MAX_SWAPS = 20

TaskState = Literal["waiting", "measuring", "done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRecord:
    """An agent as it registered, and when it was last heard of.

    Attributes
    ----------
    agent_id, gpu_type, engine_version, device, driver
        As it says itself.
    base_models
        Those that it can start servers of.
    memory_bytes
        Of its GPU.
    registered_at_s, seen_at_s
        Seconds since the epoch.
    """

    agent_id: str
    gpu_type: str
    engine_version: str
    device: str
    driver: str
    base_models: tuple[str, ...]
    memory_bytes: int
    registered_at_s: float
    seen_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringTask:
    """What agents are asked to measure, and how that stands.

    Attributes
    ----------
    job_id
        Of the recalibration that asked.
    base_model, gpu_type, engine_version
        The kind of server.
    asked_at_s
        Seconds since the epoch.
    state
        ``waiting`` for an agent, ``measuring`` under a lease, or ended.
    agent_id, lease_until_s
        Who measures, and until when nobody else may; empty and 0 while it waits.
    progress
        Share that is measured, as the agent says.
    attempts
        Agents that gave it back as failed.
    reason
        Why it failed, last.
    set_id
        The measurement set, once it is done.
    """

    job_id: str
    base_model: str
    gpu_type: str
    engine_version: str
    asked_at_s: float
    state: TaskState = "waiting"
    agent_id: str = ""
    lease_until_s: float = 0.0
    progress: float = 0.0
    attempts: int = 0
    reason: str = ""
    set_id: str = ""


class AgentStore:
    """Keeps agents, tasks and points, for every process of the store."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def put_agent(self, agent: AgentRecord) -> None:
        """Keep an agent as it is now."""
        with store_call():
            self._client.hset(KNOWN, agent.agent_id, orjson.dumps(asdict(agent)))  # type: ignore[arg-type]

    def agents(self) -> tuple[AgentRecord, ...]:
        """Return every agent that ever registered, by name."""
        with store_call():
            found: Mapping[bytes, bytes] = self._client.hgetall(KNOWN)  # type: ignore[assignment]
        return tuple(_agent(text) for _, text in sorted(found.items()))

    def agent(self, agent_id: str) -> AgentRecord | None:
        """Return an agent, None where none of this id registered."""
        with store_call():
            text: bytes | None = self._client.hget(KNOWN, agent_id)  # type: ignore[assignment]
        return None if text is None else _agent(text)

    def forget_agent(self, agent_id: str) -> None:
        """Forget an agent."""
        with store_call():
            self._client.hdel(KNOWN, agent_id)

    def tasks(self) -> tuple[MeasuringTask, ...]:
        """Return all tasks, the oldest first."""
        with store_call():
            found: Mapping[bytes, bytes] = self._client.hgetall(TASKS)  # type: ignore[assignment]
        tasks = [MeasuringTask(**orjson.loads(text)) for text in found.values()]
        return tuple(sorted(tasks, key=lambda task: (task.asked_at_s, task.job_id)))

    def task(self, job_id: str) -> MeasuringTask | None:
        """Return a task, None where nobody asked."""
        with store_call():
            text: bytes | None = self._client.hget(TASKS, job_id)  # type: ignore[assignment]
        return None if text is None else MeasuringTask(**orjson.loads(text))

    def add_task(self, task: MeasuringTask) -> bool:
        """Keep a task unless its job has one; True where it is new."""
        with store_call():
            return bool(self._client.hsetnx(TASKS, task.job_id, orjson.dumps(asdict(task))))  # type: ignore[arg-type]

    def forget_task(self, job_id: str) -> None:
        """Forget a task and its points."""
        with store_call():
            self._client.hdel(TASKS, job_id)
        self.forget_points(job_id)

    def change_task(
        self, job_id: str, change: Callable[[MeasuringTask], MeasuringTask | None]
    ) -> MeasuringTask | None:
        """Replace a task by what `change` makes of it, with nobody else's change in between.

        Returns
        -------
        MeasuringTask | None
            The task as it now is; None where there is none or `change` says that it stays.

        Raises
        ------
        ConflictError
            Others change it all the time.
        """
        for _ in range(MAX_SWAPS):
            with store_call():
                text: bytes | None = self._client.hget(TASKS, job_id)  # type: ignore[assignment]
            if text is None:
                return None
            changed = change(MeasuringTask(**orjson.loads(text)))
            if changed is None:
                return None
            with store_call():
                if swap_field(self._client, TASKS, job_id, text, orjson.dumps(asdict(changed))):
                    return changed
        raise ConflictError(f"the task of job {job_id} is being changed by others")

    def add_points(self, job_id: str, points: Sequence[tuple[str, bytes]]) -> int:
        """Keep points by key, each once: the first one stands. Returns how many were new."""
        if not points:
            return 0
        with store_call():
            pipeline = self._client.pipeline(transaction=True)
            for key, text in points:
                pipeline.hsetnx(POINTS + job_id, key, text)  # type: ignore[arg-type]
            return sum(map(int, pipeline.execute()))

    def points(self, job_id: str) -> Mapping[str, bytes]:
        """Return the points of a job by key."""
        with store_call():
            found: Mapping[bytes, bytes] = self._client.hgetall(POINTS + job_id)  # type: ignore[assignment]
        return {key.decode(): text for key, text in sorted(found.items())}

    def num_points(self, job_id: str) -> int:
        """Return how many points a job has."""
        with store_call():
            return int(self._client.hlen(POINTS + job_id))  # type: ignore[arg-type]

    def forget_points(self, job_id: str) -> None:
        """Forget the points of a job."""
        with store_call():
            self._client.delete(POINTS + job_id)

    def put_drift(self, calibration_id: str, document: bytes) -> None:
        """Keep how a calibration compares with a live server."""
        with store_call():
            self._client.hset(DRIFT, calibration_id, document)  # type: ignore[arg-type]

    def drift(self) -> Mapping[str, bytes]:
        """Return what is known of drift by calibration id."""
        with store_call():
            found: Mapping[bytes, bytes] = self._client.hgetall(DRIFT)  # type: ignore[assignment]
        return {name.decode(): text for name, text in sorted(found.items())}


def _agent(text: bytes) -> AgentRecord:
    document = orjson.loads(text)
    return AgentRecord(**document | {"base_models": tuple(document["base_models"])})


def seen(agent: AgentRecord, now_s: float) -> AgentRecord:
    """Return an agent that was just heard of."""
    return replace(agent, seen_at_s=now_s)
