import pytest

from service.process import stop
from service.schemas import GpusNeededSchema
from service.storage.embedded import start_store
from tests.integration.conftest import RunningApp, make_settings
from tests.support.waiting import wait_until
from tests.support.workload_documents import adapter_document, workload_document


@pytest.fixture
def fleet(tmp_path):
    """A store that can be stopped and started, and a way to start applications on it."""
    running = []
    processes = [start_store(tmp_path / "store")]

    class Fleet:
        def client(self):
            running.append(RunningApp(make_settings(tmp_path)))
            return running[-1].client

        def stop_store(self):
            stop(processes.pop(), 20)

        def start_store(self):
            processes.append(start_store(tmp_path / "store"))

    yield Fleet()
    for app in running:
        app.close()
    for process in processes:
        stop(process, 20)


def needed(client):
    return GpusNeededSchema.model_validate_json(client.get("/gpus-needed").content)


def test_without_a_workload_there_is_no_number(fleet):
    client = fleet.client()
    for path in ("/gpus-needed", "/plan"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert answer.json()["code"] == "no_plan"
        assert "retry-after" in answer.headers


def test_the_workload_in_force_is_planned_and_its_gpus_are_told(fleet):
    client = fleet.client()
    plan = client.put("/workload", json=workload_document(192)).json()
    assert client.get("/plan").json() == plan
    answer = needed(client)
    assert answer.gpus_needed == answer.raw == plan["num_gpus"] >= 1
    assert answer.lower_bound == plan["lower_bound"]
    assert answer.plan_id == plan["plan_id"]
    assert not answer.stale
    assert 'gpu_type="h100-64gb"' in client.get("/metrics").text


def test_another_process_follows_and_a_later_one_remembers(fleet):
    first, second = fleet.client(), fleet.client()
    plan = first.put("/workload", json=workload_document(12)).json()
    wait_until(lambda: second.get("/plan").status_code == 200, timeout_s=10, what="the second process's plan")
    assert second.get("/plan").json() == plan
    later = fleet.client()
    wait_until(lambda: later.get("/plan").status_code == 200, timeout_s=10, what="the later process's plan")


def test_with_the_store_down_reads_go_stale_writes_say_so_and_all_heals(fleet):
    client = fleet.client()
    before = client.put("/workload", json=workload_document(12)).json()
    fleet.stop_store()

    refused = client.put("/workload", json=workload_document(24))
    assert refused.status_code == 503
    assert refused.json()["code"] == "store_unavailable"
    assert "retry-after" in refused.headers
    assert client.get("/plan").json() == before
    assert client.post("/simulate", json={}).status_code == 422
    assert client.get("/jobs").status_code == 503

    wait_until(lambda: needed(client).stale, timeout_s=10, what="staleness")
    assert needed(client).gpus_needed == before["num_gpus"]
    assert client.get("/readyz").status_code == 200
    assert client.post("/place", json=workload_document(24)).status_code == 200

    fleet.start_store()
    wait_until(lambda: not needed(client).stale, timeout_s=20, what="recovery")
    assert client.put("/workload", json=workload_document(24)).status_code == 200


def test_a_workload_that_no_gpu_can_serve_gets_no_number(fleet):
    client = fleet.client()
    document = workload_document(adapters=[adapter_document(0, rate_rps=100_000)])
    assert client.put("/workload", json=document).json()["feasible"] is False
    answer = client.get("/gpus-needed")
    assert answer.status_code == 503
    assert answer.json()["field"] == "adapters"
