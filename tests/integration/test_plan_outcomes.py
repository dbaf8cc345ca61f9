"""Plans that are replayed by a worker behind their answer."""

import os
import sys

import pytest

from service.process import spawn_tethered, stop
from service.schemas.plan import PlanOutcomeSchema
from tests.support.waiting import wait_until
from tests.support.workload_documents import workload_document


@pytest.fixture
def worker(store_dir):
    environment = os.environ | {"LOADMASTER_DATA_DIR": str(store_dir.parent)}
    process = spawn_tethered([sys.executable, "-m", "service.cli", "worker"], env=environment)
    yield process
    stop(process, 20)


@pytest.mark.usefixtures("worker")
def test_a_plan_that_was_not_verified_is_replayed_behind_the_answer(client):
    document = workload_document(31)

    def outcome():
        plan = client.post("/place", json=document).json()  # offered again where too many waited
        assert plan["verification"]["status"] == "not_asked"
        answer = client.get(f"/plans/{plan['plan_id']}")
        return answer.status_code == 200 and answer.json()["verification"]["status"] == "verified"

    wait_until(outcome, timeout_s=90.0, what="the replay")
    plan = client.post("/place", json=document).json()
    answer = client.get(f"/plans/{plan['plan_id']}")
    checked = PlanOutcomeSchema.model_validate_json(answer.content)
    assert checked.plan is not None
    assert checked.plan.plan_id == plan["plan_id"]
    assert [gpu.adapters for gpu in checked.plan.gpus] == [gpu["adapters"] for gpu in plan["gpus"]]
    assert len(checked.verification.gpus) == len(plan["gpus"])


def test_the_outcome_of_a_plan_nobody_asked_for_is_not_found(client):
    answer = client.get("/plans/0123456789abcdef")
    assert answer.status_code == 404
    assert answer.json()["field"] == "plan_id"


def test_placements_are_answered_with_the_store_down_and_their_outcome_is_not(client_without_store):
    plan = client_without_store.post("/place", json=workload_document(5))
    assert plan.status_code == 200
    assert client_without_store.get(f"/plans/{plan.json()['plan_id']}").status_code == 503
