"""Jobs in RQ: durable, run by any worker, run again when a worker dies."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from redis.exceptions import WatchError
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import as_text, missing_keys, now
from rq.worker_registration import clean_worker_registry, get_keys
from structlog.contextvars import get_contextvars

from service.errors import ConflictError, NotFoundError, OverloadedError
from service.storage.connection import hold, store_call
from service.storage.leases import LeaseRegistry, Silences, TransitQueue, delete_job
from service.tracing import traceparent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import redis
    from rq.worker.base import BaseWorker

    from service.settings import Settings

TWIN_QUEUE, TRAIN_QUEUE = "twin", "train"
QUEUES = (TWIN_QUEUE, TRAIN_QUEUE)
INDEX_KEY = "loadmaster:jobs"
INDEX_LENGTH = 10_000
LOCK_S = 30
DUE_LOCK_MS = 900
LISTED_BEYOND_TTL_S = 60
"""RQ lists a worker for its `worker_ttl` and so much after its last sign of life."""

CLOCK_SLACK_S = 5.0
"""What the clocks of two hosts may differ by without a word."""

JobState = Literal["queued", "started", "finished", "failed", "cancelled"]

_STATES: Mapping[JobStatus, JobState] = {
    JobStatus.STARTED: "started",
    JobStatus.FINISHED: "finished",
    JobStatus.FAILED: "failed",
    JobStatus.STOPPED: "cancelled",
    JobStatus.CANCELED: "cancelled",
}


class JobQueue(Queue):
    """RQ's queue with limits that recover from a killed worker in seconds, whatever the clocks say.

    RQ holds its maintenance lock for 15 minutes: a worker killed with the lock would stop all
    recovery for that long. And it leaves a job that was taken but not begun for over a minute.
    """

    lost_after_s: float = 20.0
    longest_pause_s: float = 30.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.leases_seen, self.transit_seen = Silences(), Silences()

    def acquire_maintenance_lock(self) -> bool:
        """Take the lock for `LOCK_S`; False where another worker has it."""
        return hold(self.connection, self.registry_cleaning_key, 1000 * LOCK_S)

    @property
    def started_job_registry(self) -> LeaseRegistry:
        """Return the jobs that run."""
        registry = LeaseRegistry(queue=self, job_class=self.job_class, serializer=self.serializer)
        registry.silences, registry.lost_after_s = self.leases_seen, self.lost_after_s
        return registry

    @property
    def intermediate_queue(self) -> TransitQueue:
        """Return the jobs on their way to a worker."""
        transit = TransitQueue(self.key, connection=self.connection)
        transit.silences, transit.lost_after_s = self.transit_seen, self.lost_after_s
        return transit

    def observe(self) -> None:
        """Take notice of what runs and what is on its way; to be called every few seconds."""
        self.started_job_registry.observe()
        self.intermediate_queue.observe()

    def give_back_lost(self, worker: BaseWorker) -> None:
        """Queue again what dead workers had, and drop what the lists still name and nobody has."""
        self.started_job_registry.cleanup(exception_handlers=worker._exc_handlers)  # noqa: SLF001 (as RQ does)
        self.intermediate_queue.cleanup(worker, self)
        self.finished_job_registry.cleanup()
        self._forget_expired_failures()
        self._forget_dead_workers(worker.worker_ttl + LISTED_BEYOND_TTL_S)

    def _forget_dead_workers(self, longest_s: int) -> None:
        """Drop workers that have expired; one that would live longer than any may is not believed."""
        for key in get_keys(self):
            if int(self.connection.ttl(key)) > longest_s:  # type: ignore[arg-type]
                self.connection.expire(key, longest_s)
        clean_worker_registry(self)

    def _forget_expired_failures(self) -> None:
        """Drop the names of dead letters that have expired; RQ would by the calendar of this host."""
        registry = self.failed_job_registry
        names = {Job.key_for(job_id): job_id for job_id in registry.get_job_ids(cleanup=False)}
        for key in missing_keys(self.connection, list(names)):
            self.connection.zrem(registry.key, names[key])


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as its users see it; `report` is there once it finished, `error` once it failed.

    `request_id` is that of the request which queued it; the worker's log lines carry it too. A recalibration
    has stages; other jobs leave what follows `error` empty.
    """

    job_id: str
    kind: str
    request_id: str | None
    state: JobState
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    report: Mapping[str, Any] | None
    error: str | None
    stage: str | None = None
    progress: float | None = None
    detail: str | None = None
    stages: tuple[Mapping[str, Any], ...] = ()
    calibration_id: str | None = None
    measurement_set: str | None = None
    surrogate_version: str | None = None
    reason: str | None = None


