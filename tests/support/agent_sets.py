"""Measurement sets of an agent, made from known laws instead of a server."""

import numpy as np

from service.agent.points import Point, tables_of
from twin.domain import Calibration, LoadLaw, MemoryLaw, SchedulerLaw, StepLaw
from twin.kernels.latency import step_ms
from twin.latency import step_coefficients
from twin.measurement_set import CHECKS, LAUNCHES, LOADS, STEPS, Manifest
from twin.memory import kv_tokens

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 1024,
    "max_position_embeddings": 512,
}
MODEL = "small-random-llama"
STATES = [
    (decodes, prefill, context, adapters)
    for decodes in (1.0, 12.0, 40.0)
    for prefill in (0.0, 30.0, 200.0)
    for context in (50.0, 2000.0)
    for adapters in (1.0, 4.0)
]


def manifest(**changes):
    known = {
        "gpu_type": "cpu",
        "base_model": MODEL,
        "engine_version": "vllm-0.32.0",
        "agent_id": "agent-1",
        "model_config": CONFIG,
    }
    return Manifest(**(known | changes))


KNOWN = Calibration(
    gpu_type="cpu",
    base_model=MODEL,
    engine_version="vllm-0.32.0",
    model=manifest().shape,
    memory=MemoryLaw(pool_bytes=8 * 2**20),
    step=StepLaw(
        base_ms=7.0,
        decode_ms=0.3,
        prefill_ms=0.15,
        context_ms=0.5,
        compute_ms=0.0,
        adapter_ms=0.2,
        adapter_prefill_ms=2.0,
        rank_ms=0.0,
        slot_ms=0.1,
        slot_token_ms=3.0,
        eager_ms=0.0,
    ),
    scheduler=SchedulerLaw(base_us=0.0, running_us=0.0, scanned_us=2.0, far_us=0.0),
    load=LoadLaw(cpu_ms=2.0, cpu_padding_ms=0.5, disk_ms=3.0, disk_rank_ms=0.25),
    generated_over_requested=1.0,
    max_known_rank=8,
)


def step_point(law, scanned_us, state, *, slots=4, rank=8, scanned=0.0, noise=1.0):  # noqa: PLR0913 (a row)
    decodes, prefill, context, adapters = state
    time_ms = step_ms(step_coefficients(law), decodes, prefill, context, adapters, rank, slots)
    time_ms = (time_ms + 1e-3 * scanned_us * scanned) * noise
    row = {
        "model": MODEL,
        "kind": "queue" if scanned else "decode",
        "max_loras": slots,
        "max_lora_rank": rank,
        "decodes": decodes,
        "prefill_tokens": prefill,
        "context_tokens": context,
        "adapters_in_batch": adapters,
        "scanned": scanned,
        "step_ms": time_ms,
        "step_ms_se": 0.01 * time_ms,
    }
    return Point(key=f"step/s{slots}-r{rank}/{state}-{scanned}", table=STEPS, row=row)


def points_of(calibration, *, seed=0, spread=0.0):
    """Points that a server with a calibration's laws would show, with relative noise of `spread`."""
    rng = np.random.default_rng(seed)
    for slots in (2, 4, 8, 18):
        tokens = kv_tokens(calibration, slots, 8)
        starts = tokens >= calibration.model.max_model_len
        row = {"model": MODEL, "max_loras": slots, "max_lora_rank": 8, "failed": str(not starts)}
        row |= {"kv_tokens": tokens} if starts else {"error": "kv_smaller_than_max_len"}
        yield Point(key=f"launch/s{slots}-r8", table=LAUNCHES, row=row)
    load = calibration.load
    for rank, source in ((8, "cpu"), (4, "cpu"), (8, "disk"), (4, "disk")):
        median_ms = load.cpu_ms + load.cpu_padding_ms * (rank < 8)
        median_ms += (load.disk_ms + load.disk_rank_ms * rank) * (source == "disk")
        row = {"model": MODEL, "adapter_rank": rank, "max_lora_rank": 8, "source": source}
        yield Point(key=f"load/{source}-r{rank}", table=LOADS, row=row | {"median_ms": median_ms})
    scanned_us = calibration.scheduler.scanned_us
    for slots in (2, 4, 8):
        for state in STATES:
            noise = float(np.exp(spread * rng.standard_normal()))
            yield step_point(calibration.step, scanned_us, state, slots=slots, noise=noise)
    yield step_point(calibration.step, scanned_us, STATES[5], scanned=3000.0)


def check_point(rate_rps, tok_s, duration_s=60.0):
    row = {
        "run_id": "check-1",
        "model": MODEL,
        "adapters": 4,
        "max_loras": 4,
        "max_cpu_loras": 4,
        "max_lora_rank": 8,
        "lora_rank_pool": "8",
        "adapter_rate_counts": f"{rate_rps}x4",
        "sum_rate_req_s": 4 * rate_rps,
        "duration_s": duration_s,
        "pool_mean_input_len": 30,
        "pool_mean_output_len": 30,
        "tot_tok_s": tok_s,
        "failed": "False",
    }
    return Point(key="check/1", table=CHECKS, row=row)


def write_set(directory, points, **changes):
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in tables_of(points, manifest(**changes)).items():
        (directory / name).write_bytes(content)
    return directory
