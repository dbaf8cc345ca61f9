import asyncio
import re
from urllib.parse import unquote

import httpx
import pytest

from service.app import create_app
from service.bench import by_columns
from service.client import (
    AsyncClient,
    Call,
    Client,
    ProblemError,
    Retries,
    UnexpectedAnswerError,
    UnreachableError,
)
from service.openapi import openapi_document
from service.schemas.health import HealthSchema
from service.settings import Settings
from tests.support.workload_documents import adapter_document, simulation_document, workload_document

HEALTH = b'{"status": "ready"}'


@pytest.fixture
def url(client):
    return str(client.base_url)


def test_every_call_answers_a_model(url):
    with Client(url) as service:
        assert service.health().status == "ready"
        plan = service.put_workload(workload_document(6))
        assert service.place(workload_document(6)).gpus == plan.gpus == service.plan().gpus
        assert service.gpus_needed(base_model=plan.calibration_id.split("/")[1]).raw == plan.num_gpus
        service.patch_rates({"adapter-0": 0.2})
        assert service.workload().adapters[0].rate_rps == 0.2
        assert service.place(service.workload()).num_gpus == service.plan().num_gpus
        assert len(service.workloads().workloads) == 1
        assert service.what_if({"changes": [{"max_loras": 8}]}).running_gpus == service.plan().num_gpus
        flags = {"gpu", "max_loras", "max_lora_rank", "adapters"}
        running = [gpu.model_dump(include=flags) for gpu in plan.gpus]
        assert service.re_place(workload_document(6) | {"current": {"gpus": running}}).moves == []
        service.put_gpus_running(plan.num_gpus)
        assert service.gpus_needed_history().points
        job = service.simulate(simulation_document())
        assert service.job(job.job_id).job_id == job.job_id in {row.job_id for row in service.jobs().jobs}
        service.withdraw_workload()
        with pytest.raises(ProblemError) as caught:
            service.plan()
        assert (caught.value.status, caught.value.code) == (503, "no_plan")
        assert caught.value.retry_after_s == 5


def test_a_refusal_tells_code_field_and_request_id(url):
    document = workload_document(adapters=[adapter_document(0, rank=-1)])
    with Client(url) as service, pytest.raises(ProblemError) as caught:
        service.place(document)
    error = caught.value
    assert (error.status, error.code, error.field) == (422, "invalid_request", "adapters[0].rank")
    assert error.request_id


def test_a_workload_comes_back_as_it_was_put_by_rows_or_by_columns(url):
    rows = workload_document(3)
    columns = by_columns(rows)
    with Client(url) as service:
        for document in (rows, columns):
            service.put_workload(document)
            assert service.workload().model_dump(exclude_unset=True) == document
            assert service.place(service.workload()).gpus == service.plan().gpus
        service.withdraw_workload()


OF_NO_MODEL = {("GET", "/metrics"), ("GET", "/livez"), ("GET", "/jobs/{job_id}/events")}
OF_AGENTS = re.compile("POST /(agents|measurements)|DELETE /agents|GET /measurements/")
"""Agents have a client of their own (`service.agent.link`)."""

ARGUMENTS = {
    "place": ({},),
    "re_place": ({},),
    "what_if": ({},),
    "plan_outcome": ("{plan_id}",),
    "put_workload": ({},),
    "patch_rates": ({},),
    "put_gpus_running": (1,),
    "simulate": ({},),
    "job": ("{job_id}",),
    "cancel": ("{job_id}",),
    "retry": ("{job_id}",),
    "activate": ("{surrogate_version}",),
    "roll_back": ("a calibration",),
    "recalibrate": ({},),
    "add_measurement_set": ({},),
}
NOT_CALLS = {"send", "close"}