def job_queue(name: str, client: redis.Redis, settings: Settings) -> JobQueue:
    """Return a queue: ``twin`` of simulations, ``train`` of what fits, trains and judges."""
    queue = JobQueue(name, connection=client, serializer=JSONSerializer)
    queue.lost_after_s = settings.job_heartbeat_s
    queue.longest_pause_s = max(settings.retry_pauses_s)
    return queue


def enqueue_due(queue: JobQueue) -> None:
    """Queue jobs whose pause before another try is over; one worker at a time does.

    RQ has a process of its own for it, which would be one more to supervise. A pause that ends later than any
    pause can was written by a clock that has gone back since, or that is ahead: it is over.
    """
    client, registry = queue.connection, queue.scheduled_job_registry
    if not hold(client, f"rq:due:{queue.name}", DUE_LOCK_MS):
        return
    beyond_s = now().timestamp() + queue.longest_pause_s + CLOCK_SLACK_S
    never = [as_text(name) for name in client.zrangebyscore(registry.key, beyond_s, "+inf")]  # type: ignore[union-attr]
    for job_id in [*registry.get_jobs_to_schedule(), *never]:
        with client.pipeline() as pipeline:
            registry.remove(job_id, pipeline=pipeline)
            with suppress(NoSuchJobError):
                job = Job.fetch(job_id, connection=client, serializer=JSONSerializer)
                queue._enqueue_job(job, pipeline=pipeline)  # noqa: SLF001 (as RQ's scheduler does)
            pipeline.execute()


