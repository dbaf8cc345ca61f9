"""A recalibration under faults of workers, trainer, store, disk and service: it completes, counted once."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import redis
from rq.serializers import JSONSerializer

from models.dataset_files import read_parquet
from service.drill.callers import CALL_TIMEOUT_S
from service.drill.clock import DAY_S, trial_clock, why_no_clock_jumps
from service.drill.measurements import twin_tables
from service.drill.waiting import POLL_S, holds, wait_for
from service.errors import UsageError
from service.settings import Settings
from service.storage.embedded import store_url
from service.storage.jobs import TWIN_QUEUE, job_queue
from service.trial import temporary_service

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.drill.clock import TrialClock
    from service.trial import TrialService

LAX = {"gate_slack": "20", "rows_a_batch": "16", "worker_nice": "0", "worker_concurrency": "2"}
"""A small data set teaches less than the shipped one; what is tried here is that it arrives."""

FAST = {"job_heartbeat_s": "4", "maintenance_interval_s": "1", "refresh_interval_s": "1"}
DEADLINE_S = 900.0
FOLLOWED_S = 30.0
TINY_FILE_BYTES = 512
MODEL = "llama-3.1-8b-instruct"


class Drill:
    """One recalibration on one service, whose clock can jump where there is a `TrialClock`."""

    def __init__(self, service: TrialService, num_rows: int, clock: TrialClock | None = None) -> None:
        self.service = service
        self.clock = clock
        self.num_rows = num_rows
        self.job_id = ""

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Return the JSON of an answer."""
        with httpx.Client(base_url=self.service.url, timeout=CALL_TIMEOUT_S) as client:
            return client.request(method, path, **options).raise_for_status().json()

    def begin(self, tables: Mapping[str, bytes]) -> None:
        """Upload measurements and ask for a recalibration."""
        texts = {name: content.decode() for name, content in tables.items()}
        known = self.call("POST", "/measurement-sets", json={"tables": texts})
        asked = {
            "base_model": MODEL,
            "gpu_type": "h100-64gb",
            "measurement_set": known["measurement_set"],
            "num_rows": self.num_rows,
        }
        self.job_id = self.call("POST", "/recalibrate", json=asked)["job_id"]

    def job(self) -> Any:
        """Return how the recalibration stands."""
        return self.call("GET", f"/jobs/{self.job_id}")

    def working(self, queue: str, name: str = "step-") -> Any:
        """Return a worker of a queue that has a step in hand; an empty mapping where none has."""
        for worker in self.call("GET", "/workers")["workers"]:
            if queue in worker["queues"] and name in (worker["job_id"] or ""):
                return worker
        return {}

    def jump_to(self, ahead_s: int) -> None:
        """Set the clock of every process of the service."""
        assert self.clock is not None, "faults that need a clock are left out without one"
        self.clock.jump_to(ahead_s)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Return the first true value of a condition; a service that does not answer is asked again."""
        return wait_for(condition, what, deadline_s=DEADLINE_S)

    def has_ended(self) -> bool:
        """Whether the recalibration is over."""
        return self.job()["state"] in {"finished", "failed", "cancelled"}

    def wait_for_stage(self, *stages: str) -> None:
        """Wait until the recalibration is in one of some stages, or past them."""
        order = ("requested", "measuring", "fitting", "simulating", "training", "validating")
        first = order.index(stages[0])
        later = {*order[first:], "published", "rejected", "failed"}
        self.wait(lambda: self.job()["stage"] in later, f"the stage {stages[0]}")


def kill_worker_of(queue: str, step: str) -> Callable[[Drill], None]:
    """Return a fault: a worker is killed with a step in hand; the step has to be finished by another."""

    def fault(drill: Drill) -> None:
        worker = in_hand(drill, queue, step)
        os.kill(worker["pid"], signal.SIGKILL)
        wait_for_step(drill, worker["job_id"])

    return fault


def in_hand(drill: Drill, queue: str, step: str) -> Any:
    """Return a worker of a queue that has a step in hand, once there is one."""
    worker = drill.wait(lambda: drill.working(queue, step) or drill.has_ended(), f"a {step} in hand")
    if worker is True:
        job = drill.job()
        raise UsageError(
            f"the recalibration was {job['stage']} before this fault ({job['error']}): ask for more rows",
            field=step,
        )
    return worker


def wait_for_step(drill: Drill, job_id: str) -> None:
    """Wait until a step is done."""
    drill.wait(lambda: drill.call("GET", f"/jobs/{job_id}")["state"] == "finished", f"the end of {job_id}")


def set_clock_ahead(drill: Drill) -> None:
    """Set the clock of store, workers and service a day ahead in a batch, which is finished all the same."""
    worker = in_hand(drill, "twin", "_batch_")
    drill.jump_to(DAY_S)
    wait_for_step(drill, worker["job_id"])


def set_clock_back(drill: Drill) -> None:
    """Kill a worker in a batch and set the clock back by a day; another worker has to run the batch.

    What says until when the batch is the dead one's lies a day ahead then.
    """
    worker = in_hand(drill, "twin", "_batch_")
    os.kill(worker["pid"], signal.SIGKILL)
    drill.jump_to(0)
    wait_for_step(drill, worker["job_id"])


def kill_store(drill: Drill) -> None:
    """Kill the store; what it acknowledged comes back from its append-only file."""
    before = drill.job()
    os.kill(drill.service.child_pid("store"), signal.SIGKILL)
    drill.wait(lambda: _has_gone_on(before, drill.job()), "progress after the store's death")


def _has_gone_on(before: Any, now: Any) -> bool:
    return now["stage"] != before["stage"] or now["progress"] > before["progress"]


def fill_disk(drill: Drill) -> None:
    """Let the trainer write no file longer than a few bytes until a step of it has failed, then all again."""
    trainer = drill.service.child_pid("trainer")
    limits = resource.prlimit(trainer, resource.RLIMIT_FSIZE)
    resource.prlimit(trainer, resource.RLIMIT_FSIZE, (TINY_FILE_BYTES, limits[1]))
    before = num_failures(drill)
    try:
        drill.wait(lambda: num_failures(drill) > before, "a step that finds no room")
    finally:
        resource.prlimit(trainer, resource.RLIMIT_FSIZE, limits)
    drill.wait_for_stage("training")


def num_failures(drill: Drill) -> int:
    """Return how often jobs of the trainer's failed."""
    workers = drill.call("GET", "/workers")["workers"]
    return sum(worker["num_failed"] for worker in workers if "train" in worker["queues"])


