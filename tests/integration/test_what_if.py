import pytest

from placer.problem import DEFAULT_NUM_TRIALS
from service.schemas.what_if import WhatIfSchema
from tests.support.workload_documents import LLAMA, adapter_document, workload_document


def asked(client, body):
    answer = client.post("/what-if", json=body)
    assert answer.status_code == 200, answer.text
    return WhatIfSchema.model_validate_json(answer.content)


def hot(num_adapters=60, **changes):
    adapters = [adapter_document(number, rate_rps=1.0) for number in range(num_adapters)]
    return workload_document(adapters=adapters) | changes


def test_each_change_is_judged_by_itself_against_the_workload_as_it_is(client):
    changes = [{"scale_rates": 2}, {"scale_rates": 1}, {"name": "fewer slots", "max_loras": 16}]
    answer = asked(client, hot(changes=changes))
    searched = {"options": {"num_trials": DEFAULT_NUM_TRIALS}}
    plan = client.post("/place", json=hot(**searched)).json()
    faster = [adapter_document(number, rate_rps=2.0) for number in range(60)]
    twice = client.post("/place", json=hot(adapters=faster, **searched)).json()
    assert answer.now.num_gpus == answer.running_gpus == plan["num_gpus"]
    doubled, same, slots = answer.changes
    assert doubled.num_gpus == twice["num_gpus"] == plan["num_gpus"] + doubled.more_gpus
    assert doubled.lower_bound == twice["lower_bound"]
    assert sum(doubled.binding_constraints.values()) == doubled.num_gpus
    assert (same.more_gpus, same.from_current.moves, same.from_current.restarts) == (0, 0, [])
    assert (doubled.name, slots.name) == ("scale_rates 2", "fewer slots")


def test_without_adapters_it_is_the_workload_in_force_and_nothing_in_force_changes(client):
    plan = client.put("/workload", json=hot()).json()
    before = client.get("/gpus-needed").json()
    answer = asked(client, {"base_model": LLAMA, "changes": [{"scale_rates": 3}, {"lose_gpus": 1}]})
    assert answer.running_gpus == plan["num_gpus"]
    assert answer.changes[0].more_gpus > 0
    assert len(answer.changes[1].lost) == 1
    assert client.get("/plan").json()["plan_id"] == plan["plan_id"]
    assert client.get("/gpus-needed").json()["gpus_needed"] == before["gpus_needed"]
    client.delete("/workload")
    gone = client.post("/what-if", json={"changes": [{"scale_rates": 3}]})
    assert (gone.status_code, gone.json()["code"]) == (503, "no_plan")


def test_the_way_begins_at_the_servers_that_are_given(client):
    current = {"gpus": [{"gpu": 7, "max_loras": 6, "max_lora_rank": 32, "adapters": ["adapter-0"]}]}
    body = workload_document(4, current=current, changes=[{"add_adapters": [adapter_document(9)]}])
    answer = asked(client, body)
    assert answer.running_gpus == 1
    way = answer.changes[0].from_current
    assert (way.moves, way.loads, way.restarts, way.opened) == (0, 4, [], [])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, "changes[0]"),
        ({"name": "nothing"}, "changes[0]"),
        ({"scale_rates": 0}, "changes[0].scale_rates"),
        ({"scale_rates": 1e300}, "changes[0].scale_rates"),
        ({"scale_rates": 1e6}, "changes[0].scale_rates"),
        ({"adapters": ["adapter-0"]}, "changes[0].scale_rates"),
        ({"scale_rates": 2, "adapters": ["adapter-0", "nobody"]}, "changes[0].adapters[1]"),
        ({"add_adapters": [adapter_document(0)]}, "changes[0].add_adapters[0].id"),
        ({"add_adapters": [adapter_document(9, rank=512)]}, "changes[0].add_adapters[0].rank"),
        ({"add_adapters": [adapter_document(9), adapter_document(9)]}, "changes[0].add_adapters[1].id"),
        ({"add_adapters": [adapter_document(9, rate_rps=-1)]}, "changes[0].add_adapters[0].rate_rps"),
        ({"lose_gpus": 1}, "changes[0].lose_gpus"),
        ({"max_loras": 0}, "changes[0].max_loras"),
        ({"max_loras": 4096}, "changes[0].max_loras"),
        ({"starvation_risk": 1}, "changes[0].starvation_risk"),
        ({"max_ttft_ms": -1}, "changes[0].max_ttft_ms"),
        ({"ranks": 8}, "changes[0].ranks"),
    ],
)
def test_a_change_that_cannot_be_supposed_is_refused_by_field(client, change, field):
    adapters = [adapter_document(number, rate_rps=5.0) for number in range(3)]
    answer = client.post("/what-if", json=workload_document(adapters=adapters, changes=[change]))
    assert answer.status_code == 422
    assert answer.json()["field"] == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"changes": []}, "changes"),
        ({"changes": [{"max_loras": 8}] * 33}, "changes"),
        ({"options": {"verify": True}}, "options.verify"),
        ({"options": {"max_loras": 4096}}, "options.max_loras"),
        ({"gpu_type": None}, "gpu_type"),
        ({"base_model": "gpt-5"}, "base_model"),
        (
            {"current": {"gpus": [{"gpu": 0, "max_loras": 8, "max_lora_rank": 9, "adapters": []}]}},
            "current.gpus[0].max_lora_rank",
        ),
        (
            {"current": {"gpus": [{"gpu": 0, "max_loras": 8, "max_lora_rank": 8, "adapters": []}] * 2}},
            "current.gpus",
        ),
    ],
)
def test_a_bad_question_is_refused_by_field(client, body, field):
    answer = client.post("/what-if", json=workload_document(3, changes=[{"max_loras": 8}]) | body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field
