"""The rules of agents: who is there, who may measure what for how long, and what comes of it.

An agent holds at most one task, under a lease that its heartbeats prolong. A lease that runs out gives the
task back; its points stay, so whoever takes it next goes on there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from service.agent.points import Point, tables_of
from service.errors import ConflictError, InvalidRequestError, NotFoundError
from service.services.measuring import MeasuringOutcome
from service.storage.agents import AgentRecord, MeasuringTask, seen
from twin.errors import InvalidInputError
from twin.measurement_set import COLUMNS, LAUNCHES, manifest_from_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.services.clock import Clock
    from service.services.measurements import MeasurementSets
    from service.services.measuring import MeasuringTarget
    from service.settings import Settings
    from service.storage.agents import AgentStore

MAX_ATTEMPTS = 3
"""A task that so many agents gave back as failed has failed for good."""

KEPT_S = 30 * 86_400.0
"""Tasks that ended are told of for so long."""

ENDED = ("done", "failed")
UNKNOWN_ENGINE = "vllm-unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """An agent and what it does now.

    Attributes
    ----------
    record
        As it registered.
    state
        ``idle``, ``measuring``, or ``silent`` for longer than a lease.
    task
        What it holds.
    """

    record: AgentRecord
    state: str
    task: MeasuringTask | None


class AgentService:
    """Registers agents, leases tasks to them and takes what they measure."""

    def __init__(self, store: AgentStore, sets: MeasurementSets, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._sets = sets
        self._settings = settings
        self._clock = clock

    @property
    def lease_s(self) -> float:
        """How long a task is an agent's without a heartbeat."""
        return self._settings.agent_lease_s

    def register(self, agent: AgentRecord) -> AgentRecord:
        """Take an agent in, or take notice of what has changed about it."""
        now_s = self._clock.wall_s()
        known = self._store.agent(agent.agent_id)
        since_s = now_s if known is None else known.registered_at_s
        agent = replace(agent, registered_at_s=since_s, seen_at_s=now_s)
        self._store.put_agent(agent)
        return agent

    def agents(self) -> tuple[AgentView, ...]:
        """Return every agent and what it does."""
        now_s, tasks = self._clock.wall_s(), self._store.tasks()
        return tuple(self._view(agent, tasks, now_s) for agent in self._store.agents())

    def _view(self, agent: AgentRecord, tasks: Sequence[MeasuringTask], now_s: float) -> AgentView:
        held = self._held(agent.agent_id, tasks, now_s)
        silent = not _is_alive(agent, now_s, self.lease_s)
        return AgentView(
            record=agent, state="silent" if silent else "measuring" if held else "idle", task=held
        )

    def _held(self, agent_id: str, tasks: Sequence[MeasuringTask], now_s: float) -> MeasuringTask | None:
        return next(
            (task for task in tasks if task.agent_id == agent_id and _is_leased(task, now_s, self.lease_s)),
            None,
        )

    def forget(self, agent_id: str) -> None:
        """Forget an agent that holds nothing.

        Raises
        ------
        NotFoundError, ConflictError
            There is none, or it measures.
        """
        agent = self._require(agent_id)
        if self._held(agent_id, self._store.tasks(), self._clock.wall_s()) is not None:
            raise ConflictError(f"the agent {agent.agent_id} is measuring", field="agent_id")
        self._store.forget_agent(agent_id)

    def heartbeat(self, agent_id: str, job_id: str | None, progress: float) -> bool:
        """Take notice that an agent lives; False where the task that it is at is not its own any more.

        Raises
        ------
        NotFoundError
            It has not registered.
        """
        now_s = self._clock.wall_s()
        self._store.put_agent(seen(self._require(agent_id), now_s))
        if job_id is None:
            return True
        until_s = now_s + self.lease_s

        def prolong(task: MeasuringTask) -> MeasuringTask | None:
            if task.state != "measuring" or task.agent_id != agent_id:
                return None
            return replace(task, lease_until_s=until_s, progress=progress)

        return self._store.change_task(job_id, prolong) is not None

    def take_work(self, agent_id: str) -> MeasuringTask | None:
        """Lease the oldest task that an agent can measure; the one that it holds already, if any.

        Raises
        ------
        NotFoundError
            It has not registered.
        """
        agent = self._require(agent_id)
        now_s = self._clock.wall_s()
        self._store.put_agent(seen(agent, now_s))
        tasks = self._store.tasks()
        held = self._held(agent_id, tasks, now_s)
        for task in [held] if held is not None else tasks:
            taken = self._take(task, agent, now_s)
            if taken is not None:
                return taken
        return None

    def _take(self, task: MeasuringTask, agent: AgentRecord, now_s: float) -> MeasuringTask | None:
        def lease(current: MeasuringTask) -> MeasuringTask | None:
            is_others = current.agent_id != agent.agent_id and _is_leased(current, now_s, self.lease_s)
            if current.state in ENDED or is_others:
                return None
            return replace(
                current, state="measuring", agent_id=agent.agent_id, lease_until_s=now_s + self.lease_s
            )

        return self._store.change_task(task.job_id, lease) if can_measure(agent, task) else None

    def add_points(self, agent_id: str, job_id: str, points: Sequence[Point]) -> tuple[int, int]:
        """Keep measured points, each once; returns how many were new and how many there are.

        Points of a task that ended are refused; of one that another agent took over they are welcome: they
        are true all the same.

        Raises
        ------
        NotFoundError, ConflictError, InvalidRequestError
            No such agent or task, the task has ended, or a row has a column that its table lacks.
        """
        self._require(agent_id)
        task = self._require_task(job_id)
        if task.state in ENDED:
            raise ConflictError(f"measuring for job {job_id} has ended ({task.state})", field="job_id")
        for place, point in enumerate(points):
            _check_point(place, point)
        added = self._store.add_points(job_id, [(point.key, _encoded(point)) for point in points])
        return added, self._store.num_points(job_id)

    def points(self, job_id: str) -> tuple[Point, ...]:
        """Return what was measured for a job.

        Raises
        ------
        NotFoundError
            Nobody asked for it.
        """
        self._require_task(job_id)
        return tuple(Point(**orjson.loads(text)) for text in self._store.points(job_id).values())

    def finish(self, agent_id: str, job_id: str, manifest: Mapping[str, Any]) -> MeasuringTask:
        """Make a measurement set of a task's points; done twice it is the same set.

        Raises
        ------
        NotFoundError, ConflictError, InvalidRequestError
            No such task, another agent has it, or the points make no set.
        """
        task = self._require_lease(agent_id, job_id)
        if task.state == "done":
            return task
        try:
            told = manifest_from_json(orjson.dumps(dict(manifest)).decode())
        except InvalidInputError as error:
            raise InvalidRequestError(error.message, field=error.field) from error
        if told.base_model != task.base_model:
            raise InvalidRequestError(f"must be {task.base_model}", field="manifest.base_model")
        points = self.points(job_id)
        if not any(point.table == LAUNCHES for point in points):
            raise InvalidRequestError("must hold a launch; none was reported", field="points")
        found = self._sets.add(tables_of(points, told))
        done = self._store.change_task(
            job_id, lambda now: replace(now, state="done", set_id=found.set_id, progress=1.0, reason="")
        )
        assert done is not None, "a task that was there does not vanish"
        self._store.forget_points(job_id)
        return done

    def give_back(self, agent_id: str, job_id: str, reason: str, *, failed: bool) -> MeasuringTask:
        """Give a task back, for another agent or for this one later; one that failed often has failed.

        Raises
        ------
        NotFoundError, ConflictError
            No such task, or another agent has it.
        """
        self._require_lease(agent_id, job_id)

        def release(task: MeasuringTask) -> MeasuringTask | None:
            if task.state in ENDED:
                return None
            attempts = task.attempts + failed
            state = "failed" if attempts >= MAX_ATTEMPTS else "waiting"
            return replace(
                task, state=state, agent_id="", lease_until_s=0.0, attempts=attempts, reason=reason[:500]
            )

        return self._store.change_task(job_id, release) or self._require_task(job_id)

    def _require(self, agent_id: str) -> AgentRecord:
        agent = self._store.agent(agent_id)
        if agent is None:
            raise NotFoundError("has not registered", field="agent_id")
        return agent

    def _require_task(self, job_id: str) -> MeasuringTask:
        task = self._store.task(job_id)
        if task is None:
            raise NotFoundError("names nothing that agents measure", field="job_id")
        return task

    def _require_lease(self, agent_id: str, job_id: str) -> MeasuringTask:
        self._require(agent_id)
        task = self._require_task(job_id)
        if task.state not in {"measuring", "done"} or task.agent_id != agent_id:
            raise ConflictError(f"the agent {agent_id} does not hold this task", field="job_id")
        return task


