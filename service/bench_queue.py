"""A million waiting simulations: what they cost the store, and whether the queue grows slower with them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.dataset import COLUMNS
from service.process import stop
from service.settings import Settings
from service.storage.connection import connect
from service.storage.embedded import start_store, store_url
from service.storage.jobs import TWIN_QUEUE, job_queue
from service.storage.steps import Step, StepQueue
from service.storage.waves import Wave

if TYPE_CHECKING:
    import redis

NUM_ROWS = 1_000_000
ROWS_A_BATCH = 128
WINDOW = 64
GATHERED_AT = 256
TENTH = 10


def bench_queue(num_rows: int = NUM_ROWS) -> dict[str, Any]:
    """Return memory of the store and computing time a batch while a wave is worked off without simulating.

    Each batch is queued, taken, committed with a result of the real size, and gathered, as workers do.
    """
    with tempfile.TemporaryDirectory(prefix="loadmaster-queue-") as directory:
        store_dir = Path(directory) / "store"
        store = start_store(store_dir)
        settings = Settings(data_dir=Path(directory), redis_url=store_url(store_dir))
        client = connect(settings)
        try:
            return _worked_off(client, settings, num_rows)
        finally:
            client.close()
            stop(store, 20)


def _worked_off(client: redis.Redis, settings: Settings, num_rows: int) -> dict[str, Any]:
    before = _memory_mib(client)
    wave, steps = Wave(client, "bench", 0), StepQueue(client, settings)
    queue = job_queue(TWIN_QUEUE, client, settings)
    wave.open(np.arange(num_rows), ROWS_A_BATCH)
    waiting = _memory_mib(client) - before
    columns = np.random.default_rng(0).random((ROWS_A_BATCH, len(COLUMNS)))
    peak, longest, num_rounds = 0.0, 0, 0
    cpu_s: list[float] = [_cpu_s(client)]
    state = wave.state()
    assert state is not None, "it was opened"
    while not state.is_done:
        for index in wave.take(WINDOW):
            steps.ensure(_step(index))
        longest = max(longest, queue.count)
        open_batches = wave.open_batches()
        for index in open_batches:
            wave.commit(index, columns[: len(wave.rows_of(index))])
            queue.remove(f"bench_{index}")
            client.delete(f"rq:job:bench_{index}")
        state = wave.state()
        assert state is not None, "nobody closed it"
        if state.num_held >= GATHERED_AT or state.is_done:
            peak = max(peak, _memory_mib(client) - before)
            while held := wave.held(len(COLUMNS), GATHERED_AT):
                wave.release(list(held))
        num_rounds += 1
        cpu_s.append(_cpu_s(client))
    tenth = max(1, num_rounds // TENTH)
    batches_a_round = state.num_batches / num_rounds
    return {
        "simulations": num_rows,
        "batches": state.num_batches,
        "counted": state.rows_done,
        "store_mib_waiting": round(waiting, 1),
        "store_mib_peak": round(peak, 1),
        "longest_queue": longest,
        "first_tenth_cpu_ms_per_batch": round(1e3 * (cpu_s[tenth] - cpu_s[0]) / tenth / batches_a_round, 2),
        "last_tenth_cpu_ms_per_batch": round(
            1e3 * (cpu_s[-1] - cpu_s[-1 - tenth]) / tenth / batches_a_round, 2
        ),
    }


def _step(index: int) -> Step:
    return Step(
        step_id=f"bench_{index}",
        name="batch",
        queue=TWIN_QUEUE,
        function="service.steps.batch.run",
        payload={"job_id": "bench", "index": index},
    )


def _cpu_s(client: redis.Redis) -> float:
    """Return what this process and the store have computed so far: a busy machine does not show in it."""
    told: dict[str, Any] = client.info("cpu")  # type: ignore[assignment]
    return time.process_time() + told["used_cpu_user"] + told["used_cpu_sys"]


def _memory_mib(client: redis.Redis) -> float:
    told: dict[str, Any] = client.info("memory")  # type: ignore[assignment]
    return told["used_memory"] / 2**20
