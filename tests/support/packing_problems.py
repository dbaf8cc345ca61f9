"""Small placement problems: a calibration and a surrogate made by hand, and workloads of any size."""

from __future__ import annotations

import numpy as np

from models.features import FEATURE_NAMES, calibration_vector
from models.surrogate import Surrogate
from models.tree import TreeArrays, tree_arrays
from placer.problem import PlacementProblem
from twin.domain import Calibration, LoadLaw, MemoryLaw, ModelShape, SchedulerLaw, StepLaw, Workload

LLAMA_SHAPE = ModelShape(
    num_layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=128256,
    dtype_bytes=2,
    max_model_len=131072,
    has_embedding_lora=True,
)

MAX_ADAPTERS = 400
"""Most adapters on one GPU that the hand-made surrogate claims to know."""


def make_calibration(**changes) -> Calibration:
    """A server of about the measured size, with round numbers."""
    given = {
        "gpu_type": "h100-64gb",
        "base_model": "llama-3.1-8b-instruct",
        "engine_version": "by-hand",
        "model": LLAMA_SHAPE,
        "memory": MemoryLaw(pool_bytes=40e9),
        "step": StepLaw(
            base_ms=10.0,
            decode_ms=0.04,
            prefill_ms=0.02,
            context_ms=0.05,
            compute_ms=0.02,
            adapter_ms=0.1,
            adapter_prefill_ms=0.02,
            rank_ms=0.1,
            slot_ms=0.02,
            slot_token_ms=0.03,
            eager_ms=1.0,
        ),
        "scheduler": SchedulerLaw(base_us=50.0, running_us=4.0, scanned_us=0.2, far_us=0.2),
        "load": LoadLaw(cpu_ms=6.0, cpu_padding_ms=1.0, disk_ms=60.0, disk_rank_ms=2.0),
        "generated_over_requested": 0.99,
        "max_known_rank": 32,
    }
    return Calibration(**(given | changes))


def constant_tree(value: float) -> TreeArrays:
    """A tree of one leaf."""
    return tree_arrays([0], [0.0], [-1], [-1], [value])


def threshold_tree(feature: str, limits: list[float], values: list[float]) -> TreeArrays:
    """A staircase: ``values[k]`` where the feature is at most ``limits[k]``, the last above them all."""
    column = FEATURE_NAMES.index(feature)
    features, thresholds, left, right, leaves = [], [], [], [], []
    for k, limit in enumerate(limits):
        node = 2 * k
        features += [column, 0]
        thresholds += [limit, 0.0]
        left += [node + 1, -1]
        right += [node + 2, -1]
        leaves += [values[k], values[k]]
    return tree_arrays([*features, 0], [*thresholds, 0.0], [*left, -1], [*right, -1], [*leaves, values[-1]])


def make_starvation_tree(rho_limit: float = 0.8, slots_limit: float = 0.95) -> TreeArrays:
    """Starves above a load, or where slots are scarce; three risks below."""
    rho, slots = FEATURE_NAMES.index("rho"), FEATURE_NAMES.index("slots_over_active")
    return tree_arrays(
        feature=[rho, slots, 0, rho, 0, 0, 0],
        threshold=[rho_limit, slots_limit, 0, rho_limit / 2, 0, 0, 0],
        left=[1, 2, -1, 4, -1, -1, -1],
        right=[6, 3, -1, 5, -1, -1, -1],
        value=[0.5, 0.1, 0.6, 0.02, 0.001, 0.03, 0.97],
    )


def make_noisy_tree(seed: int, depth: int = 6) -> TreeArrays:
    """Risks that rise with the load on the whole and jump with load and slots: no fit check is monotone."""
    rng = np.random.default_rng(seed)
    splits = {"rho": (0.0, 1.1), "max_loras": (0.0, 30.0), "num_adapters": (0.0, 12.0)}
    feature, threshold, left, right, value = [], [], [], [], []

    def grow(level: int, load: float) -> int:
        node = len(feature)
        for column, start in ((feature, 0), (threshold, 0.0), (left, -1), (right, -1)):
            column.append(start)
        value.append(float(np.clip(0.3 * load + rng.normal(0, 0.15), 0, 1)))
        if level < depth:
            name = list(splits)[int(rng.integers(len(splits)))]
            limit = float(rng.uniform(*splits[name]))
            feature[node], threshold[node] = FEATURE_NAMES.index(name), limit
            above = max(load, limit) if name == "rho" else load
            left[node], right[node] = grow(level + 1, load), grow(level + 1, above)
        return node

    grow(0, 0.0)
    return tree_arrays(feature, threshold, left, right, value)


def make_surrogate(calibration: Calibration, starvation: TreeArrays | None = None, **changes) -> Surrogate:
    """A surrogate whose trees state the physics with a limit on load and on slots."""
    ranges = np.tile(np.array([0.0, 1e9], dtype=np.float32), (len(FEATURE_NAMES), 1))
    ranges[FEATURE_NAMES.index("num_adapters"), 1] = changes.pop("max_adapters", MAX_ADAPTERS)
    given = {
        "calibration_id": calibration.calibration_id,
        "calibration": calibration_vector(calibration),
        "throughput": constant_tree(1.0),
        "starvation": make_starvation_tree() if starvation is None else starvation,
        "itl": constant_tree(1.0),
        "ttft": constant_tree(1.0),
        "ranges": ranges,
    }
    return Surrogate(**(given | changes))


def make_workload(rank, rate_rps, input_tokens=220.0, output_tokens=200.0, **changes) -> Workload:
    """A workload from columns; lengths and the rest may be one number for all."""
    rank = np.atleast_1d(np.asarray(rank))
    count = len(rank)

    def column(values):
        return np.broadcast_to(np.asarray(values, dtype=np.float64), (count,)).copy()

    given = {
        "base_model": "llama-3.1-8b-instruct",
        "gpu_type": "h100-64gb",
        "adapter_ids": tuple(f"a{row}" for row in range(count)),
        "rank": rank,
        "rate_rps": column(rate_rps),
        "input_tokens_mean": column(input_tokens),
        "output_tokens_mean": column(output_tokens),
        "input_tokens_cv": column(np.nan),
        "output_tokens_cv": column(np.nan),
        "arrival_cv": column(1.0),
    }
    return Workload(**(given | changes))


def make_problem(workload: Workload, surrogate: Surrogate | None = None, **changes) -> PlacementProblem:
    """A problem on the hand-made calibration, or on that of `changes`."""
    calibration = changes.pop("calibration", None) or make_calibration()
    surrogate = make_surrogate(calibration) if surrogate is None else surrogate
    return PlacementProblem(workload=workload, calibration=calibration, surrogate=surrogate, **changes)


def make_random_workload(num_adapters: int, seed: int, ranks=(8, 16, 32)) -> Workload:
    """Rates spread over two decades, lengths over one, ranks drawn evenly."""
    rng = np.random.default_rng(seed)
    return make_workload(
        rng.choice(ranks, num_adapters),
        10 ** rng.uniform(-2, 0, num_adapters),
        10 ** rng.uniform(1.5, 2.8, num_adapters),
        10 ** rng.uniform(1.5, 2.5, num_adapters),
    )