class JobStore:
    """Puts jobs in the queue and tells how they stand."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._queue = job_queue(TWIN_QUEUE, client, settings)

    def submit(self, *, job_id: str, kind: str, function: str, payload: Mapping[str, Any]) -> JobRecord:
        """Queue a job, once for each `job_id`: one that is known is returned as it stands.

        A known one that failed is queued again.

        Raises
        ------
        OverloadedError
            Too many jobs wait.
        """
        with store_call():
            known = self._known(job_id)
            if known is not None and _state(known) != "failed":
                return _record(known)
            if known is not None:
                delete_job(known)
            if self._queue.count >= self._settings.max_queued_jobs:
                raise OverloadedError("too many jobs are waiting", retry_after_s=30)
            try:
                job = self._enqueue(job_id, kind, function, payload)
            except (DuplicateJobError, WatchError):  # another request was first
                job = self._fetch(job_id)
            return _record(job)

    @property
    def num_waiting(self) -> int:
        """How many jobs wait for a worker."""
        with store_call():
            return int(self._queue.count)

    def _known(self, job_id: str) -> Job | None:
        try:
            return self._fetch(job_id)
        except NotFoundError:
            return None

    def _enqueue(self, job_id: str, kind: str, function: str, payload: Mapping[str, Any]) -> Job:
        settings = self._settings
        self._client.zadd(INDEX_KEY, {job_id: now().timestamp()})
        self._client.zremrangebyrank(INDEX_KEY, 0, -INDEX_LENGTH - 1)
        return self._queue.enqueue_call(
            function,
            args=(dict(payload),),
            job_id=job_id,
            unique=True,
            description=f"{kind} {job_id}",
            meta={
                "kind": kind,
                "request_id": get_contextvars().get("request_id"),
                "traceparent": traceparent(),
            },
            timeout=settings.job_timeout_s,
            result_ttl=settings.result_ttl_s,
            failure_ttl=settings.result_ttl_s,
            retry=Retry(max=settings.job_retries, interval=settings.retry_pauses_s),
        )

    def get(self, job_id: str) -> JobRecord:
        """Return one job.

        Raises
        ------
        NotFoundError
            It never was, or its report has expired.
        """
        with store_call():
            return _record(self._fetch(job_id))

    def latest(self, limit: int) -> tuple[JobRecord, ...]:
        """Return up to `limit` jobs, the newest first."""
        with store_call():
            ids = [as_text(name) for name in self._client.zrevrange(INDEX_KEY, 0, limit - 1)]  # type: ignore[arg-type]
            jobs = Job.fetch_many(ids, connection=self._client, serializer=JSONSerializer)
            return tuple(_record(job, with_report=False) for job in jobs if job is not None)

    def dead_letters(self) -> tuple[JobRecord, ...]:
        """Return every job of any queue that failed for good, steps and batches of recalibrations too."""
        with store_call():
            found: list[Job | None] = []
            for name in QUEUES:
                registry = job_queue(name, self._client, self._settings).failed_job_registry
                ids = registry.get_job_ids(cleanup=False)
                found += Job.fetch_many(ids, connection=self._client, serializer=JSONSerializer)
            return tuple(_record(job) for job in found if job is not None)

    def retry(self, job_id: str) -> JobRecord:
        """Queue a job again that failed or was cancelled, with all its tries.

        Raises
        ------
        NotFoundError, ConflictError
            There is none of this id; it did not fail.
        """
        with store_call():
            job = self._fetch(job_id)
            if _state(job) not in {"failed", "cancelled"}:
                raise ConflictError(
                    f"{job_id} is {_state(job)}: only what failed or was cancelled is retried"
                )
            job.retries_left = self._settings.job_retries
            queue = job_queue(str(job.origin), self._client, self._settings)
            for registry in (queue.failed_job_registry, queue.canceled_job_registry):
                registry.remove(job)
            queue._enqueue_job(job)  # noqa: SLF001 (RQ requeues what failed, and only that)
            job.save()
            return _record(job)

    def cancel(self, job_id: str) -> JobRecord:
        """End a job that waits or runs.

        Raises
        ------
        NotFoundError, ConflictError
            There is none of this id; it has ended.
        """
        with store_call():
            job = self._fetch(job_id)
            if _state(job) not in {"queued", "started"}:
                raise ConflictError(f"{job_id} is {_state(job)}")
            if _state(job) == "started":
                send_stop_job_command(self._client, job_id, serializer=JSONSerializer)
            else:
                job.cancel()
            return _record(self._fetch(job_id))

    def _fetch(self, job_id: str) -> Job:
        try:
            return Job.fetch(job_id, connection=self._client, serializer=JSONSerializer)
        except (NoSuchJobError, ValueError):
            raise NotFoundError("names no job", field="job_id") from None


def _state(job: Job) -> JobState:
    return _STATES.get(job.get_status(refresh=False), "queued")


def _record(job: Job, *, with_report: bool = True) -> JobRecord:
    state = _state(job)
    result = job.latest_result() if with_report and state in {"finished", "failed"} else None
    return JobRecord(
        job_id=job.id,
        kind=str(job.meta.get("kind", "unknown")),
        request_id=job.meta.get("request_id"),
        state=state,
        created_at=job.created_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        report=result.return_value if result and state == "finished" else None,
        error=last_line(result.exc_string) if result and state == "failed" else None,
    )


def last_line(traceback: str | None) -> str:
    """Return the message of a failure without the frames, which are for our logs."""
    lines = (traceback or "").strip().splitlines()
    return lines[-1][:500] if lines else "no reason recorded"
