import pytest

from placer.problem import DEFAULT_NUM_TRIALS
from service.schemas.fleet import GpusNeededSchema
from tests.integration.conftest import HandClock
from tests.support.waiting import wait_until
from tests.support.workload_documents import LLAMA, QWEN, adapter_document, workload_document


def needed(client, **which):
    return GpusNeededSchema.model_validate_json(client.get("/gpus-needed", params=which).content)


def heavy(num_adapters=192, **changes):
    adapters = [adapter_document(number, rate_rps=0.4) for number in range(num_adapters)]
    return workload_document(adapters=adapters) | changes


HEAVY_RATES = {"rates": {f"adapter-{number}": 0.4 for number in range(192)}}
LIGHT_RATES = {"rates": {f"adapter-{number}": 0.01 for number in range(192)}}


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


def test_the_number_rises_at_once_and_falls_after_the_window(fleet):
    hand = HandClock()
    client = fleet.client(hand.as_clock())
    low = client.put("/workload", json=workload_document(192)).json()["num_gpus"]
    high = client.patch("/workload", json=HEAVY_RATES).json()["num_gpus"]
    assert needed(client).gpus_needed == high > low
    fallen = client.patch("/workload", json=LIGHT_RATES).json()["num_gpus"]
    hand.now_s += 299
    answer = needed(client)
    assert (answer.gpus_needed, answer.raw) == (high, fallen)
    assert f"{high} are kept" in answer.reason
    hand.now_s += 1
    assert needed(client).gpus_needed == fallen


def test_the_window_outlives_the_process(fleet):
    hand = HandClock()
    first = fleet.client(hand.as_clock())
    high = first.put("/workload", json=heavy()).json()["num_gpus"]
    first.patch("/workload", json=LIGHT_RATES)
    second = fleet.client(hand.as_clock())
    wait_until(lambda: second.get("/plan").status_code == 200, timeout_s=10, what="the second process's plan")
    assert needed(second).gpus_needed == high > needed(second).raw
    hand.now_s += 300
    assert needed(second).gpus_needed == needed(second).raw


def test_rates_alone_may_change_and_the_rest_stays(fleet):
    client = fleet.client()
    client.put("/workload", json=workload_document(3))
    client.patch("/workload", json={"rates": {"adapter-1": 0.7}})
    expected = workload_document(3)
    expected["adapters"][1]["rate_rps"] = 0.7
    assert client.get("/workload").json() == expected
    again = client.post("/place", json=expected).json()
    assert client.get("/plan").json()["gpus"] == again["gpus"]


@pytest.mark.parametrize("by_columns", [False, True])
def test_the_errors_of_rates_may_change_with_them_and_the_plan_says_what_it_counts_on(fleet, by_columns):
    client = fleet.client()
    document = workload_document(3)
    if by_columns:
        document["adapters"] = {
            name: [row[name] for row in document["adapters"]] for name in document["adapters"][0]
        }
    certain = client.put("/workload", json=document).json()
    assert "rate_z" not in certain
    assert all("load_margin" not in gpu for gpu in certain["gpus"])
    plan = client.patch(
        "/workload", json={"rates": {"adapter-1": 0.7}, "rates_std": {"adapter-0": 0.1, "adapter-1": 0.2}}
    ).json()
    assert plan["rate_z"] > 2
    assert all(gpu["load_margin"] > 0 for gpu in plan["gpus"])
    adapters = client.get("/workload").json()["adapters"]
    if by_columns:
        assert adapters["rate_rps_std"] == [0.1, 0.2, None]
    else:
        assert [row.get("rate_rps_std") for row in adapters] == [0.1, 0.2, None]


