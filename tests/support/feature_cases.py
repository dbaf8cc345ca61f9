"""A calibration with numbers of its own, and random workloads."""

import math

from hypothesis import strategies as st

from twin.domain import (
    Adapter,
    Calibration,
    LoadLaw,
    MemoryLaw,
    ModelShape,
    SchedulerLaw,
    StepLaw,
    Workload,
)


def a_calibration(**changes) -> Calibration:
    """Return a small server: 40,000 KV tokens without slots, requests up to 8,192 tokens."""
    shape = ModelShape(
        num_layers=8,
        hidden_size=1024,
        intermediate_size=4096,
        num_heads=16,
        num_kv_heads=4,
        head_dim=64,
        vocab_size=32_000,
        dtype_bytes=2,
        max_model_len=8192,
        has_embedding_lora=False,
    )
    numbers = dict.fromkeys(StepLaw.__slots__, 0.0) | {
        "base_ms": 8.0,
        "decode_ms": 0.03,
        "prefill_ms": 0.02,
        "context_ms": 0.05,
        "adapter_ms": 0.3,
        "adapter_prefill_ms": 0.2,
        "rank_ms": 0.9,
        "slot_ms": 0.01,
        "slot_token_ms": 0.08,
        "eager_ms": 12.0,
    }
    values = {
        "gpu_type": "test-gpu",
        "base_model": "test-model",
        "engine_version": "test-engine",
        "model": shape,
        "memory": MemoryLaw(pool_bytes=40_000 * 8192.0),
        "step": StepLaw(**numbers),
        "scheduler": SchedulerLaw(base_us=50.0, running_us=3.0, scanned_us=0.2, far_us=0.25),
        "load": LoadLaw(cpu_ms=5.0, cpu_padding_ms=1.0, disk_ms=40.0, disk_rank_ms=2.0),
        "generated_over_requested": 1.0,
        "max_known_rank": 32,
    }
    return Calibration(**(values | changes))


def equal_adapters(count, rate_rps, *, rank=8, tokens=(200.0, 100.0), **changes) -> Workload:
    return Workload.from_adapters(
        Adapter(
            adapter_id=f"a{row}",
            rank=rank,
            rate_rps=rate_rps,
            input_tokens_mean=tokens[0],
            output_tokens_mean=tokens[1],
            **changes,
        )
        for row in range(count)
    )


cvs = st.one_of(st.none(), st.floats(0.0, 3.0))
adapter_numbers = st.tuples(
    st.sampled_from([1, 8, 16, 32]),
    st.floats(1e-4, 50.0),
    st.floats(1.0, 4000.0),
    st.floats(1.0, 2000.0),
    cvs,
    cvs,
    st.floats(0.0, 5.0),
)


def workload_of(numbers) -> Workload:
    """Return a workload from tuples drawn from `adapter_numbers`."""
    return Workload.from_adapters(
        Adapter(
            adapter_id=f"a{row}",
            rank=rank,
            rate_rps=rate,
            input_tokens_mean=tokens_in,
            output_tokens_mean=tokens_out,
            input_tokens_cv=cv_in,
            output_tokens_cv=cv_out,
            arrival_cv=arrival_cv,
        )
        for row, (rank, rate, tokens_in, tokens_out, cv_in, cv_out, arrival_cv) in enumerate(numbers)
    )


workloads = st.lists(adapter_numbers, min_size=1, max_size=12).map(workload_of)


def is_given(cv) -> bool:
    return not math.isnan(cv)
