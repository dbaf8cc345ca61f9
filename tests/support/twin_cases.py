"""Scenarios for the twin: what one is, how to run the kernel on it, how to draw random ones.

The kernel is called in one place, `run_kernel`; the calibration's numbers are the tests' own, so a
new fit of the shipped ones changes no test.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from twin.domain import (
    AdapterOutcomes,
    Calibration,
    LoadLaw,
    MemoryLaw,
    ModelShape,
    SchedulerLaw,
    ServerConfig,
    SimulationReport,
    StepLaw,
)
from twin.kernels import engine
from twin.latency import scheduler_coefficients, step_coefficients

HAS_JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
"""Without Numba's compiler the kernels are Python: tests then take fewer examples."""

DRAINED_NS = 10**12
"""A horizon that every small scenario ends long before, and a server that hangs reaches soon."""

MAX_SAMPLES = 20_000
"""Steps of which a run keeps the state."""

TOTAL_NAMES = (
    "NUM_SENT",
    "NUM_STEPS",
    "NUM_PREEMPTIONS",
    "NUM_LOADS_CPU",
    "NUM_LOADS_DISK",
    "RUNNING_NS",
    "WAITING_NS",
    "MAX_WAITING",
    "KV_BLOCK_NS",
    "MAX_KV_BLOCKS",
    "ADAPTER_NS",
    "BUSY_NS",
    "LOAD_NS",
    "SCHEDULER_NS",
    "NUM_ARRIVAL_STEPS",
    "NUM_SET_CHANGES",
)
STOP_NAMES = ("STOP_QUEUE_EMPTY", "STOP_SLOTS", "STOP_KV", "STOP_TOKENS", "STOP_SEQS", "STOP_PREEMPTED")

STEP = StepLaw(
    base_ms=8.0,
    decode_ms=0.05,
    prefill_ms=0.02,
    context_ms=0.07,
    compute_ms=0.015,
    adapter_ms=0.31,
    adapter_prefill_ms=0.9,
    rank_ms=0.4,
    slot_ms=0.011,
    slot_token_ms=0.6,
    eager_ms=2.5,
)
SCHEDULER = SchedulerLaw(base_us=41.0, running_us=3.7, scanned_us=0.23, far_us=0.31)


def num_examples(default: int) -> int:
    """Return how many examples a property takes: LOADMASTER_TWIN_EXAMPLES, or the default.

    A fifth of the default without the compiler.
    """
    given = os.environ.get("LOADMASTER_TWIN_EXAMPLES")
    if given is not None:
        return int(given)
    return default if HAS_JIT else max(default // 5, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that decides one run of a server, as plain Python values.

    Attributes
    ----------
    arrival_ns, adapter_of, prompt_tokens, output_tokens
        One entry for each request, in order of arrival.
    cpu_load_ns, disk_load_ns
        One entry for each adapter.
    max_unfinished
        The client's limit on unfinished requests; 0 is none.
    starts_in_cpu
        Whether host memory holds adapters at the start.
    """

    arrival_ns: tuple[int, ...]
    adapter_of: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    cpu_load_ns: tuple[int, ...] = (0,)
    disk_load_ns: tuple[int, ...] = (0,)
    max_loras: int = 1
    max_lora_rank: int = 8
    max_cpu_loras: int = 1
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 64
    block_size: int = 16
    num_blocks: int = 64
    max_unfinished: int = 0
    starts_in_cpu: bool = True
    step: StepLaw = STEP
    scheduler: SchedulerLaw = SCHEDULER
    warmup_ns: int = 0
    horizon_ns: int = DRAINED_NS

    @property
    def num_requests(self) -> int:
        """How many requests the scenario has."""
        return len(self.arrival_ns)

    @property
    def num_adapters(self) -> int:
        """How many adapters the scenario has."""
        return len(self.cpu_load_ns)


class StepSample(NamedTuple):
    """What the step law saw of one step."""

    num_decodes: int
    prefill_tokens: int
    context_tokens: int
    num_adapters: int
    num_scanned: int
    duration_ns: int
    num_prefills: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run gives, of the kernel or of the oracle; -1 where a time never came.

    Attributes
    ----------
    slots_wait_ns
        By adapter: time its requests waited, once passed over, while all slots were taken by others.
    gap_counts
        Tokens by bin of the gap before them; empty bins are left out.
    samples
        The state of each step, at most `MAX_SAMPLES` of them.
    stop_ns, totals
        By the names of the kernel's constants.
    """

    sent_ns: list[int]
    admitted_ns: list[int]
    first_token_ns: list[int]
    finish_ns: list[int]
    slots_wait_ns: list[int]
    gap_counts: dict[int, int] = field(default_factory=dict)
    samples: list[StepSample] = field(default_factory=list)
    stop_ns: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)


