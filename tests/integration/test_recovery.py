"""Jobs that a worker took and never finished."""

import os
import sys

import orjson
import pytest

from service.drill.clock import DAY_S, trial_clock, why_no_clock_jumps
from service.process import spawn_tethered, stop
from service.services.catalog import load_catalog
from service.services.simulation import SimulationService
from service.settings import Settings
from service.storage.connection import connect
from service.storage.embedded import start_store, store_url
from service.storage.jobs import TWIN_QUEUE, JobStore, job_queue
from tests.support.service_process import FAST_RECOVERY, ROOT, clean_environment
from tests.support.waiting import wait_until
from tests.support.workload_documents import LLAMA_CALIBRATION, simulation_document

LONG_S = 604_800.0
"""Of simulated time: seconds of work."""


@pytest.fixture
def settings(tmp_path):
    store = start_store(tmp_path / "store")
    yield Settings(data_dir=tmp_path, redis_url=store_url(tmp_path / "store"))
    stop(store, 20)


@pytest.fixture
def run_worker(settings):
    workers = []

    def run(**changes):
        environment = clean_environment(
            **FAST_RECOVERY,
            **changes,
            LOADMASTER_REDIS_URL=settings.redis_url,
            PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        )
        workers.append(spawn_tethered([sys.executable, "-m", "service.cli", "worker"], env=environment))

    yield run
    for worker in workers:
        stop(worker, 20)


def test_a_job_whose_worker_died_before_it_began_is_run_by_another(settings, run_worker):
    client = connect(settings)
    service = SimulationService(load_catalog(), JobStore(client, settings), settings)
    jobs = [service.submit(encoded(seed)).job_id for seed in (1, 2, 3)]
    queue = job_queue(TWIN_QUEUE, client, settings)
    for _ in jobs[:2]:  # two are taken from the queue by a worker that dies
        client.lmove(queue.key, queue.intermediate_queue_key, "LEFT", "RIGHT")
    client.zadd(queue.started_job_registry.key, {f"{jobs[1]}:gone": 1})  # the second a moment later
    client.set(queue.registry_cleaning_key, 1, ex=2)  # and a third worker died cleaning up
    run_worker()
    for job_id in jobs:
        wait_until(lambda job_id=job_id: service.get(job_id).state == "finished", timeout_s=60, what=job_id)
    client.close()


def test_a_job_under_way_is_run_once_though_the_clock_jumps_ahead_by_a_day(settings, run_worker):
    if (reason := why_no_clock_jumps()) is not None:
        pytest.skip(reason)
    client = connect(settings)
    service = SimulationService(load_catalog(), JobStore(client, settings), settings)
    job = service.submit(encoded(1, horizon_s=LONG_S)).job_id
    with trial_clock() as clock:
        run_worker(**clock.environment)
        wait_until(lambda: service.get(job).state == "started", timeout_s=60, what="a job that runs")
        clock.jump_to(DAY_S)
        wait_until(lambda: service.get(job).state == "finished", timeout_s=120, what=job)
    known = job_queue(TWIN_QUEUE, client, settings).fetch_job(job)
    assert (known.retries_left, known.number_of_retries) == (settings.job_retries, None)
    assert known.ended_at > known.started_at
    client.close()


def encoded(seed, **changes):
    return orjson.dumps(simulation_document(seed=seed, calibration_id=LLAMA_CALIBRATION, **changes))
