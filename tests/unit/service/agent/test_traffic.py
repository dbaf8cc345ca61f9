"""Clients of a server: what fails in one of them is told, never taken for an answer that did not come."""

import asyncio

import httpx
import pytest

from service.agent.traffic import ClosedLoop, Request, end_tasks, open_loop

REQUEST = Request(model="a", prompt=(1, 2), output_tokens=2)
ANSWER = b'data: {"choices": [{"text": "w"}]}\n\n' * 2 + b"data: [DONE]\n\n"


def client_of(handler):
    return httpx.AsyncClient(base_url="http://server", transport=httpx.MockTransport(handler))


def answering(_request):
    return httpx.Response(200, content=ANSWER)


def broken(_request):
    raise RuntimeError("a bug of ours")


def test_each_request_due_in_the_window_has_an_answer_in_order():
    async def run():
        async with client_of(answering) as http:
            return await open_loop(http, [REQUEST] * 3, [0.0, 0.0, 5.0], window_s=1.0)

    answers = asyncio.run(run())
    assert [answer.is_complete for answer in answers] == [True, True]
    assert [len(answer.gaps_s) for answer in answers] == [1, 1]


def test_a_refusal_is_an_answer_with_an_error_and_ends_its_client():
    async def run():
        async with client_of(lambda _: httpx.Response(404, text="no such model")) as http:
            loop = ClosedLoop(http, lambda _client, _number: REQUEST, 2)
            async with loop, asyncio.timeout(10):
                while len(loop.answers) < 2:  # noqa: ASYNC110 (they come within a few turns)
                    await asyncio.sleep(0)
            return loop

    loop = asyncio.run(run())
    assert len(loop.answers) == 2
    assert loop.error == "404: no such model"


def test_what_fails_in_a_client_is_raised_and_no_unfinished_request():
    async def run():
        async with client_of(broken) as http:
            await open_loop(http, [REQUEST], [0.0], window_s=5.0)

    with pytest.raises(RuntimeError, match="a bug of ours"):
        asyncio.run(run())


def test_tasks_that_are_broken_off_end_without_an_error():
    async def run():
        tasks = [asyncio.create_task(asyncio.Event().wait()) for _ in range(3)]
        await end_tasks(tasks)
        return [task.cancelled() for task in tasks]

    assert asyncio.run(run()) == [True] * 3
