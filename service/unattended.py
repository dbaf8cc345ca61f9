"""Services on a data directory, with its store and workers started where none run."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from service.context import build_context
from service.errors import StoreUnavailableError, UsageError
from service.factory import build_services
from service.process import lock_data_dir, stop
from service.serve import spawn_worker
from service.storage.connection import connect
from service.storage.datasets import require_datasets_url
from service.storage.embedded import start_store, store_url
from service.storage.jobs import QUEUES, TRAIN_QUEUE, TWIN_QUEUE
from service.storage.steps import StepQueue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.factory import Services
    from service.settings import Settings

STOP_S = 20.0
START_S = 30.0
POLL_S = 0.2


@contextmanager
def unattended(settings: Settings) -> Iterator[tuple[Services, bool]]:
    """Open the services; yields them, and whether store or workers end with the block.

    Raises
    ------
    UsageError
        The store that LOADMASTER_REDIS_URL names does not answer, or LOADMASTER_DATASETS_URL cannot be used.
    """
    require_datasets_url(settings)
    with ExitStack() as stack:
        is_up = _answers(settings)
        if not is_up:
            if settings.redis_url is not None:
                raise UsageError("does not answer", field="LOADMASTER_REDIS_URL")
            lock = lock_data_dir(settings.data_dir)
            stack.callback(os.close, lock)
            store = start_store(settings.store_dir, keep_fds=(lock,))
            stack.callback(stop, store, STOP_S)
        url = settings.redis_url or store_url(settings.store_dir)
        settings = settings.model_copy(update={"redis_url": url})
        started = [
            spawn_worker(settings, queue, settings.worker_concurrency if queue == TWIN_QUEUE else 1)
            for queue in _unserved(settings, wait_s=0.0 if not is_up else START_S)
        ]
        for worker in started:
            stack.callback(stop, worker, settings.drain_s)
        context = build_context(settings)
        stack.callback(context.close)
        yield build_services(context), bool(started) or not is_up


def _answers(settings: Settings) -> bool:
    with connect(settings) as client:
        try:
            return StepQueue(client, settings).num_workers(TRAIN_QUEUE) >= 0
        except StoreUnavailableError:
            return False


def _unserved(settings: Settings, *, wait_s: float) -> list[str]:
    """Return the queues that no worker listens to; a service that has just begun is given time to."""
    deadline = time.monotonic() + wait_s
    with connect(settings) as client:
        steps = StepQueue(client, settings)
        while True:
            empty = [queue for queue in QUEUES if steps.num_workers(queue) == 0]
            if not empty or time.monotonic() >= deadline:
                return empty
            time.sleep(POLL_S)
