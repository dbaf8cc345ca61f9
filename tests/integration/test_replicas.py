import pytest

from service.schemas.plan import DeltaSchema, PlanSchema
from service.schemas.what_if import WhatIfSchema
from tests.support.workload_documents import adapter_document, workload_document


def with_giant(**changes):
    adapters = [adapter_document(number, rate_rps=60.0 if number == 1 else 0.1) for number in range(4)]
    return workload_document(adapters=adapters) | changes


def planned(client, path, body, model=PlanSchema):
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return model.model_validate_json(answer.content)


def check_shares(plan):
    (giant,) = plan.replicas
    assert giant.adapter == "adapter-1"
    assert sum(part.share for part in giant.gpus) == pytest.approx(1, abs=1e-5)
    on = [gpu.gpu for gpu in plan.gpus if "adapter-1" in gpu.adapters]
    assert [part.gpu for part in giant.gpus] == on
    assert len(on) >= 2


def test_an_adapter_that_no_gpu_carries_is_on_several_with_shares(client):
    plan = planned(client, "/place", with_giant())
    assert plan.feasible
    check_shares(plan)
    names = [name for gpu in plan.gpus for name in gpu.adapters]
    assert set(names) == {f"adapter-{number}" for number in range(4)}
    assert names.count("adapter-0") == 1


def test_with_replicas_switched_off_it_is_not_placed(client):
    plan = planned(client, "/place", with_giant(options={"replicas": False}))
    assert (plan.feasible, plan.replicas) == (False, [])
    assert [row.adapter for row in plan.unplaced] == ["adapter-1"]


def test_a_verified_plan_replays_each_replica_with_its_part_of_the_traffic(client):
    plan = planned(client, "/place", with_giant(options={"verify": True}))
    assert plan.verification.status == "verified"
    offered = sum(gpu.offered_tok_s for gpu in plan.verification.gpus)
    assert offered == pytest.approx((60.0 + 0.3) * (223 + 197), rel=0.05)


def test_replicas_stay_where_they_run_and_are_told_again(client):
    plan = planned(client, "/place", with_giant())
    keys = ("gpu", "max_loras", "max_lora_rank", "adapters")
    current = {"gpus": [{key: getattr(gpu, key) for key in keys} for gpu in plan.gpus]}
    delta = planned(client, "/re-place", with_giant(current=current), DeltaSchema)
    assert (delta.moves, delta.restarts, delta.opened, delta.closed) == ([], [], [], [])
    check_shares(delta)


def test_what_if_an_adapter_grew_beyond_a_gpu(client):
    changes = [{"scale_rates": 600, "adapters": ["adapter-1"]}, {"scale_rates": 2}]
    answer = planned(client, "/what-if", workload_document(4, changes=changes), WhatIfSchema)
    grown, doubled = answer.changes
    assert grown.feasible
    assert grown.from_current.feasible
    assert grown.num_gpus > doubled.num_gpus == 1
    assert grown.from_current.loads >= 1  # a replica stays where the adapter runs


def test_the_workload_in_force_may_have_replicas(client):
    plan = client.put("/workload", json=with_giant()).json()
    listed = client.get("/workloads").json()["workloads"]
    assert [row["num_adapters"] for row in listed] == [4]
    answer = planned(client, "/what-if", {"changes": [{"scale_rates": 1, "lose_gpus": 1}]}, WhatIfSchema)
    assert answer.running_gpus == plan["num_gpus"]
    client.delete("/workload")