class AgentMeasuring:
    """Lets agents measure for recalibrations (`service.services.measuring.Measuring`)."""

    def __init__(self, store: AgentStore, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock

    def ask(self, job_id: str, target: MeasuringTarget) -> None:
        """Ask agents for a measurement set, once for each job; tasks that ended long ago are forgotten."""
        now_s = self._clock.wall_s()
        for task in self._store.tasks():
            is_old = task.state in ENDED and now_s - task.asked_at_s > KEPT_S
            if is_old and task.job_id != job_id:
                self._store.forget_task(task.job_id)
        self._store.add_task(MeasuringTask(job_id=job_id, asked_at_s=now_s, **asdict(target)))

    def outcome(self, job_id: str) -> MeasuringOutcome:
        """Return how it stands; `waiting` for a job that nobody asked for."""
        task = self._store.task(job_id)
        if task is None:
            return MeasuringOutcome(state="waiting", reason="nobody was asked to measure for this job")
        if task.state == "done":
            return MeasuringOutcome(
                state="done", progress=1.0, reason=f"measured by {task.agent_id}", set_id=task.set_id
            )
        if task.state == "failed":
            return MeasuringOutcome(state="failed", progress=task.progress, reason=task.reason)
        if _is_leased(task, self._clock.wall_s(), self._settings.agent_lease_s):
            return MeasuringOutcome(
                state="measuring", progress=task.progress, reason=f"the agent {task.agent_id} measures"
            )
        return MeasuringOutcome(state="waiting", progress=task.progress, reason=self._why_it_waits(task))

    def withdraw(self, job_id: str) -> None:
        """Stop what is measured for a job and forget it; the agent learns of it at its next heartbeat."""
        self._store.forget_task(job_id)

    def _why_it_waits(self, task: MeasuringTask) -> str:
        now_s = self._clock.wall_s()
        fitting = [agent for agent in self._store.agents() if can_measure(agent, task)]
        alive = [agent for agent in fitting if _is_alive(agent, now_s, self._settings.agent_lease_s)]
        failed = f"; the last one failed: {task.reason}" if task.reason else ""
        if alive:
            return f"{len(alive)} agents can measure it, the next one that is free will{failed}"
        kind = f"{task.gpu_type}, {task.base_model} and {task.engine_version}"
        if fitting:
            return f"every agent for {kind} is silent{failed}"
        return f"no agent for {kind} has registered{failed}"


def _is_leased(task: MeasuringTask, now_s: float, lease_s: float) -> bool:
    """Tell whether a task is an agent's; a lease longer than any is of a time before the clock went back."""
    return task.state == "measuring" and now_s < task.lease_until_s <= now_s + lease_s


def _is_alive(agent: AgentRecord, now_s: float, lease_s: float) -> bool:
    """Tell whether an agent was heard of lately, and not after now: the clock has gone back then."""
    return abs(now_s - agent.seen_at_s) <= lease_s


def can_measure(agent: AgentRecord, task: MeasuringTask) -> bool:
    """Tell whether an agent has the GPU, the model and the engine that a task is about."""
    return (
        agent.gpu_type == task.gpu_type
        and task.base_model in agent.base_models
        and agent.engine_version in {task.engine_version, UNKNOWN_ENGINE}
    )


def _encoded(point: Point) -> bytes:
    return orjson.dumps({"key": point.key, "table": point.table, "row": dict(point.row)})


def _check_point(place: int, point: Point) -> None:
    if point.table not in COLUMNS:
        raise InvalidRequestError(
            f"must be one of {', '.join(COLUMNS)}, got {point.table[:80]!r}", field=f"points[{place}].table"
        )
    if unknown := sorted(point.row.keys() - set(COLUMNS[point.table])):
        raise InvalidRequestError(
            f"is no column of {point.table}", field=f"points[{place}].row.{unknown[0][:80]}"
        )
