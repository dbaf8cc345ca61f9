"""Hold a live server in a state and take what a step of it costs; time the ways into a slot."""

from __future__ import annotations

import asyncio
import random
import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx

from service.agent.errors import PointError
from service.agent.plan import LOAD_ROUNDS
from service.agent.traffic import ClosedLoop, Request, ask, connection, prompt_of, scrape
from service.agent.vllm_metrics import WAITING, interval_between

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from service.agent.plan import LoadTime, State
    from service.agent.vllm_metrics import Exposition, Interval

NUM_BLOCKS = 5
"""Parts of a window whose step times, apart, give the standard error of the whole's."""

SPREAD = 0.5
"""Lengths are drawn within this share of their mean, so that requests do not march in step."""

CONTEXT_OF_SPREAD = 1.0 + SPREAD**2 / 3.0
"""Mean of a squared length over the square of its mean, under that law."""

HOLDERS = 3
"""Requests that keep each slot's adapter in the batch while others wait for a slot."""

LONG_FACTOR = 3
DRAIN_S = 60.0
REQUEST_S = 600.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Seconds until a state is steady, and seconds that it is then measured for."""

    ramp_s: float
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A live server: where, the adapters that it knows, ids of tokens below `vocab_size`, its flag."""

    url: str
    adapters: tuple[str, ...]
    vocab_size: int
    block_size: int


async def load_adapters(url: str, directories: Mapping[str, Any]) -> None:
    """Make adapters known to a server, by name and directory.

    Raises
    ------
    PointError
        It refuses one.
    """
    async with connection(url, timeout_s=REQUEST_S) as http:
        for name, directory in directories.items():
            answer = await http.post(
                "/v1/load_lora_adapter",
                json={"lora_name": name, "lora_path": str(directory.resolve()), "load_inplace": False},
            )
            if answer.status_code != httpx.codes.OK and "already" not in answer.text:
                raise PointError(f"{name} was not loaded: {answer.status_code} {answer.text[:200]}")


async def hold(live: Live, state: State, windows: Windows) -> dict[str, Any]:
    """Hold a state with closed loops and return its row of ``step_points.csv``, flags apart.

    Raises
    ------
    PointError
        A request failed, or the server ran no step.
    """
    if state.kind == "queue":
        return await _hold_queue(live, state, windows)
    async with connection(live.url, timeout_s=REQUEST_S) as http:
        loop = ClosedLoop(http, _requests(live, state), state.concurrency)
        async with loop:
            await asyncio.sleep(windows.ramp_s)
            scrapes = await _scrapes(http, windows.window_s)
        await _drain(http)
    if loop.error:
        raise PointError(f"a request failed: {loop.error}")
    return _row(state, scrapes, adapters=state.adapters, waiting=0.0)


async def _hold_queue(live: Live, state: State, windows: Windows) -> dict[str, Any]:
    """Hold the slots' adapters in the batch while `concurrency` requests of another one wait."""
    holding = HOLDERS * state.adapters
    long_state = _scaled(state, holding)
    async with connection(live.url, timeout_s=REQUEST_S) as http:
        loop = ClosedLoop(http, _requests(live, long_state), holding)
        async with loop:
            await asyncio.sleep(windows.ramp_s)
            outsider = live.adapters[state.adapters]
            waiting = ClosedLoop(
                http, lambda client, number: _request(live, outsider, client, number, 4, 1), state.concurrency
            )
            async with waiting:
                await asyncio.sleep(windows.ramp_s)
                scrapes = await _scrapes(http, windows.window_s)
        await _drain(http)
    if error := loop.error or waiting.error:
        raise PointError(f"a request failed: {error}")
    num_waiting = statistics.fmean(one.first(WAITING) for one in scrapes)
    return _row(long_state, scrapes, adapters=state.adapters, waiting=num_waiting) | {
        "concurrency": state.concurrency
    }


def _scaled(state: State, concurrency: int) -> State:
    return type(state)(
        kind=state.kind,
        concurrency=concurrency,
        adapters=state.adapters,
        input_tokens=state.input_tokens,
        output_tokens=LONG_FACTOR * state.output_tokens,
    )


def _requests(live: Live, state: State) -> Callable[[int, int], Request]:
    def request(client: int, number: int) -> Request:
        rng = random.Random(f"{client} {number}")  # noqa: S311 (lengths)
        return _request(
            live,
            live.adapters[client % state.adapters],
            client,
            number,
            _drawn(rng, state.input_tokens),
            _drawn(rng, state.output_tokens),
        )

    return request


def _request(live: Live, adapter: str, client: int, number: int, num_prompt: int, num_output: int) -> Request:
    return Request(
        model=adapter,
        prompt=prompt_of(1_000_003 * client + number, num_prompt, live.vocab_size),
        output_tokens=num_output,
    )