def test_there_is_a_method_for_every_route_and_the_same_with_asyncio():
    asked = set()

    def answer(request):
        asked.add((request.method, unquote(request.url.path)))
        return httpx.Response(418, json={})

    methods = {name for name in vars(Client) if not name.startswith("_")} - NOT_CALLS
    assert methods == {name for name in vars(AsyncClient) if not name.startswith("_")} - NOT_CALLS
    client = Client("http://x", transport=httpx.MockTransport(answer))
    for name in methods:
        with pytest.raises(ProblemError):
            getattr(client, name)(*ARGUMENTS.get(name, ()))
    described = openapi_document(create_app(Settings()))["paths"]
    routes = {(method.upper(), path) for path, operations in described.items() for method in operations}
    of_others = {route for route in routes if OF_AGENTS.match(" ".join(route))}
    assert asked == routes - of_others - OF_NO_MODEL


def test_the_same_with_asyncio(url):
    async def scenario():
        async with AsyncClient(url) as service:
            plan = await service.put_workload(workload_document(6))
            assert (await service.gpus_needed()).gpus_needed >= plan.num_gpus
            assert (await service.plan()).plan_id == plan.plan_id
            assert (await service.place(workload_document(6))).num_gpus >= plan.num_gpus
            assert (await service.patch_rates({"adapter-0": 0.2})).num_gpus >= 1
            assert (await service.what_if({"changes": [{"scale_rates": 2}]})).changes[0].feasible
            job = await service.simulate(simulation_document(seed=7))
            assert (await service.job(job.job_id)).kind == "simulate"
            assert (await service.workload()).adapters[0].rate_rps == 0.2
            await service.withdraw_workload()
            with pytest.raises(ProblemError):
                await service.place({})

    asyncio.run(scenario())


class Script:
    """A service that gives the scripted answers in turn; an exception breaks the connection."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.pauses = []
        self.num_calls = 0

    def __call__(self, _request):
        self.num_calls += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, **changes):
        retries = Retries(**changes)
        return Client(
            "http://x", retries=retries, transport=httpx.MockTransport(self), sleep=self.pauses.append
        )


def busy(**headers):
    return httpx.Response(503, headers=headers, json={"code": "overloaded", "detail": "busy"})


def test_what_may_pass_is_tried_again_after_the_pause_that_was_asked_for():
    script = Script(
        httpx.ConnectError("away"), busy(**{"retry-after": "2"}), busy(), httpx.Response(200, content=HEALTH)
    )
    assert script.client().health().status == "ready"
    assert script.num_calls == 4
    first, second, third = script.pauses
    assert 0.05 <= first <= 0.1
    assert second == 2
    assert 0.2 <= third <= 0.4


@pytest.mark.parametrize(
    ("answers", "changes", "error", "num_calls"),
    [
        ([busy()] * 9, {}, ProblemError, 4),
        ([httpx.ReadTimeout("slow")] * 9, {"tries": 2}, UnreachableError, 2),
        ([busy(**{"retry-after": "100"})] * 9, {"deadline_s": 50}, ProblemError, 1),
        ([httpx.Response(503, json={"code": "no_plan"})], {}, ProblemError, 1),
        ([httpx.Response(422, json={"code": "x", "field": "y"})], {}, ProblemError, 1),
        ([httpx.Response(500, text="no problem json")], {}, ProblemError, 1),
        ([httpx.Response(200, text="<html>")], {}, UnexpectedAnswerError, 1),
    ],
)
def test_it_gives_up_in_time_and_at_once_where_a_retry_cannot_help(answers, changes, error, num_calls):
    script = Script(*answers)
    with pytest.raises(error):
        script.client(**changes).health()
    assert script.num_calls == num_calls


def test_a_call_that_must_not_be_repeated_is_not():
    script = Script(busy(), httpx.Response(200, content=HEALTH))
    once = Call(method="POST", path="/once", answer=HealthSchema, idempotent=False)
    with pytest.raises(ProblemError):
        script.client().send(once)
    assert script.num_calls == 1


def test_the_key_travels_in_the_header_and_not_in_errors():
    def answer(request):
        assert request.headers["authorization"] == "Bearer lm_secret"
        return httpx.Response(403, json={"code": "forbidden", "detail": "no"})

    with pytest.raises(ProblemError) as caught:
        Client("http://x", key="lm_secret", transport=httpx.MockTransport(answer)).place({})
    assert "lm_secret" not in str(caught.value)
