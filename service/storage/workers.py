"""Workers and queues, as RQ knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rq import Worker
from rq.serializers import JSONSerializer

from service.storage.connection import store_call
from service.storage.jobs import QUEUES, job_queue

if TYPE_CHECKING:
    import redis
    from rq.worker.base import BaseWorker

    from service.settings import Settings


class WorkerStore:
    """Tells which workers there are."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client = client
        self._queues = [job_queue(name, client, settings) for name in QUEUES]

    def listing(self) -> dict[str, list[dict[str, Any]]]:
        """Return workers and queues (`service.schemas.recalibration.WorkerListSchema`)."""
        with store_call():
            workers = Worker.all(connection=self._client, serializer=JSONSerializer)
            return {
                "workers": [_worker(one) for one in sorted(workers, key=lambda one: one.name)],
                "queues": [
                    {
                        "queue": queue.name,
                        "num_waiting": queue.count,
                        "num_running": queue.started_job_registry.get_job_count(cleanup=False),
                        "num_failed": queue.failed_job_registry.get_job_count(cleanup=False),
                    }
                    for queue in self._queues
                ],
            }


def _worker(worker: BaseWorker) -> dict[str, Any]:
    return {
        "name": worker.name,
        "hostname": worker.hostname,
        "pid": worker.pid,
        "queues": worker.queue_names(),
        "state": str(worker.get_state()),
        "job_id": worker.get_current_job_id(),
        "started_at": worker.birth_date,
        "heartbeat_at": worker.last_heartbeat,
        "num_finished": worker.successful_job_count,
        "num_failed": worker.failed_job_count,
    }