def _drawn(rng: random.Random, mean: int) -> int:
    """Return a length around a mean; short ones are taken as they are."""
    if mean <= 4:  # noqa: PLR2004 (rounding would move the mean)
        return mean
    return max(1, round(mean * rng.uniform(1.0 - SPREAD, 1.0 + SPREAD)))


async def _scrapes(http: httpx.AsyncClient, window_s: float) -> list[Exposition]:
    scrapes = [await scrape(http)]
    for _ in range(NUM_BLOCKS):
        await asyncio.sleep(window_s / NUM_BLOCKS)
        scrapes.append(await scrape(http))
    return scrapes


async def drain(url: str) -> None:
    """Wait until a server has dropped what was broken off.

    Raises
    ------
    TimeoutError
        It has not after a minute.
    """
    async with connection(url, timeout_s=REQUEST_S) as http:
        await _drain(http)


async def _drain(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(DRAIN_S):
        while True:
            seen = await scrape(http)
            if seen.first("vllm:num_requests_running") + seen.first(WAITING) == 0:
                return
            await asyncio.sleep(POLL_S)


def _row(state: State, scrapes: Sequence[Exposition], *, adapters: int, waiting: float) -> dict[str, Any]:
    whole = interval_between(scrapes[0], scrapes[-1])
    if whole.num_steps < NUM_BLOCKS:
        raise PointError(f"only {whole.num_steps:g} steps ran in {whole.duration_s:.1f} s")
    blocks = [interval_between(before, after) for before, after in pairwise(scrapes)]
    times_ms = [_step_ms(block) for block in blocks if block.num_steps > 0]
    decodes = max(whole.generated_tokens - whole.num_started, 0.0) / whole.num_steps
    held = min((whole.generated_tokens / whole.num_steps) / state.concurrency, 1.0)
    context = state.input_tokens + 0.5 * state.output_tokens * CONTEXT_OF_SPREAD
    return {
        "kind": state.kind,
        "concurrency": state.concurrency,
        "adapters": adapters,
        "input_len": state.input_tokens,
        "output_len": state.output_tokens,
        "duration_s": whole.duration_s,
        "steps": whole.num_steps,
        "decodes": decodes,
        "prefill_tokens": whole.prompt_tokens / whole.num_steps,
        "context_tokens": decodes * context,
        "adapters_in_batch": adapters * (1.0 - (1.0 - held) ** (state.concurrency / adapters)),
        "scanned": waiting,
        "step_ms": _step_ms(whole),
        "step_ms_se": statistics.stdev(times_ms) / len(times_ms) ** 0.5 if len(times_ms) > 1 else None,
        "itl_ms": _finite(whole.itl_ms),
        "ttft_ms": _finite(whole.ttft_ms),
        "tot_tok_s": (whole.prompt_tokens + whole.generated_tokens) / whole.duration_s,
        "preemptions": whole.num_preemptions,
    }


def _step_ms(interval: Interval) -> float:
    return 1e3 * interval.duration_s / interval.num_steps


def _finite(value: float) -> float | None:
    return value if value == value else None  # noqa: PLR0124 (NaN)


async def time_loads(live: Live, load: LoadTime, *, max_loras: int, max_cpu_loras: int) -> dict[str, Any]:
    """Time an adapter's way into a slot: what a first token takes longer than from an adapter in one.

    Taken in turn, one adapter more than there are slots makes each one be loaded from host memory; one
    more than host memory holds, from disk. The server is idle otherwise.

    Raises
    ------
    PointError
        A request failed.
    """
    num_in_turn = max_loras + 1 if load.source == "cpu" else max_cpu_loras + 1
    names = live.adapters[:num_in_turn]
    async with connection(live.url, timeout_s=REQUEST_S) as http:

        async def first_token_ms(name: str, number: int) -> float:
            answer = await ask(http, _request(live, name, 0, number, 4, 1))
            if not answer.is_complete:
                raise PointError(f"a request failed: {answer.error}")
            return answer.ttft_ms

        await first_token_ms(names[0], 0)
        num_samples = (1 + LOAD_ROUNDS) * num_in_turn
        warm_ms = [await first_token_ms(names[0], number) for number in range(num_samples)]
        turns_ms = [
            await first_token_ms(names[number % num_in_turn], number) for number in range(num_samples)
        ]
    loads_ms = sorted(turn - statistics.median(warm_ms) for turn in turns_ms[num_in_turn:])
    return {
        "adapter_rank": load.adapter_rank,
        "source": load.source,
        "n": len(loads_ms),
        "mean_ms": statistics.fmean(loads_ms),
        "median_ms": max(statistics.median(loads_ms), 0.01),
        "p10_ms": loads_ms[len(loads_ms) // 10],
        "p90_ms": loads_ms[-1 - len(loads_ms) // 10],
        "std_ms": statistics.stdev(loads_ms),
        "max_ms": loads_ms[-1],
    }
