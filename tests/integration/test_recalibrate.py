"""`POST /recalibrate` over HTTP: asked for, followed, cancelled, tried again."""

import json

import pytest

from service.client import Client
from tests.support.measurement_sets import minimal_tables

BODY = {"base_model": "llama-3.1-8b-instruct", "gpu_type": "h100-test"}


@pytest.fixture
def set_id(client):
    tables = {name: content.decode() for name, content in minimal_tables().items()}
    answer = client.post("/measurement-sets", json={"tables": tables})
    assert answer.status_code == 201, answer.text
    return answer.json()["measurement_set"]


@pytest.fixture
def job(client, set_id):
    answer = client.post("/recalibrate", json=BODY | {"measurement_set": set_id})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['job_id']}"
    yield job
    client.post(f"/jobs/{job['job_id']}/cancel")


def test_a_recalibration_is_a_job_with_stages(client, job, set_id):
    told = client.get(f"/jobs/{job['job_id']}").json()
    assert (told["kind"], told["state"], told["stage"]) == ("recalibrate", "started", "fitting")
    assert [stage["stage"] for stage in told["stages"]] == ["requested", "measuring", "fitting"]
    assert told["calibration_id"] == "h100-test/llama-3.1-8b-instruct/vllm-0.8.5"
    assert told["measurement_set"] == set_id
    assert told["request_id"]
    assert client.post("/recalibrate", json=BODY).json()["job_id"] == job["job_id"]
    assert client.post("/recalibrate", json=BODY | {"seed": 7}).status_code == 409


def test_a_job_is_listed_by_its_state(client, job):
    def listed(state):
        return [one["job_id"] for one in client.get(f"/jobs?state={state}").json()["jobs"]]

    assert job["job_id"] in listed("started")
    assert job["job_id"] not in listed("finished")
    assert client.get("/jobs?state=lost").status_code == 422


def test_events_begin_with_how_a_job_stands_and_end_with_it(client, job):
    told = []
    with client.stream("GET", f"/jobs/{job['job_id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("data: "):
                told.append(json.loads(line.removeprefix("data: "))["stage"])
                if len(told) == 1:
                    client.post(f"/jobs/{job['job_id']}/cancel")
    assert (told[0], told[-1]) == ("fitting", "cancelled")
    assert client.get("/jobs/nothing/events").status_code == 404


def test_a_cancelled_job_is_tried_again_from_where_it_was(client, job):
    path = f"/jobs/{job['job_id']}"
    assert client.post(f"{path}/retry").status_code == 409
    assert client.post(f"{path}/cancel").json()["state"] == "cancelled"
    assert client.post(f"{path}/cancel").status_code == 409
    assert client.post(f"{path}/retry").json()["stage"] == "fitting"


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"base_model": "a/../b"}, 422, "base_model"),
        ({"num_rows": 3}, 422, "num_rows"),
        ({"measurement_set": "0" * 24}, 404, "measurement_set"),
        ({"colour": "red"}, 422, "colour"),
    ],
)
def test_a_request_that_cannot_be_carried_out_names_the_field(client, changes, status, field):
    answer = client.post("/recalibrate", json=BODY | changes)
    assert (answer.status_code, answer.json()["field"]) == (status, field)


def test_a_table_that_cannot_be_read_is_named(client):
    tables = {name: content.decode() for name, content in minimal_tables().items()}
    answer = client.post("/measurement-sets", json={"tables": tables | {"runs.csv": "model\nx\n"}})
    assert answer.status_code == 422
    assert answer.json()["field"].startswith("tables.runs.csv")


def test_a_measurement_set_is_listed(client, set_id):
    listed = client.get("/measurement-sets").json()["measurement_sets"]
    assert {"measurement_set": set_id, "base_models": ["llama-3.1-8b-instruct"], "num_runs": 1} in listed


def test_queues_are_told_also_without_workers(client, job):
    told = client.get("/workers").json()
    assert {queue["queue"] for queue in told["queues"]} == {"twin", "train"}
    (train,) = [queue for queue in told["queues"] if queue["queue"] == "train"]
    assert train["num_waiting"] >= 1
    assert job["state"] == "started"


def test_the_client_speaks_of_recalibrations(client, set_id):
    with Client(str(client.base_url)) as typed:
        job = typed.recalibrate(BODY | {"measurement_set": set_id})
        assert typed.job(job.job_id).stage == "fitting"
        assert typed.cancel(job.job_id).state == "cancelled"
        assert typed.retry(job.job_id).state == "started"
        typed.cancel(job.job_id)
        assert typed.workers().queues
