"""The worker process: takes jobs from the store until it is told to stop."""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import time
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import redis
import structlog
from rq import Worker
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker_registration import WORKERS_BY_QUEUE_KEY, register
from structlog.contextvars import bind_contextvars

from service.factory import build_recalibrations
from service.services.clock import Clock
from service.services.recalibration import try_tick
from service.services.warmup import warm_twin
from service.storage.connection import connect
from service.storage.datasets import require_datasets_url
from service.storage.files import FileExchange
from service.storage.jobs import TRAIN_QUEUE, TWIN_QUEUE, JobQueue, enqueue_due, job_queue
from service.storage.steps import STEP
from service.tether import die_with_parent
from service.tracing import job_span, preload, tell_failure
from service.worker.forks import run_forks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from rq.executions import Execution
    from rq.job import Job
    from rq.queue import Queue

    from service.settings import Settings

HEARTBEATS_A_LEASE = 4
MAX_BACKOFF_S = 15.0
MIB = 2**20
INHERITED = {TWIN_QUEUE: "service.steps.batch"}
"""Modules that a queue's jobs need in every fork; by name, for the worker itself stays light."""

log = structlog.get_logger()


class JobWorker(Worker):
    """RQ's worker (a fork a job) whose jobs are given back soon after it dies, and die with it.

    RQ's measures time by the wall clock. What decides anything here goes by a clock that never jumps.
    """

    queue_class = JobQueue
    queues: list[JobQueue]  # type: ignore[assignment]
    lease_s: int
    settings: Settings
    memory_mb: dict[str, int]
    tick: Callable[[], None]
    stopped = False
    _maintained_s: float | None = None
    _in_hand: tuple[Job, float] | None = None

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Tell whether the last maintenance is long enough ago."""
        since_s = self._maintained_s
        return since_s is None or time.monotonic() - since_s > self.maintenance_interval

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002 (RQ's signature)
        """Return how long a job counts as running without a sign of life: RQ's is over a minute."""
        return self.lease_s

    def main_work_horse(self, job: Job, queue: Queue) -> NoReturn:
        """Run the job in the forked child, tied to this worker's life, in the memory it may have."""
        die_with_parent(self.pid or 0)
        limit = self.memory_mb.get(queue.name, 0) * MIB
        if limit:
            _limit_memory(limit)
        bind_contextvars(job_id=job.id, request_id=job.meta.get("request_id"))
        super().main_work_horse(job, queue)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Run the job, as a span of the trace that asked for it; tells whether it went well."""
        name, about = _span_of(job)
        with job_span(self.settings, job.meta.get("traceparent"), name, **about) as span:
            is_well = super().perform_job(job, queue, execution)
            span.set_attribute("loadmaster.job_outcome", "finished" if is_well else "failed")
            if not is_well:
                tell_failure(span, "job")
        return is_well

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:
        """End what a job that died had started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(retpid, signal.SIGKILL)
        log.error("job_died", job_id=job.id, status=ret_val)
        super().handle_work_horse_killed(job, retpid, ret_val, rusage)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a job in a fork and wait for it."""
        self._stay_registered()
        super().execute_job(job, queue)

    def monitor_work_horse(self, job: Job, queue: Queue, execution: Execution) -> None:
        """Wait until the fork has ended; RQ kills one that is far beyond its time."""
        self._in_hand = job, time.monotonic()
        super().monitor_work_horse(job, queue, execution)

    def wait_for_horse(self) -> tuple[int | None, int | None, Any]:
        """Wait for the fork; after a jump of the wall clock the job still counts as begun when it was."""
        try:
            return super().wait_for_horse()
        finally:
            if self._in_hand is not None:
                job, began_s = self._in_hand
                job.started_at = now() - timedelta(seconds=time.monotonic() - began_s)

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Tell that worker and job live, and look at what the others do."""
        super().maintain_heartbeats(job, execution)
        self._stay_registered()
        for queue in self.queues:
            queue.observe()

    def run_maintenance_tasks(self) -> None:
        """Give lost jobs back, queue those whose pause is over, move recalibrations on."""
        self._maintained_s = time.monotonic()
        self._stay_registered()
        super().run_maintenance_tasks()
        for queue in self.queues:
            enqueue_due(queue)
        self.tick()

    def clean_registries(self) -> None:
        """Give lost jobs back; one worker at a time does, each one has looked."""
        for queue in self.queues:
            queue.observe()
            if queue.acquire_maintenance_lock():
                queue.give_back_lost(self)
                queue.release_maintenance_lock()
        self.last_cleaned_at = now()

    def _stay_registered(self) -> None:
        """Register anew where the entry has expired: the store was out of reach, or its clock jumped."""
        with self.connection.pipeline() as pipeline:
            pipeline.hexists(self.key, "birth")
            for name in self.queue_names():  # a look at expired entries may drop one that has just come back
                pipeline.sismember(WORKERS_BY_QUEUE_KEY % name, self.key)
            if all(pipeline.execute()):
                return
            pipeline.hset(self.key, mapping=self.serialize())
            register(self, pipeline)
            pipeline.expire(self.key, self.worker_ttl + 60)
            pipeline.execute()
        log.warning("worker_registered_again", worker=self.name)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Finish the job in hand, then stop."""
        self.stopped = True
        super().request_stop(signum, frame)


def run_worker(
    settings: Settings, queues: Sequence[str] = (TWIN_QUEUE, TRAIN_QUEUE), concurrency: int = 1
) -> None:
    """Work until SIGTERM, on several jobs at a time if asked to; kernels are compiled once, before.

    Parameters
    ----------
    queues
        Where jobs are taken from, those of the first queue before those of the next.
    concurrency
        Jobs at a time.
    """
    preload(settings)
    if TRAIN_QUEUE in queues:
        require_datasets_url(settings)
    os.nice(settings.worker_nice)
    logging.getLogger("rq.worker").setLevel(logging.WARNING)  # its routine is a line every few seconds
    logging.getLogger("rq.job").setLevel(logging.WARNING)
    logging.getLogger("rq.queue").setLevel(logging.WARNING)
    warm_twin()
    for queue in queues:
        if queue in INHERITED:
            import_module(INHERITED[queue])
    log.info("worker_ready", queues=list(queues), concurrency=concurrency)
    if concurrency == 1:
        _work(settings, queues)
    else:
        run_forks(concurrency, lambda: _work(settings, queues))


def _work(settings: Settings, queues: Sequence[str]) -> None:
    """Take jobs one by one; when the store is away, wait for it with growing pauses."""
    pause_s = 0.5
    while True:
        started = time.monotonic()
        worker = None
        try:
            worker = _make_worker(settings, queues)
            worker.work(logging_level=None)
        except redis.RedisError as error:
            log.warning("store_is_away", reason=str(error))
        if worker is not None and worker.stopped:
            return
        pause_s = 0.5 if time.monotonic() - started > MAX_BACKOFF_S else min(MAX_BACKOFF_S, 2 * pause_s)
        time.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 (jitter)


def _make_worker(settings: Settings, queues: Sequence[str]) -> JobWorker:
    client = connect(settings)
    worker = JobWorker(
        [job_queue(name, client, settings) for name in queues],
        name=f"{'-'.join(queues)}-{os.uname().nodename}-{os.getpid()}-{time.time_ns()}",
        connection=client,
        serializer=JSONSerializer,
        default_result_ttl=settings.result_ttl_s,
        worker_ttl=settings.worker_ttl_s,
        maintenance_interval=settings.maintenance_interval_s,
        job_monitoring_interval=max(1, settings.job_heartbeat_s // HEARTBEATS_A_LEASE),
    )
    recalibrations = build_recalibrations(client, FileExchange(settings.data_dir, client), settings, Clock())
    worker.lease_s, worker.settings = settings.job_heartbeat_s, settings
    worker.memory_mb = {TWIN_QUEUE: settings.job_memory_mb, TRAIN_QUEUE: settings.train_memory_mb}
    worker.tick = lambda: try_tick(recalibrations)
    return worker


def _span_of(job: Job) -> tuple[str, dict[str, str]]:
    """Return the name of a job's span and what it tells of the job."""
    kind, about = str(job.meta.get("kind", "unknown")), {"loadmaster.job_id": job.id}
    if kind != STEP:
        return kind, about
    about["loadmaster.recalibration_id"] = str(job.meta.get("recalibration_id"))
    return f"recalibrate {job.meta.get('step')}", about


def _limit_memory(num_bytes: int) -> None:
    """Let an allocation beyond the limit fail in this process, instead of the machine's memory run out."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = num_bytes if hard == resource.RLIM_INFINITY else min(num_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
