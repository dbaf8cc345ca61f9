"""Bad input is a problem that names the field, whatever it is; never a 500, never a hang."""

import json

import pytest

from tests.support.workload_documents import adapter_document, simulation_document, workload_document

MEGABYTE = 2**20


def with_adapter(**changes):
    return json.dumps(workload_document(adapters=[adapter_document(0), adapter_document(1, **changes)]))


VALID = json.dumps(workload_document())

HOSTILE = {
    "rank above the calibration's": (with_adapter(rank=64), "adapters[1].rank"),
    "rank above any": (with_adapter(rank=4096), "adapters[1].rank"),
    "rate 0": (with_adapter(rate_rps=0), "adapters[1].rate_rps"),
    "negative rate": (with_adapter(rate_rps=-0.5), "adapters[1].rate_rps"),
    "NaN rate": (with_adapter(rate_rps=float("nan")), "adapters[1].rate_rps"),
    "infinite rate": (with_adapter(rate_rps=float("inf")), "adapters[1].rate_rps"),
    "rate 1e308": (with_adapter(rate_rps=1e308), "adapters[1].rate_rps"),
    "rate 1e400": (VALID.replace("0.1", "1e400", 1), "adapters[0].rate_rps"),
    "control character in an id": (with_adapter(id="a\x00\n"), "adapters[1].id"),
    "a million unknown fields": ("{" + ",".join(f'"{n}":1' for n in range(10**6)) + "}", "body"),
    "duplicate id": (with_adapter(id="adapter-0"), "adapters[1].id"),
    "unknown base model": (json.dumps(workload_document(base_model="gpt-5")), "base_model"),
    "unknown GPU type": (json.dumps(workload_document(gpu_type="tpu")), "gpu_type"),
    "a path as a name": (json.dumps(workload_document(gpu_type="../../etc")), "gpu_type"),
    "no adapters": (json.dumps(workload_document(0)), "adapters"),
    "100,000 adapters": (json.dumps(workload_document(100_000)), "adapters"),
    "unknown field": (json.dumps(workload_document(weight=1)), "weight"),
    "unknown option": (json.dumps(workload_document(options={"speed": 1})), "options.speed"),
    "unknown objective": (json.dumps(workload_document(options={"objective": "max"})), "options.objective"),
    "no time": (json.dumps(workload_document(options={"max_ttft_ms": 0})), "options.max_ttft_ms"),
    "risk of 1": (json.dumps(workload_document(options={"starvation_risk": 1})), "options.starvation_risk"),
    "no GPUs": (json.dumps(workload_document(options={"max_gpus": 0})), "options.max_gpus"),
    "a replay without end": (
        json.dumps(
            workload_document(
                adapters=[adapter_document(0, rate_rps=1e6)],
                options={"verify": True},
            )
        ),
        "options.verify",
    ),
    "truncated JSON": (VALID[:-10], "body"),
    "empty body": ("", "body"),
    "not UTF-8": (b"\xff\xfe" + VALID.encode(), "body"),
    "UTF-16": (VALID.encode("utf-16"), "body"),
    "deep nesting": ("[" * MEGABYTE, "body"),
    "deep objects": ('{"adapters":' * 100_000, "body"),
    "a number of 100,000 digits": (VALID.replace("0.1", "9" * 100_000, 1), "body"),
    "half a surrogate": (VALID.replace("adapter-0", "\\ud800", 1), "body"),
    "50 MB": (b" " * (50 * MEGABYTE), "body"),
}


def assert_problem(answer, field):
    assert 400 <= answer.status_code < 500, answer.text[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["field"] == field
    assert problem["status"] == answer.status_code
    assert field in problem["detail"]
    assert len(answer.content) < 2000


@pytest.mark.parametrize(("body", "field"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_bad_workload_is_refused_by_the_name_of_its_field(client, body, field):
    assert_problem(client.post("/place", content=body), field)


@pytest.mark.parametrize("name", ["rate 0", "100,000 adapters", "truncated JSON", "50 MB"])
def test_a_bad_workload_is_not_put_in_force_either(client, name):
    body, field = HOSTILE[name]
    assert_problem(client.put("/workload", content=body), field)


def test_a_long_body_that_does_not_tell_its_length_is_refused_too(client):
    chunks = (b" " * MEGABYTE for _ in range(50))
    answer = client.post("/place", content=chunks)
    assert answer.status_code == 413
    assert_problem(answer, "body")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_loras": 0}, "max_loras"),
        ({"max_loras": 4000}, "max_loras"),
        ({"max_lora_rank": 8}, "workload.adapters[1].rank"),
        ({"max_lora_rank": 1000}, "max_lora_rank"),
        (
            {"workload": workload_document(adapters=[adapter_document(0, rank=33)])},
            "workload.adapters[0].rank",
        ),
        ({"horizon_s": -1}, "horizon_s"),
        ({"horizon_s": 1e-300}, "horizon_s"),
        ({"horizon_s": 1e308}, "horizon_s"),
        ({"seed": -1}, "seed"),
        ({"calibration_id": "../../../etc/passwd"}, "calibration_id"),
        ({"workload": workload_document(base_model="gpt-5")}, "workload.base_model"),
        ({"workload": workload_document(adapters=[adapter_document(0, rate_rps=1e6)])}, "horizon_s"),
    ],
)
def test_a_simulation_that_cannot_run_is_refused_before_it_is_queued(client, changes, field):
    assert_problem(client.post("/simulate", json=simulation_document(**changes)), field)


@pytest.mark.parametrize("path", ["/jobs?limit=0", "/jobs?limit=1000000", "/jobs?limit=x"])
def test_a_list_has_a_bound(client, path):
    assert_problem(client.get(path), "limit")


@pytest.mark.parametrize("job_id", ["nope", "a:b", "%00", "x" * 5000])
def test_an_unknown_job_is_not_found(client, job_id):
    answer = client.get(f"/jobs/{job_id}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_unknown_path_and_a_wrong_method_are_problems_too(client):
    for answer, status in ((client.get("/nope"), 404), (client.delete("/place"), 405)):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