def poison(drill: Drill) -> None:
    """Queue a job that kills whatever runs it; it ends among the dead letters and the others go on."""
    settings = Settings(data_dir=drill.service.data_dir)
    with redis.Redis.from_url(store_url(settings.store_dir)) as client:
        queue = job_queue(TWIN_QUEUE, client, settings)
        from rq import Retry  # noqa: PLC0415 (beside its only use)

        assert queue.serializer is JSONSerializer, "as every job of ours"
        queue.enqueue_call(
            "os.abort", job_id="poison", timeout=60, retry=Retry(max=1), meta={"kind": "poison"}
        )
    drill.wait(
        lambda: any(job["job_id"] == "poison" for job in drill.call("GET", "/jobs?state=failed")["jobs"]),
        "the poison among the dead letters",
    )


def kill_service(drill: Drill) -> None:
    """Kill the whole service while it publishes; start it again on the same files."""
    drill.wait_for_stage("validating")
    drill.service.kill()
    drill.service.launch()


Fault = tuple[str, str, Callable[[Drill], None]]
"""The stage that it is for, its name, and what does it."""

CLOCK_FAULTS: tuple[Fault, ...] = (
    ("simulating", "the clock jumps ahead by a day in a batch", set_clock_ahead),
    ("simulating", "the clock jumps back by a day and a worker is killed in a batch", set_clock_back),
)
CLOCKLESS_FAULTS: tuple[Fault, ...] = (
    ("simulating", "a worker is killed in a batch", kill_worker_of("twin", "_batch_")),
)
"""What is tried in place of them where no clock can jump."""


