"""Open-loop runs on a live server: a workload's requests, sent at their moments, and what came of them.

Such a run teaches nothing. Its row is one of ``runs.csv``, so ``loadmaster validate`` compares the twin with
it; requests are those that the twin draws for the same row, moment by moment and token by token.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from service.agent.errors import PointError
from service.agent.traffic import Request, connection, end_tasks, open_loop, prompt_of, scrape
from service.agent.vllm_metrics import RUNNING
from twin.measured import MeasuredRun, workload_with
from twin.measurement_set import EXACT_ANSWERS
from twin.workload import generate_requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.agent.holding import Live
    from service.agent.plan import Launch
    from service.agent.traffic import Answer
    from twin.workload import RequestStream

SAMPLE_S = 1.0
REQUEST_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """A run to make.

    Attributes
    ----------
    run_id, workload, base_model
        Names.
    launch
        The server's flags.
    ranks, rates_rps
        One for each adapter.
    input_len, output_len
        Mean requested lengths, tokens; ShareGPT's shape.
    window_s
        From an empty server.
    seed
        Of the requests.
    """

    run_id: str
    workload: str
    base_model: str
    launch: Launch
    ranks: tuple[int, ...]
    rates_rps: tuple[float, ...]
    input_len: float
    output_len: float
    window_s: float
    seed: int = 0

    def as_measured(self) -> MeasuredRun:
        """Return the run as the twin's comparison reads it, without an outcome."""
        return MeasuredRun(
            run_id=self.run_id,
            model=self.base_model,
            group=self.workload,
            max_loras=self.launch.max_loras,
            max_lora_rank=self.launch.max_lora_rank,
            max_cpu_loras=self.launch.max_cpu_loras,
            rank_pool=self.ranks,
            rates_rps=self.rates_rps,
            input_len_mean=self.input_len,
            output_len_mean=self.output_len,
            duration_s=self.window_s,
            sent_requests=None,
            outcome=None,
            error="",
        )


def stream_of_run(plan: RunPlan, max_model_len: int) -> RequestStream:
    """Return the requests that the twin draws for a run, with answers as long as asked for."""
    workload = workload_with(plan.as_measured(), EXACT_ANSWERS, seed=plan.seed)
    return generate_requests(
        workload,
        horizon_s=plan.window_s,
        seed=plan.seed,
        max_model_len=max_model_len,
    )


async def run_open_loop(
    live: Live, plan: RunPlan, stream: RequestStream
) -> tuple[dict[str, Any], list[Answer]]:
    """Replay a stream on a live server and return its row of ``runs.csv``, with the answers.

    `live.adapters` are the names of the workload's adapters, in order.

    Raises
    ------
    PointError
        A request was refused.
    httpx.HTTPError
        The server's metrics could not be read.
    """
    requests = [
        Request(
            model=live.adapters[adapter],
            prompt=prompt_of(number, prompt_tokens, live.vocab_size),
            output_tokens=output_tokens,
        )
        for number, (adapter, prompt_tokens, output_tokens) in enumerate(
            zip(
                stream.adapter_of.tolist(),
                stream.prompt_tokens.tolist(),
                stream.output_tokens.tolist(),
                strict=True,
            )
        )
    ]
    due_s = (stream.arrival_ns * 1e-9).tolist()
    async with connection(live.url, timeout_s=REQUEST_S) as http:
        running: list[float] = []
        sampler = asyncio.create_task(_sample(http, running))
        try:
            answers = await open_loop(http, requests, due_s, plan.window_s)
        finally:
            await end_tasks([sampler])
    if refused := next((answer.error for answer in answers if answer.error), ""):
        raise PointError(f"a request failed: {refused}")
    row = _row(plan, stream, answers, running)
    return row | {"block_size": live.block_size}, answers


async def _sample(http: Any, running: list[float]) -> None:
    while True:
        running.append((await scrape(http)).first(RUNNING))
        await asyncio.sleep(SAMPLE_S)


def _row(
    plan: RunPlan, stream: RequestStream, answers: Sequence[Answer], running: Sequence[float]
) -> dict[str, Any]:
    done = np.array([answer.is_complete for answer in answers], dtype=bool)
    tokens = (stream.prompt_tokens + stream.output_tokens)[: len(answers)]
    ttft_ms = [answer.ttft_ms for answer in answers if answer.is_complete]
    gaps_ms = [1e3 * gap for answer in answers if answer.is_complete for gap in answer.gaps_s]
    tpot_ms = [
        1e3 * (answer.finished_s - answer.first_token_s) / (answer.output_tokens - 1)
        for answer in answers
        if answer.is_complete and answer.output_tokens > 1
    ]
    incl_ms = ttft_ms + [1e3 * plan.window_s] * int((~done).sum())
    return {
        "run_id": plan.run_id,
        "model": plan.base_model,
        "workload": plan.workload,
        "adapters": len(plan.rates_rps),
        "max_loras": plan.launch.max_loras,
        "max_cpu_loras": plan.launch.max_cpu_loras,
        "max_lora_rank": plan.launch.max_lora_rank,
        "lora_rank_pool": " ".join(map(str, plan.ranks)),
        "adapter_rate_counts": ";".join(f"{rate!r}x1" for rate in plan.rates_rps),
        "sum_rate_req_s": math.fsum(plan.rates_rps),
        "duration_s": plan.window_s,
        "pool_mean_input_len": plan.input_len,
        "pool_mean_output_len": plan.output_len,
        "completed": int(done.sum()),
        "tot_tok_s": float(tokens[done].sum()) / plan.window_s,
        "mean_ttft_ms": _mean(ttft_ms),
        "ttft_incl_unfinished_ms": _mean(incl_ms),
        "mean_itl_ms": _mean(gaps_ms),
        "median_itl_ms": statistics.median(gaps_ms) if gaps_ms else None,
        "mean_tpot_ms": _mean(tpot_ms),
        "mean_running": _mean(running),
        "failed": "False",
        "error": "",
    }


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
