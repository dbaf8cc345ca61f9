"""Small scenarios for the paged engine, and how to run the kernel on one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from tests.support.twin_cases import STOP_NAMES
from twin.kernels import engine
from twin.kernels.paged import run_paged_engine

DRAINED_NS = 10**15
MAX_SAMPLES = 64
STEP_COEFFICIENTS = (14.0, 0.25, 0.3, 0.01, 25.0, 0.05, 0.02)

TOTAL_NAMES = (
    *("NUM_SENT", "NUM_STEPS", "NUM_LOADS_CPU", "RUNNING_NS", "WAITING_NS", "MAX_WAITING"),
    *("KV_BLOCK_NS", "MAX_KV_BLOCKS", "ADAPTER_NS", "BUSY_NS", "LOAD_NS"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedScenario:
    """One server and the requests that come to it; fields as the kernel's arguments."""

    arrival_ns: tuple[int, ...]
    adapter_of: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    declared_tokens: tuple[int, ...]
    rank: tuple[int, ...]
    pool_tokens: int
    batch_max_tokens: int
    running_max_req_size: int = 100
    max_wait_tokens: int = 3
    idle_poll_ns: int = 0
    tokens_per_rank: int = 2
    load_ns_per_rank: int = 1000
    horizon_ns: int = DRAINED_NS
    step_coefficients: tuple[float, ...] = STEP_COEFFICIENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedOutcome:
    """Everything that the engine says of a scenario."""

    first_token_ns: list[int]
    finish_ns: list[int]
    sent_ns: list[int]
    admitted_ns: list[int]
    gap_counts: dict[int, int]
    stop_ns: dict[str, int]
    totals: dict[str, float] = field(default_factory=dict)
    samples: list[tuple[int, ...]] = field(default_factory=list)


def run_paged_kernel(scenario: PagedScenario, *, sample_stride: int = 1) -> PagedOutcome:
    """Return what the kernel says of a scenario."""
    count = len(scenario.arrival_ns)
    rank = np.array(scenario.rank, np.int32)
    first, finish, sent, admitted = (np.full(count, -1, np.int64) for _ in range(4))
    stops = np.zeros(engine.NUM_STOPS, np.int64)
    gaps = np.zeros(engine.NUM_GAP_BINS, np.int64)
    totals = np.zeros(engine.NUM_TOTALS)
    samples = np.zeros((MAX_SAMPLES, engine.NUM_SAMPLED), np.int64)
    run_paged_engine(
        np.array(scenario.arrival_ns, np.int64),
        np.array(scenario.adapter_of, np.int32),
        np.array(scenario.prompt_tokens, np.int32),
        np.array(scenario.output_tokens, np.int32),
        np.array(scenario.declared_tokens, np.int32),
        rank,
        rank.astype(np.int64) * scenario.tokens_per_rank,
        rank.astype(np.int64) * scenario.load_ns_per_rank,
        np.array(
            [
                scenario.pool_tokens,
                scenario.batch_max_tokens,
                scenario.running_max_req_size,
                scenario.max_wait_tokens,
                scenario.idle_poll_ns,
            ],
            np.int64,
        ),
        np.array(scenario.step_coefficients, np.float64),
        scenario.horizon_ns,
        first,
        finish,
        sent,
        admitted,
        gaps,
        stops,
        totals,
        samples,
        sample_stride,
    )
    num_samples = min(-(-int(totals[engine.NUM_STEPS]) // sample_stride), MAX_SAMPLES)
    return PagedOutcome(
        first_token_ns=first.tolist(),
        finish_ns=finish.tolist(),
        sent_ns=sent.tolist(),
        admitted_ns=admitted.tolist(),
        stop_ns={name: int(stops[getattr(engine, name)]) for name in STOP_NAMES},
        gap_counts={index: int(gaps[index]) for index in np.flatnonzero(gaps)},
        totals={name: float(totals[getattr(engine, name)]) for name in TOTAL_NAMES},
        samples=[tuple(row) for row in samples[:num_samples].tolist()],
    )


@st.composite
def paged_scenarios(draw) -> PagedScenario:
    """Draw a small server; every request can be admitted to it when it is empty."""
    count = draw(st.integers(1, 24))
    num_adapters = draw(st.integers(1, 5))
    rank = draw(st.lists(st.integers(1, 8), min_size=num_adapters, max_size=num_adapters))
    output = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    declared = [tokens + draw(st.integers(0, 4)) for tokens in output]
    prompt = draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
    gaps_ns = draw(st.lists(st.integers(0, 60_000_000), min_size=count, max_size=count))
    tokens_per_rank = draw(st.integers(1, 4))
    least = max(map(sum, zip(prompt, declared, strict=True))) + 1 + tokens_per_rank * max(rank)
    return PagedScenario(
        arrival_ns=tuple(np.cumsum(gaps_ns).tolist()),
        adapter_of=tuple(draw(st.integers(0, num_adapters - 1)) for _ in range(count)),
        prompt_tokens=tuple(prompt),
        output_tokens=tuple(output),
        declared_tokens=tuple(declared),
        rank=tuple(rank),
        pool_tokens=least + draw(st.integers(0, 120)),
        batch_max_tokens=max(prompt) + draw(st.integers(0, 40)),
        running_max_req_size=draw(st.integers(1, 12)),
        max_wait_tokens=draw(st.integers(1, 5)),
        idle_poll_ns=draw(st.sampled_from([0, 10_000_000])),
        tokens_per_rank=tokens_per_rank,
        load_ns_per_rank=draw(st.integers(0, 2_000_000)),
        horizon_ns=draw(st.sampled_from([DRAINED_NS, 1, 200_000_000, 700_000_000])),
    )


def random_paged_scenario(seed: int, *, num_requests: int, num_adapters: int, **changes) -> PagedScenario:
    """Return an overload that keeps the pool full."""
    rng = np.random.default_rng(seed)
    output = rng.integers(1, 60, num_requests)
    return PagedScenario(
        **{
            "arrival_ns": tuple(np.sort(rng.integers(0, 2 * 10**9, num_requests)).tolist()),
            "adapter_of": tuple(rng.integers(0, num_adapters, num_requests).tolist()),
            "prompt_tokens": tuple(rng.integers(1, 90, num_requests).tolist()),
            "output_tokens": tuple(output.tolist()),
            "declared_tokens": tuple((output + rng.integers(0, 20, num_requests)).tolist()),
            "rank": tuple(rng.integers(1, 33, num_adapters).tolist()),
            "pool_tokens": 1500,
            "batch_max_tokens": 400,
            "max_wait_tokens": 10,
            "idle_poll_ns": 10_000_000,
            **changes,
        }
    )
