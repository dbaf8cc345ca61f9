import pytest

from service.schemas.plan import PlanSchema
from tests.support.workload_documents import (
    LLAMA_CALIBRATION,
    adapter_document,
    simulation_document,
    workload_document,
)


def test_a_plan_has_every_adapter_once_and_fits_the_contract(client):
    answer = client.post("/place", json=workload_document(192))
    assert answer.status_code == 200
    plan = PlanSchema.model_validate_json(answer.content)
    placed = [name for gpu in plan.gpus for name in gpu.adapters]
    assert sorted(placed) == sorted(f"adapter-{number}" for number in range(192))
    assert plan.feasible
    assert plan.unplaced == []
    assert plan.num_gpus == len(plan.gpus) >= plan.lower_bound >= 1
    assert plan.gap == plan.num_gpus - plan.lower_bound
    assert plan.calibration_id == LLAMA_CALIBRATION
    assert plan.verification.status == "not_asked"


def test_the_flags_are_those_that_start_the_server(client):
    (gpu,) = client.post("/place", json=workload_document(3)).json()["gpus"]
    arguments = gpu["vllm_args"]
    assert arguments[0] == "--enable-lora"
    assert arguments[arguments.index("--max-loras") + 1] == str(gpu["max_loras"])
    assert arguments[arguments.index("--max-lora-rank") + 1] == str(gpu["max_lora_rank"])


def test_the_same_request_gets_the_same_bytes(client):
    document = workload_document(50)
    assert client.post("/place", json=document).content == client.post("/place", json=document).content


def test_rates_without_an_error_get_the_plan_they_would_get_without_the_field(client):
    documents = [
        workload_document(adapters=[adapter_document(row) | error for row in range(50)])
        for error in ({}, {"rate_rps_std": 0}, {"rate_rps_std": None})
    ]
    answers = [client.post("/place", json=document).content for document in documents]
    without_ids = {answer.split(b",", 1)[1] for answer in answers}  # equal requests share an id
    assert len(without_ids) == 1


def test_a_verified_plan_tells_what_the_twin_did_with_each_gpu(client):
    document = workload_document(48, options={"verify": True})
    plan = PlanSchema.model_validate_json(client.post("/place", json=document).content)
    assert plan.verification.status == "verified"
    assert [gpu.gpu for gpu in plan.verification.gpus] == [gpu.gpu for gpu in plan.gpus]
    assert all(gpu.throughput_tok_s >= 0.9 * gpu.offered_tok_s for gpu in plan.verification.gpus)


def test_a_limit_of_ttft_holds_for_every_gpu_that_is_planned_and_replayed(client):
    document = workload_document(48, options={"max_ttft_ms": 400})
    plan = PlanSchema.model_validate_json(client.post("/place", json=document).content)
    assert plan.feasible
    assert all(gpu.predicted.ttft_ms <= 400 for gpu in plan.gpus)
    document["options"]["verify"] = True
    plan = PlanSchema.model_validate_json(client.post("/place", json=document).content)
    assert plan.verification.status == "verified"
    assert all(gpu.ttft_ms <= 400 and gpu.starving_adapters == 0 for gpu in plan.verification.gpus)


def test_an_adapter_that_no_gpu_can_serve_is_named_with_a_reason(client):
    adapters = [adapter_document(0), adapter_document(1, rate_rps=100_000)]
    answer = client.post("/place", json=workload_document(adapters=adapters))
    plan = PlanSchema.model_validate_json(answer.content)
    assert answer.status_code == 200
    assert not plan.feasible
    assert plan.gap is None
    assert [row.adapter for row in plan.unplaced] == ["adapter-1"]
    assert plan.unplaced[0].reason


def test_placements_need_no_store(client_without_store):
    assert client_without_store.post("/place", json=workload_document()).status_code == 200
    health = client_without_store.get("/readyz")
    assert health.status_code == 200
    assert health.json()["store"] == "down"


@pytest.mark.parametrize("path", ["/livez", "/docs", "/openapi.json"])
def test_what_describes_the_service_answers(client, path):
    assert client.get(path).status_code == 200


def test_the_documentation_page_loads_nothing_from_elsewhere(client):
    page = client.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    assert "/gpus-needed" in page


def test_metrics_count_a_request_under_its_route(client):
    client.post("/place", json=workload_document())
    client.get("/jobs/not-a-job")
    text = client.get("/metrics").text
    assert 'loadmaster_http_request_duration_seconds_count{method="POST",route="/place",status="200"}' in text
    assert 'route="/jobs/{job_id}"' in text
    assert "not-a-job" not in text


def test_a_request_id_is_kept_when_it_is_safe_and_replaced_when_not(client):
    assert client.get("/livez", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/livez", headers={"x-request-id": 'a" b'}).headers["x-request-id"] != 'a" b'


def test_a_job_carries_the_id_of_its_request(client):
    answer = client.post("/simulate", json=simulation_document(seed=31), headers={"x-request-id": "asked-1"})
    assert answer.json()["request_id"] == "asked-1"
    assert client.get(answer.headers["location"]).json()["request_id"] == "asked-1"


def test_metrics_tell_what_answers(client):
    text = client.get("/metrics").text
    assert 'loadmaster_build_info{python_version="' in text
    assert f'loadmaster_surrogate_info{{calibration_id="{LLAMA_CALIBRATION}"' in text
