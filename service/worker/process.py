"""The worker process: takes jobs from the store until it is told to stop."""

from __future__ import annotations

import logging
import os
import random
import time
from typing import TYPE_CHECKING, NoReturn

import redis
import structlog
from rq import Worker
from rq.serializers import JSONSerializer
from structlog.contextvars import bind_contextvars

from service.services.warmup import warm_twin
from service.storage.connection import connect
from service.storage.jobs import TWIN_QUEUE, TwinQueue, twin_queue
from service.tether import die_with_parent

if TYPE_CHECKING:
    from types import FrameType

    from rq.job import Job
    from rq.queue import Queue

    from service.settings import Settings

HEARTBEATS_A_LEASE = 4
MAX_BACKOFF_S = 15.0

log = structlog.get_logger()


class TwinWorker(Worker):
    """RQ's worker (a fork a job) whose jobs are given back soon after it dies, and die with it."""

    queue_class = TwinQueue
    lease_s: int
    stopped = False

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002 (RQ's signature)
        """Return how long a job counts as running without a sign of life: RQ's is over a minute."""
        return self.lease_s

    def main_work_horse(self, job: Job, queue: Queue) -> NoReturn:
        """Run the job in the forked child, tied to this worker's life."""
        die_with_parent(self.pid or 0)
        bind_contextvars(job_id=job.id, request_id=job.meta.get("request_id"))
        super().main_work_horse(job, queue)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Finish the job in hand, then stop."""
        self.stopped = True
        super().request_stop(signum, frame)


def run_worker(settings: Settings) -> None:
    """Work until SIGTERM; when the store is away, wait for it with growing pauses."""
    os.nice(settings.worker_nice)
    logging.getLogger("rq.worker").setLevel(logging.WARNING)  # its routine is a line every few seconds
    logging.getLogger("rq.job").setLevel(logging.WARNING)
    warm_twin()
    log.info("worker_ready", queues=[TWIN_QUEUE])
    pause_s = 0.5
    while True:
        started = time.monotonic()
        worker = None
        try:
            worker = _make_worker(settings)
            worker.work(logging_level=None)
        except redis.RedisError as error:
            log.warning("store_is_away", reason=str(error))
        if worker is not None and worker.stopped:
            return
        pause_s = 0.5 if time.monotonic() - started > MAX_BACKOFF_S else min(MAX_BACKOFF_S, 2 * pause_s)
        time.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 (jitter)


def _make_worker(settings: Settings) -> TwinWorker:
    client = connect(settings)
    worker = TwinWorker(
        [twin_queue(client, settings)],
        name=f"{TWIN_QUEUE}-{os.uname().nodename}-{os.getpid()}-{time.time_ns()}",
        connection=client,
        serializer=JSONSerializer,
        default_result_ttl=settings.result_ttl_s,
        worker_ttl=settings.worker_ttl_s,
        maintenance_interval=settings.maintenance_interval_s,
        job_monitoring_interval=max(1, settings.job_heartbeat_s // HEARTBEATS_A_LEASE),
    )
    worker.lease_s = settings.job_heartbeat_s
    return worker
