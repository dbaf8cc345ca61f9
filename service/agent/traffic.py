"""Requests to a vLLM server over HTTP: one at a time, so many at a time, or at given moments.

Prompts are token ids, so their length is exact without a tokenizer, and answers have exactly the length
asked for. Times are taken here, in the client.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import httpx
import orjson

from service.agent.vllm_metrics import Exposition, read_exposition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

COMPLETIONS = "/v1/completions"
JSON = {"content-type": "application/json"}
FIRST_PLAIN_TOKEN = 300
"""Ids below it may be special tokens or single bytes."""

CONNECT_S = 30.0
IDLE_S = 1.0
"""A connection idle for longer is not used again: vLLM closes those that were idle for five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request: to whom, the prompt's token ids, tokens to generate."""

    model: str
    prompt: tuple[int, ...]
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a request went; times in seconds on the client's monotonic clock.

    Attributes
    ----------
    sent_s, first_token_s, finished_s
        NaN where it did not come to that.
    output_tokens
        Generated.
    gaps_s
        Between chunks of the answer.
    error
        Empty where all went well.
    """

    sent_s: float
    first_token_s: float
    finished_s: float
    output_tokens: int
    gaps_s: tuple[float, ...]
    error: str = ""

    @property
    def ttft_ms(self) -> float:
        """Time to the first token, milliseconds."""
        return 1e3 * (self.first_token_s - self.sent_s)

    @property
    def is_complete(self) -> bool:
        """Whether it ended well."""
        return not self.error and not math.isnan(self.finished_s)


def prompt_of(seed: int, num_tokens: int, vocab_size: int) -> tuple[int, ...]:
    """Return token ids of a prompt of exactly `num_tokens`, another one for each seed."""
    span = max(vocab_size - FIRST_PLAIN_TOKEN, 1)
    first = min(FIRST_PLAIN_TOKEN, vocab_size - span)
    state, ids = seed & 0xFFFFFFFF, []
    for _ in range(num_tokens):
        state = (1664525 * state + 1013904223) & 0xFFFFFFFF
        ids.append(first + (state >> 8) % span)
    return tuple(ids)


@asynccontextmanager
async def connection(url: str, *, timeout_s: float) -> AsyncIterator[httpx.AsyncClient]:
    """Hold a client of one server with as many connections as it takes."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1000, keepalive_expiry=IDLE_S)
    timeout = httpx.Timeout(timeout_s, connect=CONNECT_S, pool=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=timeout) as http:
        yield http


async def scrape(http: httpx.AsyncClient) -> Exposition:
    """Return what the server's metrics say now."""
    before_s = time.perf_counter()
    response = await http.get("/metrics")
    response.raise_for_status()
    return read_exposition(response.text, 0.5 * (before_s + time.perf_counter()))


async def ask(http: httpx.AsyncClient, request: Request) -> Answer:
    """Send one request and follow its answer chunk by chunk; a failure is an answer with an error."""
    body = {
        "model": request.model,
        "prompt": list(request.prompt),
        "max_tokens": request.output_tokens,
        "min_tokens": request.output_tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
    }
    sent_s = time.perf_counter()
    times_s: list[float] = []
    error = ""
    try:
        async with http.stream("POST", COMPLETIONS, content=orjson.dumps(body), headers=JSON) as response:
            if response.status_code != httpx.codes.OK:
                error = f"{response.status_code}: {(await response.aread())[:200].decode(errors='replace')}"
            else:
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        times_s.append(time.perf_counter())
                        if '"error"' in line[:12]:
                            error = line[6:206]
    except httpx.HTTPError as problem:
        error = repr(problem)
    return Answer(
        sent_s=sent_s,
        first_token_s=times_s[0] if times_s else math.nan,
        finished_s=times_s[-1] if times_s and not error else math.nan,
        output_tokens=len(times_s) if error else request.output_tokens,
        gaps_s=tuple(after - before for before, after in pairwise(times_s)),
        error=error,
    )


async def end_tasks(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Break tasks off and wait for them; one that had failed before raises what it failed with."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome


class ClosedLoop:
    """So many clients, each of which sends its next request when its last one ended.

    Parameters
    ----------
    http
        The server.
    requests
        Returns the request number `i` of a client.
    num_clients
        Requests open at a time.
    """

    def __init__(
        self, http: httpx.AsyncClient, requests: Callable[[int, int], Request], num_clients: int
    ) -> None:
        self._http = http
        self._requests = requests
        self._num_clients = num_clients
        self._tasks: list[asyncio.Task[None]] = []
        self.answers: list[Answer] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._be(client)) for client in range(self._num_clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_tasks(self._tasks)

    async def _be(self, client: int) -> None:
        number = 0
        while True:
            answer = await ask(self._http, self._requests(client, number))
            self.answers.append(answer)
            if answer.error:
                return
            number += 1

    @property
    def error(self) -> str:
        """The first error, empty where there was none."""
        return next((answer.error for answer in self.answers if answer.error), "")


async def open_loop(
    http: httpx.AsyncClient, requests: Sequence[Request], due_s: Sequence[float], window_s: float
) -> list[Answer]:
    """Send each request at its moment whatever became of the others; stop following at the window's end.

    Parameters
    ----------
    due_s
        When each is due, seconds from the start, ascending.
    window_s
        After it what is still open is broken off: an answer without `finished_s`.

    Returns
    -------
    An answer for each request that was due within the window, in their order.
    """
    start_s = time.perf_counter()
    answers: list[Answer | None] = [None] * len(requests)

    async def send(number: int) -> None:
        await asyncio.sleep(max(0.0, start_s + due_s[number] - time.perf_counter()))
        answers[number] = await ask(http, requests[number])

    numbers = [number for number in range(len(requests)) if due_s[number] < window_s]
    tasks = [asyncio.create_task(send(number)) for number in numbers]
    if tasks:
        await asyncio.wait(tasks, timeout=max(0.0, start_s + window_s - time.perf_counter()))
    await end_tasks(tasks)
    return [answers[number] or _unfinished(start_s + due_s[number]) for number in numbers]


def _unfinished(sent_s: float) -> Answer:
    nan = math.nan
    return Answer(sent_s=sent_s, first_token_s=nan, finished_s=nan, output_tokens=0, gaps_s=())
