"""`loadmaster serve` as users run it: real processes, killed for real."""

import os
import signal
import subprocess
import sys

import pytest
import redis

from service.process import stop
from service.storage.embedded import start_store, store_url
from tests.support.service_process import ROOT, clean_environment, is_running, run_service
from tests.support.waiting import wait_until
from tests.support.workload_documents import adapter_document, simulation_document, workload_document

JOB_S = 120.0
RECOVERY_S = 120.0
LONG_RUN = {
    "workload": workload_document(adapters=[adapter_document(n, rate_rps=0.5) for n in range(12)]),
    "max_loras": 8,
    "horizon_s": 604_800.0,
}
"""Seconds of work for the twin: time enough to be killed in."""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """One that must outlive whatever a test does to its children."""
    with run_service(tmp_path_factory.mktemp("shared") / "data") as process:
        yield process


@pytest.fixture
def mortal_service(tmp_path):
    """One that a test may kill."""
    with run_service(tmp_path / "data") as process:
        yield process


def job_of(service, location):
    return service.client.get(location).json()


def wait_for_state(service, location, states, timeout_s):
    def reached():
        job = job_of(service, location)
        return job if job["state"] in states else None

    return wait_until(reached, timeout_s=timeout_s, what=f"a job {' or '.join(states)}")


def submit(service, document):
    answer = service.client.post("/simulate", json=document)
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


def test_a_simulation_runs_as_a_job_once_and_reports(service):
    location = submit(service, simulation_document())
    job = wait_for_state(service, location, ("finished", "failed"), JOB_S)
    assert job["state"] == "finished", job["error"]
    report = job["report"]
    assert report["num_requests_completed"] <= report["num_requests_sent"]
    assert set(report["served_fraction"]) == {f"adapter-{number}" for number in range(4)}
    assert submit(service, simulation_document()) == location
    listed = service.client.get("/jobs").json()["jobs"]
    assert [entry["job_id"] for entry in listed].count(job["job_id"]) == 1
    assert job_of(service, location)["ended_at"] == job["ended_at"]


def test_the_worker_yields_the_processor_to_answers(service):
    lower = min(19, os.getpriority(os.PRIO_PROCESS, service.process.pid) + 10)

    def yields():
        return os.getpriority(os.PRIO_PROCESS, service.child_pid("worker")) == lower

    wait_until(yields, timeout_s=60, what="the worker's lower priority")


def test_a_killed_service_leaves_no_process_and_loses_neither_job_nor_workload(mortal_service):
    service = mortal_service
    plan = service.client.put("/workload", json=workload_document(24)).json()
    started = submit(service, LONG_RUN)
    queued = submit(service, simulation_document(seed=1))
    wait_for_state(service, started, ("started",), JOB_S)
    family = service.descendants()
    assert len(family) >= 3, "store, worker and the job's own process"

    service.kill()
    wait_until(lambda: not any(map(is_running, family)), timeout_s=5, what="the end of every child")

    service.start()
    wait_until(lambda: service.client.get("/plan").status_code == 200, timeout_s=20, what="the plan's return")
    assert service.client.get("/plan").json() == plan
    for location in (queued, started):
        job = wait_for_state(service, location, ("finished", "failed"), RECOVERY_S)
        assert job["state"] == "finished", job["error"]


def test_a_killed_worker_is_replaced_and_its_job_run_again(service):
    location = submit(service, LONG_RUN)
    wait_for_state(service, location, ("started",), JOB_S)
    os.kill(service.child_pid("worker"), signal.SIGKILL)
    job = wait_for_state(service, location, ("finished", "failed"), RECOVERY_S)
    assert job["state"] == "finished", job["error"]
    assert 'loadmaster_child_restarts_total{child="worker"} 1.0' in service.client.get("/metrics").text


def test_a_killed_store_is_started_again_with_what_it_acknowledged(service):
    service.client.put("/workload", json=workload_document(24))
    location = submit(service, simulation_document())
    wait_for_state(service, location, ("finished",), JOB_S)
    os.kill(service.child_pid("store"), signal.SIGKILL)
    assert service.client.post("/place", json=workload_document()).status_code == 200
    wait_until(
        lambda: service.client.get(location).status_code == 200, timeout_s=30, what="the store's return"
    )
    assert job_of(service, location)["state"] == "finished"
    later = submit(service, simulation_document(seed=2))
    wait_for_state(service, later, ("finished",), JOB_S)


def test_a_store_that_is_given_is_used_and_left_running(tmp_path):
    given = start_store(tmp_path / "given")
    url = store_url(tmp_path / "given")
    with run_service(tmp_path / "data", LOADMASTER_REDIS_URL=url) as service:
        location = submit(service, simulation_document())
        wait_for_state(service, location, ("finished",), JOB_S)
        assert not service.data_dir.joinpath("store").exists()
    assert given.poll() is None
    with redis.Redis.from_url(url) as client:
        assert client.exists(f"rq:job:{location.rpartition('/')[2]}")
    stop(given, 20)


def test_a_second_service_on_the_same_data_directory_is_refused(service):
    command = [
        sys.executable,
        "-m",
        "service.cli",
        "serve",
        "--port",
        "0",
        "--data-dir",
        str(service.data_dir),
    ]
    second = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 2
    assert "in use" in second.stderr
    assert service.client.get("/readyz").status_code == 200
