import pytest

from service.schemas.plan import DeltaSchema
from tests.support.workload_documents import adapter_document, workload_document


def current_of(plan):
    keys = ("gpu", "max_loras", "max_lora_rank", "adapters")
    return {"gpus": [{key: gpu[key] for key in keys} for gpu in plan["gpus"]]}


def test_a_plan_that_holds_is_answered_with_no_moves_and_no_restarts(client):
    document = workload_document(24)
    plan = client.post("/place", json=document).json()
    answer = client.post("/re-place", json=document | {"current": current_of(plan)})
    assert answer.status_code == 200
    delta = DeltaSchema.model_validate_json(answer.content)
    assert (delta.moves, delta.restarts, delta.unmended) == ([], [], [])
    assert delta.feasible
    assert [gpu.adapters for gpu in delta.gpus] == [gpu["adapters"] for gpu in plan["gpus"]]


def test_moves_name_where_from_and_where_to_and_keep_within_the_limit(client):
    document = workload_document(60)
    plan = client.post("/place", json=document).json()
    hot = workload_document(adapters=[adapter_document(n, rate_rps=1.5) for n in range(60)])
    for max_moves in (0, 3, None):
        body = hot | {"current": current_of(plan), "options": {"max_moves": max_moves}}
        answer = client.post("/re-place", json=body).json()
        home = {name: gpu["gpu"] for gpu in answer["gpus"] for name in gpu["adapters"]}
        assert max_moves is None or len(answer["moves"]) <= max_moves
        for move in answer["moves"]:
            assert set(move) == {"adapter", "from", "to"}
            assert home[move["adapter"]] == move["to"] != move["from"]
        assert answer["feasible"] == (not answer["unmended"] and not answer["unplaced"])
    assert answer["moves"]


def test_adapters_that_left_the_workload_are_forgotten(client):
    document = workload_document(12)
    plan = client.post("/place", json=document).json()
    fewer = workload_document(8)
    delta = client.post("/re-place", json=fewer | {"current": current_of(plan)}).json()
    assert sorted(name for gpu in delta["gpus"] for name in gpu["adapters"]) == sorted(
        f"adapter-{n}" for n in range(8)
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (
            {"current": {"gpus": [{"gpu": -1, "max_loras": 8, "max_lora_rank": 8, "adapters": []}]}},
            "current.gpus[0].gpu",
        ),
        (
            {"current": {"gpus": [{"gpu": 0, "max_loras": 8, "max_lora_rank": 9, "adapters": []}]}},
            "current.gpus[0].max_lora_rank",
        ),
        (
            {
                "current": {
                    "gpus": [
                        {"gpu": 0, "max_loras": 8, "max_lora_rank": 8, "adapters": ["adapter-0", "adapter-0"]}
                    ]
                }
            },
            "current.gpus",
        ),
        ({"current": {}}, "current.gpus"),
        ({}, "current"),
        ({"current": {"gpus": []}, "options": {"max_moves": -1}}, "options.max_moves"),
        ({"current": {"gpus": []}, "options": {"verify": True}}, "options.verify"),
    ],
)
def test_a_bad_current_plan_is_refused_by_field(client, change, field):
    answer = client.post("/re-place", json=workload_document(3) | change)
    assert answer.status_code == 422
    assert answer.json()["field"] == field


def test_max_moves_means_nothing_to_a_plan_from_scratch(client):
    answer = client.post("/place", json=workload_document(3, options={"max_moves": 3}))
    assert answer.status_code == 422
    assert answer.json()["field"] == "options.max_moves"