def run_kernel(scenario: Scenario) -> Outcome:
    """Return what `twin.kernels.engine.run_engine` makes of a scenario."""
    count = scenario.num_requests
    sent_ns, admitted_ns, first_token_ns, finish_ns = (np.full(count, -7, np.int64) for _ in range(4))
    slots_wait_ns = np.zeros(scenario.num_adapters, np.float64)
    gap_counts = np.zeros(engine.NUM_GAP_BINS, np.int64)
    stop_ns = np.zeros(engine.NUM_STOPS, np.int64)
    totals = np.zeros(engine.NUM_TOTALS, np.float64)
    samples = np.full((MAX_SAMPLES, engine.NUM_SAMPLED), -1, np.int64)
    engine.run_engine(
        np.array(scenario.arrival_ns, np.int64),
        np.array(scenario.adapter_of, np.int32),
        np.array(scenario.prompt_tokens, np.int32),
        np.array(scenario.output_tokens, np.int32),
        np.array(scenario.cpu_load_ns, np.int64),
        np.array(scenario.disk_load_ns, np.int64),
        np.array(
            [
                scenario.max_loras,
                scenario.max_lora_rank,
                scenario.max_cpu_loras,
                scenario.max_num_seqs,
                scenario.max_num_batched_tokens,
                scenario.block_size,
                scenario.num_blocks,
                scenario.max_unfinished,
                int(scenario.starts_in_cpu),
            ],
            np.int64,
        ),
        step_coefficients(scenario.step),
        scheduler_coefficients(scenario.scheduler),
        scenario.warmup_ns,
        scenario.horizon_ns,
        sent_ns,
        admitted_ns,
        first_token_ns,
        finish_ns,
        slots_wait_ns,
        gap_counts,
        stop_ns,
        totals,
        samples,
        1,
    )
    num_samples = min(int(totals[engine.NUM_STEPS]), MAX_SAMPLES)
    return Outcome(
        sent_ns=sent_ns.tolist(),
        admitted_ns=admitted_ns.tolist(),
        first_token_ns=first_token_ns.tolist(),
        finish_ns=finish_ns.tolist(),
        slots_wait_ns=[int(waited_ns) for waited_ns in slots_wait_ns],
        gap_counts={int(gap): int(gap_counts[gap]) for gap in np.flatnonzero(gap_counts)},
        samples=[StepSample(*row) for row in samples[:num_samples].tolist()],
        stop_ns={name: int(stop_ns[getattr(engine, name)]) for name in STOP_NAMES},
        totals={name: int(totals[getattr(engine, name)]) for name in TOTAL_NAMES},
    )


