"""Why a GPU is as it is: what it would run out of first, and the flags that start its server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.kernels import features as feature
from placer.margins import DEFAULT_MARGINS
from twin.domain import ServerConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from placer.margins import Margins
    from placer.placement import BindingConstraint, GpuPlan
    from placer.problem import PlacementProblem

FAR_FROM_A_LIMIT = 0.5
"""Below this share of every limit nothing binds."""

TIE = 1e-4
"""Shares nearer than this are equal; features are float32."""


def pressures(
    features: NDArray[np.float32], margins: Margins = DEFAULT_MARGINS
) -> dict[BindingConstraint, float]:
    """Return how much of each limit a GPU uses, 1 at the limit, in the order that settles ties.

    ``kv_memory``: KV tokens wanted over the cache. ``slots``: the adapters that never yield a slot over
    slots, or those with a request running, as far as the margins let them share; 0 where every
    adapter has a slot. ``throughput``: the largest of offered over capacity,
    tokens a step over the token budget, and running requests over `max_num_seqs`. Where the KV cache
    is what limits the capacity, the first equals the last: ties go to the cause.

    Parameters
    ----------
    features
        (NUM_FEATURES,) in the order of `models.features.FEATURES`.
    margins
        Limits of acceptance.
    """
    has_slot_each = features[feature.SLOTS_OVER_COUNT] >= 1
    slots = max(
        margins.min_slots_over_active / float(features[feature.SLOTS_OVER_ACTIVE]),
        margins.min_slots_over_hot / float(features[feature.SLOTS_OVER_HOT]),
    )
    throughput = max(
        features[feature.RHO], features[feature.BUDGET_PRESSURE], features[feature.SEQS_PRESSURE]
    )
    return {
        "kv_memory": float(features[feature.KV_PRESSURE]),
        "slots": 0.0 if has_slot_each else slots,
        "throughput": float(throughput),
    }


def binding_constraint(
    features: NDArray[np.float32], margins: Margins = DEFAULT_MARGINS
) -> BindingConstraint:
    """Return what a GPU with these features would run out of first; parameters as in `pressures`."""
    shares = pressures(features, margins)
    largest = max(shares.values())
    if largest < FAR_FROM_A_LIMIT:
        return "none"
    return next(name for name, share in shares.items() if share >= largest - TIE)


def head_room(features: NDArray[np.float32], margins: Margins = DEFAULT_MARGINS) -> dict[str, float]:
    """Return what is left of each limit, as a share of it; parameters as in `pressures`."""
    return {name: max(1.0 - share, 0.0) for name, share in pressures(features, margins).items()}


def server_config(gpu: GpuPlan, problem: PlacementProblem) -> ServerConfig:
    """Return the flags of a GPU's server; those that no plan chooses are the defaults it is planned for."""
    return ServerConfig(
        max_loras=gpu.max_loras,
        max_lora_rank=gpu.max_lora_rank,
        max_cpu_loras=gpu.max_cpu_loras,
        max_model_len=problem.max_model_len,
    )


def vllm_args(gpu: GpuPlan, problem: PlacementProblem) -> list[str]:
    """Return the command-line arguments of ``vllm serve`` for one GPU of a plan."""
    server = server_config(gpu, problem)
    arguments = {
        "--max-loras": server.max_loras,
        "--max-lora-rank": server.max_lora_rank,
        "--max-cpu-loras": server.max_cpu_loras,
        "--max-num-seqs": server.max_num_seqs,
        "--max-num-batched-tokens": server.max_num_batched_tokens,
    }
    if server.max_model_len is not None:
        arguments["--max-model-len"] = server.max_model_len
    return ["--enable-lora", *(text for flag, value in arguments.items() for text in (flag, str(value)))]
