"""Simple rules to print beside our plans, with the same inputs and the same answer.

Each packs by its own rule, and the twin judges.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from models.features import aggregate, features_of
from placer.bounds import lower_bound, workload_utilisation
from placer.explain import binding_constraint
from placer.limits import usable_slot_ranks
from placer.placement import GpuPlan, Placement
from placer.ranks import slot_rank
from twin.domain import ServerConfig
from twin.memory import feasible_max_loras

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from placer.problem import PlacementProblem

USUAL_MAX_LORAS = 32
"""What a server gets where nobody thought about it."""


def round_robin(problem: PlacementProblem) -> Placement | None:
    """Deal the adapters in the order given over the fewest GPUs on which the surrogate sees none starve.

    The usual way to spread adapters over replicas, with slots as usual. Numbers of GPUs are tried
    from the lower bound up, None beyond four times it.
    """
    rows = np.arange(problem.workload.num_adapters)
    least = lower_bound(problem)
    for count in range(least, 4 * least + 1):
        plan = _plan(problem, [rows[gpu::count] for gpu in range(min(count, len(rows)))], USUAL_MAX_LORAS)
        if plan is None or all(_trusted(gpu, problem) for gpu in plan.gpus):
            return plan
    return None


def max_base(problem: PlacementProblem) -> Placement | None:
    """Fill each GPU in the order given with as many adapters as keep the base model at its maximum.

    MaxBase of the reference (arXiv 2602.24044): the base model's maximum throughput over the mean
    load of an adapter is the number of adapters on a GPU, and all of them get a slot.
    """
    share = workload_utilisation(problem) / problem.workload.num_adapters
    count = max(math.floor(1 / share), 1)
    rows = np.arange(problem.workload.num_adapters)
    return _plan(problem, [rows[first : first + count] for first in range(0, len(rows), count)], count)


BASELINES: dict[str, Callable[[PlacementProblem], Placement | None]] = {
    "round_robin": round_robin,
    "max_base": max_base,
}


def _trusted(gpu: GpuPlan, problem: PlacementProblem) -> bool:
    predicted = gpu.predicted
    return (
        predicted.starvation_probability <= problem.starvation_risk
        and predicted.served_fraction >= problem.margins.min_served_fraction
    )


def _plan(problem: PlacementProblem, groups: list[NDArray[np.int64]], slots: int) -> Placement | None:
    """Return the plan of these groups with at most `slots` slots each, None where one cannot start."""
    gpus = [_gpu(problem, gpu, rows, slots) for gpu, rows in enumerate(groups)]
    if any(gpu is None for gpu in gpus):
        return None
    return Placement(
        gpus=tuple(gpu for gpu in gpus if gpu is not None), unplaced=(), lower_bound=lower_bound(problem)
    )


def _gpu(problem: PlacementProblem, gpu: int, rows: NDArray[np.int64], slots: int) -> GpuPlan | None:
    rank = slot_rank(int(problem.workload.rank[rows].max()))
    assert rank in usable_slot_ranks(problem), "the problem refuses higher ranks"
    max_loras = min(slots, len(rows), feasible_max_loras(problem.calibration, rank, problem.max_model_len))
    if max_loras == 0:
        return None
    aggregates = aggregate(problem.workload.subset(rows))
    features, _ = features_of(aggregates, max_loras, rank, problem.surrogate.calibration)
    return GpuPlan(
        gpu=gpu,
        rows=rows,
        max_loras=max_loras,
        max_lora_rank=rank,
        predicted=problem.surrogate.predict_aggregates(
            aggregates, ServerConfig(max_loras=max_loras, max_lora_rank=rank)
        ),
        binding_constraint=binding_constraint(features),
    )