@pytest.mark.parametrize(
    ("errors", "field"),
    [
        ({"nobody": 1.0}, "rates_std.nobody"),
        ({"adapter-0": -0.1}, "rates_std.adapter-0"),
        ({"adapter-0": True}, "rates_std.adapter-0"),
        ({"adapter-0": None}, "rates_std.adapter-0"),
        ([], "rates_std"),
    ],
)
def test_errors_of_rates_that_cannot_be_are_refused_by_name(fleet, errors, field):
    client = fleet.client()
    client.put("/workload", json=workload_document(3))
    answer = client.patch("/workload", json={"rates": {"adapter-0": 1.0}, "rates_std": errors})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert client.get("/workload").json() == workload_document(3)


@pytest.mark.parametrize(
    ("rates", "field"),
    [
        ({"nobody": 1.0}, "rates.nobody"),
        ({"adapter-0": 0}, "rates.adapter-0"),
        ({"adapter-0": True}, "rates.adapter-0"),
        ({"adapter-0": "1"}, "rates.adapter-0"),
        ({"adapter-0": 1e300}, "rates.adapter-0"),
        ({}, "rates"),
        ([], "rates"),
    ],
)
def test_rates_that_cannot_be_are_refused_by_name_and_nothing_changes(fleet, rates, field):
    client = fleet.client()
    client.put("/workload", json=workload_document(3))
    answer = client.patch("/workload", json={"rates": rates})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert client.get("/workload").json() == workload_document(3)


def test_workloads_of_several_base_models_are_in_force_side_by_side(fleet):
    client = fleet.client()
    assert client.patch("/workload", json=LIGHT_RATES).status_code == 503
    llama = client.put("/workload", json=heavy()).json()
    qwen = client.put("/workload", json=workload_document(3, base_model=QWEN)).json()
    assert client.get("/plan", params={"base_model": LLAMA}).json() == llama
    assert needed(client, base_model=QWEN).gpus_needed == qwen["num_gpus"] < llama["num_gpus"]
    listed = client.get("/workloads").json()["workloads"]
    assert [row["base_model"] for row in listed] == [LLAMA, QWEN]
    for answer in (client.get("/gpus-needed"), client.get("/plan"), client.delete("/workload")):
        assert (answer.status_code, answer.json()["field"]) == (422, "base_model")
    assert client.get("/gpus-needed", params={"base_model": "gpt-5"}).status_code == 503


def test_a_withdrawn_workload_is_forgotten_everywhere(fleet):
    first, second = fleet.client(), fleet.client()
    first.put("/workload", json=workload_document(3))
    wait_until(lambda: second.get("/plan").status_code == 200, timeout_s=10, what="the second process's plan")
    assert first.delete("/workload").status_code == 204
    wait_until(lambda: second.get("/plan").status_code == 503, timeout_s=10, what="forgetting")
    for client in (first, second):
        assert client.get("/gpus-needed").status_code == 503
    assert second.put("/workload", json=workload_document(3)).status_code == 200


def test_a_process_that_missed_a_write_writes_after_it_and_none_is_lost(fleet):
    first, second = fleet.client(), fleet.client()
    first.put("/workload", json=workload_document(12))
    wait_until(lambda: second.get("/plan").status_code == 200, timeout_s=10, what="the second process's plan")
    for number in range(12):
        client = (first, second)[number % 2]
        answer = client.patch("/workload", json={"rates": {f"adapter-{number}": 0.3}})
        assert answer.status_code == 200
    assert {row["rate_rps"] for row in client.get("/workload").json()["adapters"]} == {0.3}


@pytest.mark.parametrize("change", ["PATCH", "DELETE"])
def test_what_is_written_after_the_store_lost_its_data_follows_what_the_service_knows(fleet, change):
    client = fleet.client()
    client.put("/workload", json=workload_document(3))
    fleet.lose_data()
    if change == "PATCH":
        assert client.patch("/workload", json={"rates": {"adapter-1": 0.3}}).status_code == 200
    else:
        assert client.delete("/workload").status_code == 204
    later = fleet.client()
    if change == "PATCH":
        wait_until(lambda: later.get("/plan").status_code == 200, timeout_s=10, what="a later process's plan")
        rates = [row["rate_rps"] for row in later.get("/workload").json()["adapters"]]
        assert rates == [row["rate_rps"] for row in client.get("/workload").json()["adapters"]]
        assert rates[1] == 0.3
    else:
        assert client.get("/plan").status_code == 503


