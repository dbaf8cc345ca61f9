"""How much faster simulations get with more worker hosts, and what they cost."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from service.factory import build_recalibrations
from service.process import spawn_tethered, stop
from service.services.clock import Clock
from service.settings import Settings
from service.storage.connection import connect
from service.storage.embedded import start_store, store_url
from service.storage.files import FileExchange
from service.storage.jobs import TWIN_QUEUE
from service.storage.recalibrations import PREFIX, Recalibration, RecalibrationStore, StageRecord
from service.storage.steps import StepQueue
from service.storage.versions import VersionStore
from service.storage.waves import Wave
from service.trial import clean_environment
from twin.calibration import load_calibration, shipped_calibration_ids

if TYPE_CHECKING:
    import redis

NUM_ROWS = 1024
ROWS_A_BATCH = 32
START_S, RUN_S, POLL_S = 300.0, 1800.0, 0.05
SECONDS_AN_HOUR = 3600.0


def bench_workers(num_hosts: int = 0) -> dict[str, Any]:
    """Return simulations a second with 1, 2, ... worker hosts, and the computing time of 100,000.

    Each host is a worker process with a data directory of its own; they have the store in common.

    Parameters
    ----------
    num_hosts
        At most; 0 takes one a core.
    """
    most = num_hosts or len(os.sched_getaffinity(0))
    runs = [_measured(count) for count in range(1, most + 1)]
    return {
        "rows": NUM_ROWS,
        "cores": len(os.sched_getaffinity(0)),
        "hosts": [run | {"speed_up": round(run["rows_per_s"] / runs[0]["rows_per_s"], 2)} for run in runs],
        "core_hours_per_100000": round(runs[0]["cpu_ms_per_row"] * 1e5 / 1e3 / SECONDS_AN_HOUR, 3),
    }


def _measured(num_hosts: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="loadmaster-workers-") as directory, ExitStack() as stack:
        root = Path(directory)
        store = start_store(root / "store")
        stack.callback(stop, store, 20)
        settings = Settings(
            data_dir=root / "home", redis_url=store_url(root / "store"), rows_a_batch=ROWS_A_BATCH
        )
        client = connect(settings)
        stack.callback(client.close)
        job = _a_recalibration(client, settings)
        workers = []
        for number in range(num_hosts):
            workers.append(_start_host(root / f"host-{number}", settings))
            stack.callback(stop, workers[-1], 20)
        steps = StepQueue(client, settings)
        _await(lambda: steps.num_workers(TWIN_QUEUE) == num_hosts, START_S)
        before_s, started = sum(map(_cpu_s, [worker.pid for worker in workers])), time.monotonic()
        files = FileExchange(settings.data_dir, client)
        service = build_recalibrations(client, files, settings, Clock())
        service.open_wave(job.job_id, 0, 0, np.arange(NUM_ROWS))
        wave = Wave(client, job.job_id, 0)
        _await(lambda: _is_done(wave), RUN_S)
        wall_s = time.monotonic() - started
        cpu_s = sum(map(_cpu_s, [worker.pid for worker in workers])) - before_s
        return {
            "hosts": num_hosts,
            "rows_per_s": round(NUM_ROWS / wall_s, 1),
            "cpu_ms_per_row": round(1e3 * cpu_s / NUM_ROWS, 2),
        }


def _a_recalibration(client: redis.Redis, settings: Settings) -> Recalibration:
    """Return one that simulates the twin of a shipped calibration."""
    calibration = load_calibration(shipped_calibration_ids()[0])
    digest = VersionStore(FileExchange(settings.data_dir, client)).publish_calibration(calibration)
    now_s = time.time()
    return RecalibrationStore(client).add(
        Recalibration(
            job_id=f"{PREFIX}{'0' * 24}",
            base_model=calibration.base_model,
            gpu_type=calibration.gpu_type,
            engine_version=calibration.engine_version,
            measurement_set=None,
            num_rows=NUM_ROWS,
            seed=0,
            requested_at_s=now_s,
            request_id=None,
            actor="bench",
            stages=(StageRecord(stage="simulating", started_at_s=now_s),),
            calibration_digest=digest,
        )
    )


def _start_host(data_dir: Path, settings: Settings) -> Any:
    environment = clean_environment(
        LOADMASTER_DATA_DIR=str(data_dir),
        LOADMASTER_REDIS_URL=str(settings.redis_url),
        LOADMASTER_ROWS_A_BATCH=str(ROWS_A_BATCH),
        LOADMASTER_WORKER_NICE="0",
        LOADMASTER_LOG_LEVEL="error",
    )
    command = [sys.executable, "-m", "service.cli", "worker", "--queues", TWIN_QUEUE]
    return spawn_tethered(command, env=environment)


def _is_done(wave: Wave) -> bool:
    state = wave.state()
    return state is not None and state.is_done


def _await(condition: Any, within_s: float) -> None:
    ends_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > ends_s:
            raise TimeoutError(f"not within {within_s:g} s")
        time.sleep(POLL_S)


def _cpu_s(pid: int) -> float:
    """Return what a process and its ended children have computed; on Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