@st.composite
def scenarios(
    draw: st.DrawFn, *, max_requests: int = 24, horizon: bool = True, loads: bool = True, warmup: bool = False
) -> Scenario:
    """Draw a small server under pressure: little KV, few tokens a step, few slots.

    Parameters
    ----------
    max_requests
        Requests at most.
    horizon
        Whether the run may be cut before all requests have finished.
    loads
        Whether bringing in an adapter takes time.
    warmup
        Whether counting may begin after the start.
    """
    num_adapters = draw(st.integers(1, 6))
    gap_ns = draw(
        st.sampled_from(
            [
                st.just(0),
                st.integers(0, 9_000_000),
                st.one_of(st.just(0), st.integers(0, 60_000_000), st.sampled_from([1, 10**9])),
            ]
        )
    )
    longest_output = draw(st.sampled_from([1, 6, 20, 20]))
    row = st.tuples(
        gap_ns, st.integers(0, num_adapters - 1), st.integers(1, 24), st.integers(1, longest_output)
    )
    rows = draw(st.lists(row, min_size=draw(st.integers(1, max_requests)), max_size=max_requests))
    arrival_ns = np.cumsum([row[0] for row in rows]).tolist()
    longest = max(prompt + output for _, _, prompt, output in rows)
    block_size = draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 16]))
    blocks_of_longest = -(-longest // block_size)
    budget = draw(st.one_of(st.integers(1, 12), st.integers(8, 80)))
    max_loras = draw(st.integers(1, 4))
    load_ns = st.integers(0, 9_000_000) if loads else st.just(0)
    per_adapter = st.lists(load_ns, min_size=num_adapters, max_size=num_adapters)
    horizon_ns = DRAINED_NS
    if horizon:
        horizon_ns = draw(st.one_of(st.just(DRAINED_NS), st.integers(1, arrival_ns[-1] + 5 * 10**8)))
    return Scenario(
        arrival_ns=tuple(arrival_ns),
        adapter_of=tuple(row[1] for row in rows),
        prompt_tokens=tuple(row[2] for row in rows),
        output_tokens=tuple(row[3] for row in rows),
        cpu_load_ns=tuple(draw(per_adapter)),
        disk_load_ns=tuple(draw(per_adapter)),
        max_loras=max_loras,
        max_lora_rank=draw(st.sampled_from([4, 8, 32])),
        max_cpu_loras=max_loras + draw(st.integers(0, 3)),
        max_num_seqs=min(budget, draw(st.one_of(st.integers(1, 4), st.integers(4, 20)))),
        max_num_batched_tokens=budget,
        block_size=block_size,
        num_blocks=blocks_of_longest + draw(st.integers(0, 2 * blocks_of_longest)),
        max_unfinished=draw(st.one_of(st.just(0), st.just(0), st.integers(1, 12))),
        starts_in_cpu=draw(st.booleans()),
        warmup_ns=draw(st.just(0) | st.integers(0, min(horizon_ns - 1, arrival_ns[-1] + 10**9)))
        if warmup
        else 0,
        horizon_ns=horizon_ns,
    )


def random_scenario(seed: int, *, num_requests: int, num_adapters: int, **changes: Any) -> Scenario:
    """Return a longer overloaded scenario, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    drawn = Scenario(
        arrival_ns=tuple(np.cumsum(rng.integers(0, 9_000_000, num_requests)).tolist()),
        adapter_of=tuple(rng.integers(0, num_adapters, num_requests).tolist()),
        prompt_tokens=tuple(rng.integers(1, 60, num_requests).tolist()),
        output_tokens=tuple(rng.integers(1, 60, num_requests).tolist()),
        cpu_load_ns=tuple(rng.integers(0, 5_000_000, num_adapters).tolist()),
        disk_load_ns=tuple(rng.integers(0, 50_000_000, num_adapters).tolist()),
        max_loras=4,
        max_cpu_loras=6,
        max_num_seqs=40,
        max_num_batched_tokens=96,
        block_size=16,
        num_blocks=60,
    )
    return replace(drawn, **changes)


@st.composite
def crowded_slots(draw: st.DrawFn) -> Scenario:
    """Draw an overloaded server that is short of slots alone.

    Its slots are mostly all taken when an adapter enters the batch, which makes others of the batch be
    loaded again (R7); `scenarios` rarely comes there.
    """
    num_adapters = draw(st.integers(5, 9))
    max_loras = draw(st.integers(2, num_adapters - 1))
    scenario = random_scenario(
        draw(st.integers(0, 2**32 - 1)),
        num_requests=draw(st.integers(30, 60)),
        num_adapters=num_adapters,
        max_loras=max_loras,
        max_cpu_loras=max_loras + draw(st.integers(0, 4)),
        starts_in_cpu=draw(st.booleans()),
        num_blocks=draw(st.sampled_from([12, 1000])),
        max_num_batched_tokens=400,
        warmup_ns=draw(st.sampled_from([0, 10**8])),
    )
    if draw(st.booleans()):
        # All come at once and end in a few steps: several adapters leave and enter the batch together.
        return replace(
            scenario,
            arrival_ns=(0,) * scenario.num_requests,
            output_tokens=tuple(4 + 4 * (tokens % 3) for tokens in scenario.output_tokens),
            max_num_seqs=max_loras,
        )
    longest = draw(st.sampled_from([10, 60]))
    return replace(scenario, output_tokens=tuple(min(tokens, longest) for tokens in scenario.output_tokens))


SHAPE = ModelShape(
    num_layers=4,
    hidden_size=512,
    intermediate_size=1024,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=1000,
    dtype_bytes=2,
    max_model_len=2048,
    has_embedding_lora=True,
)


def calibration(**changes: Any) -> Calibration:
    """Return a small made-up calibration, with fields replaced."""
    made_up = Calibration(
        gpu_type="toy-gpu",
        base_model="toy-model",
        engine_version="toy-1",
        model=SHAPE,
        memory=MemoryLaw(pool_bytes=250e6),
        step=STEP,
        scheduler=SCHEDULER,
        load=LoadLaw(cpu_ms=3.0, cpu_padding_ms=0.5, disk_ms=11.0, disk_rank_ms=0.25),
        generated_over_requested=0.98,
        max_known_rank=64,
        standard_errors={"step.base_ms": 0.125},
        errors={"step.mape_pct": 2.5},
        provenance={"data": "made up"},
    )
    return replace(made_up, **changes)


def server(**changes: Any) -> ServerConfig:
    """Return a small server's flags, with fields replaced."""
    return replace(ServerConfig(max_loras=4, max_lora_rank=16, max_num_seqs=64), **changes)


def report_as_dict(report: SimulationReport) -> dict[str, Any]:
    """Return a report's fields with arrays as bytes, so that two reports compare exactly."""
    return {item.name: _comparable(getattr(report, item.name)) for item in fields(report)}


def _comparable(value: Any) -> Any:
    if isinstance(value, AdapterOutcomes):
        return {item.name: getattr(value, item.name).tobytes() for item in fields(value)}
    return value.tobytes() if isinstance(value, np.ndarray) else value