def test_a_workload_in_force_is_searched_for_fewer_gpus_and_a_placement_only_if_it_asks(fleet):
    client = fleet.client()
    document = workload_document(adapters=[adapter_document(number, rate_rps=2.0) for number in range(60)])
    in_force = client.put("/workload", json=document).json()
    first = client.post("/place", json=document).json()
    searched = document | {"options": {"num_trials": DEFAULT_NUM_TRIALS}}
    told = ("num_gpus", "gpus", "lower_bound")
    asked_for = client.post("/place", json=searched).json()
    assert [in_force[name] for name in told] == [asked_for[name] for name in told]
    assert first["lower_bound"] < in_force["lower_bound"] <= in_force["num_gpus"] <= first["num_gpus"]
    assert first["plan_id"] != in_force["plan_id"]


def test_a_number_once_known_stands_when_nothing_can_be_served(fleet):
    client = fleet.client()
    before = client.put("/workload", json=heavy()).json()["num_gpus"]
    client.put("/workload", json=workload_document(adapters=[adapter_document(0, rate_rps=100_000)]))
    answer = needed(client)
    assert (answer.gpus_needed, answer.raw, answer.feasible) == (before, None, False)
    assert "stands" in answer.reason


def history(client, **which):
    return [
        (point["gpus_needed"], point["planned"], point["running"])
        for point in client.get("/gpus-needed/history", params=which).json()["points"]
    ]


def test_the_history_has_a_point_for_each_change_whichever_process_saw_it(fleet):
    first, second = fleet.client(), fleet.client()
    low = first.put("/workload", json=workload_document(192)).json()["num_gpus"]
    wait_until(lambda: history(first) == [(low, low, None)], timeout_s=10, what="the first point")
    wait_until(lambda: second.get("/plan").status_code == 200, timeout_s=10, what="the other's plan")
    high = second.patch("/workload", json=HEAVY_RATES).json()["num_gpus"]
    expected = [(low, low, None), (high, high, None)]
    wait_until(lambda: history(second) == expected, timeout_s=10, what="the second point")
    wait_until(lambda: needed(first).gpus_needed == high, timeout_s=10, what="the first's new plan")
    first.put("/gpus-running", json={"gpus_running": 3})
    assert history(first) == [*expected, (high, high, 3)]
    later = fleet.client()
    wait_until(lambda: later.get("/plan").status_code == 200, timeout_s=10, what="a later process's plan")
    assert history(later, limit=1) == [(high, high, 3)]
    moments = [point["at"] for point in later.get("/gpus-needed/history").json()["points"]]
    assert moments == sorted(moments)


def test_what_was_reported_to_run_stands_for_a_quarter_of_an_hour(fleet):
    hand = HandClock()
    client = fleet.client(hand.as_clock())
    client.put("/workload", json=workload_document(3))
    assert client.put("/gpus-running", json={"gpus_running": 7}).status_code == 204
    assert history(client)[-1] == (1, 1, 7)
    hand.now_s += 900
    wait_until(lambda: history(client)[-1] == (1, 1, None), timeout_s=10, what="the report's end")


def test_a_report_of_what_runs_names_a_workload_in_force_and_a_count(fleet):
    client = fleet.client()
    assert client.put("/gpus-running", json={"gpus_running": 1}).json()["code"] == "no_plan"
    client.put("/workload", json=workload_document(3))
    for wrong in (-1, 1.5, "3", None):
        answer = client.put("/gpus-running", json={"gpus_running": wrong})
        assert (answer.status_code, answer.json()["field"]) == (422, "gpus_running")
    client.put("/workload", json=workload_document(3, base_model=QWEN))
    assert client.put("/gpus-running", json={"gpus_running": 1}).json()["field"] == "base_model"
    assert client.put("/gpus-running?base_model=" + QWEN, json={"gpus_running": 1}).status_code == 204