def faults_with(clock: TrialClock | None) -> tuple[Fault, ...]:
    """Return the faults in their order."""
    return (
        ("fitting", "the trainer is killed while it fits", kill_worker_of("train", "_fit_")),
        *(CLOCK_FAULTS if clock is not None else CLOCKLESS_FAULTS),
        ("simulating", "the store is killed", kill_store),
        ("simulating", "a poison job kills what runs it", poison),
        ("simulating", "the trainer's disk is full", fill_disk),
        ("training", "the trainer is killed while it trains", kill_worker_of("train", "_train_")),
        ("validating", "the service is killed while it publishes", kill_service),
    )


def recalibration_drill(num_rows: int, *, fast: bool = False) -> dict[str, Any]:
    """Return what came of a recalibration under every fault; `passed` where all counted once was published.

    Parameters
    ----------
    num_rows
        Servers that it simulates.
    fast
        Notice dead workers in seconds, for tests; else with the settings of an installation.
    """
    with trial_clock() as clock:
        return _drilled(num_rows, LAX | (FAST if fast else {}), clock)


def _drilled(num_rows: int, settings: Mapping[str, str], clock: TrialClock | None) -> dict[str, Any]:
    started = time.monotonic()
    skipped = [name for _, name, _ in CLOCK_FAULTS] if clock is None else []
    with temporary_service({} if clock is None else clock.environment, **settings) as service:
        drill = Drill(service, num_rows, clock)
        drill.begin(twin_tables())
        faults = [_suffer(drill, *fault) for fault in faults_with(clock)]
        job = drill.wait(lambda: _ended(drill.job()), "the end of the recalibration")
        is_active = _is_active(drill, job["surrogate_version"])
        counted = _rows(drill)
    return {
        "faults": faults,
        "skipped": [{"fault": name, "reason": why_no_clock_jumps()} for name in skipped],
        "stage": job["stage"],
        "error": job["error"],
        "rows_asked_for": num_rows,
        "rows_in_dataset": len(counted),
        "rows_lost": num_rows - len(set(counted)),
        "rows_counted_twice": len(counted) - len(set(counted)),
        "is_in_force": is_active,
        "total_s": round(time.monotonic() - started, 1),
        "passed": job["stage"] == "published" and is_active and len(counted) == len(set(counted)) == num_rows,
    }


def _suffer(drill: Drill, stage: str, name: str, fault: Callable[[Drill], None]) -> dict[str, Any]:
    drill.wait_for_stage(stage)
    seen = drill.job()["stage"]
    started = time.monotonic()
    fault(drill)
    return {"fault": name, "stage": seen, "recovery_s": round(time.monotonic() - started, 2)}


def _ended(job: Any) -> Any:
    return job if job["stage"] in {"published", "rejected", "failed", "cancelled"} else None


def _is_active(drill: Drill, version: str) -> bool:
    """Whether the service plans with a version within the seconds that it may take to follow."""

    def is_active() -> bool:
        rows = drill.call("GET", "/surrogates")["surrogates"]
        return any(row["surrogate_version"] == version and row["active"] for row in rows)

    ends_s = time.monotonic() + FOLLOWED_S
    while not holds(is_active) and time.monotonic() < ends_s:
        time.sleep(POLL_S)
    return bool(holds(is_active))


def _rows(drill: Drill) -> list[int]:
    (path,) = (drill.service.data_dir / "datasets").glob("*/*/*/*/dataset.parquet")
    return [int(row) for row in read_parquet(path)["row"]]
