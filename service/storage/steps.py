"""Steps of recalibrations as RQ jobs: queued once, tried again with pauses, stopped when not wanted."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from redis.exceptions import WatchError
from rq import Retry, Worker
from rq.command import send_stop_job_command
from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.worker_registration import clean_worker_registry

from service.storage.connection import store_call
from service.storage.jobs import QUEUES, TRAIN_QUEUE, job_queue, last_line
from service.storage.leases import delete_job

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis

    from service.settings import Settings

StepState = Literal["waiting", "running", "finished", "failed"]
STEP = "step"
"""The kind of its RQ job."""

KEPT_S = 600
"""How long a step that ended is remembered: what it made is kept elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a worker is to do.

    Attributes
    ----------
    step_id
        Its RQ job: one for each name.
    name
        What it does, such as ``fit``.
    queue
        ``twin`` or ``train``.
    function
        Dotted name; called with `payload`.
    payload
        JSON values; a recalibration's ``job_id`` among them, where it is a step of one.
    request_id, traceparent
        Of the request that asked for the recalibration, for its logs and its span.
    """

    step_id: str
    name: str
    queue: str
    function: str
    payload: Mapping[str, Any]
    request_id: str | None = None
    traceparent: str | None = None


class StepQueue:
    """Queues steps and tells how they stand."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._queues = {name: job_queue(name, client, settings) for name in QUEUES}

    def ensure(self, step: Step) -> tuple[StepState, str | None]:
        """Queue a step unless it is known; returns how it stands, and its error once it failed."""
        with store_call():
            known = self._find(step.step_id)
            if known is None:
                with suppress(DuplicateJobError, WatchError):  # another process was first
                    self._enqueue(step)
                return "waiting", None
            return _stand(known)

    def again(self, step: Step) -> None:
        """Queue a step anew, whatever became of it."""
        with store_call():
            known = self._find(step.step_id)
            if known is not None:
                delete_job(known)
            with suppress(DuplicateJobError, WatchError):
                self._enqueue(step)

    def stop(self, step_id: str) -> None:
        """Take a step from its queue, or end it where it runs."""
        with store_call():
            known = self._find(step_id)
            if known is None:
                return
            if known.get_status(refresh=False) == JobStatus.STARTED:
                with suppress(InvalidJobOperation):
                    send_stop_job_command(self._client, step_id, serializer=JSONSerializer)
            else:
                delete_job(known)

    def num_workers(self, queue: str) -> int:
        """Return how many workers listen to a queue."""
        with store_call():
            clean_worker_registry(self._queues[queue])
            return Worker.count(queue=self._queues[queue])

    def _find(self, step_id: str) -> Job | None:
        try:
            return Job.fetch(step_id, connection=self._client, serializer=JSONSerializer)
        except NoSuchJobError:
            return None

    def _enqueue(self, step: Step) -> None:
        settings = self._settings
        is_long = step.queue == TRAIN_QUEUE
        self._queues[step.queue].enqueue_call(
            step.function,
            args=(dict(step.payload),),
            job_id=step.step_id,
            unique=True,
            description=step.step_id,
            meta={
                "kind": STEP,
                "step": step.name,
                "recalibration_id": step.payload.get("job_id"),
                "request_id": step.request_id,
                "traceparent": step.traceparent,
            },
            timeout=settings.train_timeout_s if is_long else settings.job_timeout_s,
            result_ttl=KEPT_S,
            failure_ttl=settings.result_ttl_s,
            retry=Retry(max=settings.job_retries, interval=settings.retry_pauses_s),
        )


def _stand(job: Job) -> tuple[StepState, str | None]:
    status = job.get_status(refresh=False)
    if status == JobStatus.FINISHED:
        return "finished", None
    if status in {JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED}:
        result = job.latest_result()
        return "failed", last_line(result.exc_string if result else None)
    return ("running" if status == JobStatus.STARTED else "waiting"), None
