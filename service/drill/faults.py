"""A service of two processes whose parts are killed under load: nothing wrong, nothing lost, well soon."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import httpx

from service.bench import bench_workload
from service.drill.callers import CALL_TIMEOUT_S
from service.drill.load import Load
from service.drill.waiting import POLL_S, wait_for
from service.trial import temporary_service

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.trial import TrialService

SETTINGS = {
    "processes": "2",
    "store_appendfsync": "always",
    "refresh_interval_s": "1",
    "stale_after_s": "3",
    "job_heartbeat_s": "4",
    "maintenance_interval_s": "1",
}
RECOVERY_DEADLINE_S = 180.0
JOBS_DEADLINE_S = 180.0
FOLLOWING_S = 10.0
HANG_S = 4.0
LONG_JOB = {"workload": bench_workload(12), "max_loras": 8, "horizon_s": 604_800.0}
"""Seconds of work for the twin: time enough to be killed in."""


def fault_drill(load_s: float) -> dict[str, Any]:
    """Return what came of each fault under load; `passed` where no answer was wrong and no write was lost.

    Parameters
    ----------
    load_s
        Load before each fault.
    """
    with temporary_service(**SETTINGS) as service:
        load = Load(service)
        load.start()
        try:
            faults = [_suffer(name, fault, service, load, load_s) for name, fault in FAULTS.items()]
            time.sleep(load_s)
        finally:
            load.stop()
        lost_jobs = _unfinished(service, load.jobs)
    lost_writes = sum(fault["lost_writes"] for fault in faults)
    return {
        "faults": faults,
        "calls": dict(load.outcomes),
        "wrong_answers": load.wrong,
        "writes_acknowledged": load.num_writes,
        "lost_writes": lost_writes,
        "jobs_acknowledged": len(load.jobs),
        "lost_jobs": lost_jobs,
        "passed": not load.wrong and lost_writes == 0 and lost_jobs == 0,
    }


def _suffer(
    name: str, fault: Callable[[TrialService], None], service: TrialService, load: Load, load_s: float
) -> dict[str, Any]:
    """Carry out a fault under load, wait until all is well, and look for what was lost."""
    time.sleep(load_s)
    before = load.outcomes.copy()
    started = time.monotonic()
    fault(service)
    num_writes = load.num_writes
    _await(lambda: load.num_writes > num_writes and _is_well(service), f"recovery: {name}")
    recovery_s = time.monotonic() - started
    return {
        "fault": name,
        "recovery_s": round(recovery_s, 2),
        "lost_writes": len(load.lost_writes(FOLLOWING_S)),
        **{
            outcome: load.outcomes[outcome] - before[outcome] for outcome in ("answered", "refused", "broken")
        },
    }


def _is_well(service: TrialService) -> bool:
    """Whether the number of GPUs is fresh, and every process tells its metrics."""
    with httpx.Client(base_url=service.url, timeout=CALL_TIMEOUT_S) as client:
        needed = client.get("/gpus-needed")
        text = client.get("/metrics").text
    is_fresh = needed.is_success and not needed.json()["stale"]
    return is_fresh and all(f'resident_memory_bytes{{process="api-{number}"}}' in text for number in range(2))


def _kill(child: str) -> Callable[[TrialService], None]:
    """Return a fault: a child is killed, and another one takes its place."""

    def fault(service: TrialService) -> None:
        killed = service.child_pid(child)
        os.kill(killed, signal.SIGKILL)
        _await(lambda: service.child_pid(child) != killed, f"another {child}")

    return fault


def _kill_worker_in_a_job(service: TrialService) -> None:
    """Kill the worker while a job runs; another worker has to finish it."""
    with httpx.Client(base_url=service.url, timeout=CALL_TIMEOUT_S) as client:
        job = f"/jobs/{client.post('/simulate', json=LONG_JOB).raise_for_status().json()['job_id']}"
        _await(lambda: client.get(job).json()["state"] == "started", "a job that runs")
        _kill("worker")(service)
        _await(lambda: client.get(job).json()["state"] == "finished", "the job's second run")


def _hang_store(service: TrialService) -> None:
    """Have the store answer nothing for a while, its connections open."""
    store = service.child_pid("store")
    os.kill(store, signal.SIGSTOP)
    try:
        time.sleep(HANG_S)
    finally:
        os.kill(store, signal.SIGCONT)


def _kill_service(service: TrialService) -> None:
    """Kill the supervisor, and with it everything; start again on the same files."""
    service.kill()
    service.launch()


FAULTS: dict[str, Callable[[TrialService], None]] = {
    "the store is killed": _kill("store"),
    "the store hangs": _hang_store,
    "the first process is killed": _kill("api-0"),
    "the second process is killed": _kill("api-1"),
    "the worker is killed in a job": _kill_worker_in_a_job,
    "everything is killed and started again": _kill_service,
}


def _unfinished(service: TrialService, jobs: set[str]) -> int:
    """Return how many acknowledged jobs do not finish."""
    waiting = set(jobs)
    ends_s = time.monotonic() + JOBS_DEADLINE_S
    with httpx.Client(base_url=service.url, timeout=CALL_TIMEOUT_S) as client:
        while waiting and time.monotonic() < ends_s:
            waiting = {job for job in waiting if not _is_finished(client.get(f"/jobs/{job}"))}
            time.sleep(POLL_S)
    return len(waiting)


def _is_finished(answer: httpx.Response) -> bool:
    return answer.is_success and answer.json()["state"] == "finished"


def _await(condition: Callable[[], bool], what: str) -> None:
    wait_for(condition, what, deadline_s=RECOVERY_DEADLINE_S)
