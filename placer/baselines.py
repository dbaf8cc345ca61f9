"""Simple and published rules to print beside our plans, with the same inputs and the same answer.

Each packs by its own rule, with what that rule knows, and the twin judges. Where a publication leaves
something open, the docstring says how it is read here.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.features import aggregate, features_of
from models.kernels.features import RHO
from placer.bounds import load_bound, workload_utilisation
from placer.explain import binding_constraint, head_room
from placer.limits import usable_slot_ranks
from placer.placement import GpuPlan, Placement
from placer.ranks import slot_rank, slot_rank_classes
from twin.domain import ServerConfig
from twin.memory import feasible_max_loras

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from placer.problem import PlacementProblem

    Groups = list[NDArray[np.int64]]
    Plan = Placement | None

USUAL_MAX_LORAS = 32
"""What a server gets where nobody thought about it."""

TESTING_POINTS = (8, 16, 32, 64, 96, 128, 160, 192, 256, 320, 384, 448, 512, 576)
"""Numbers of adapters at which the reference's greedy asks its surrogate."""

MAX_FACTOR = 4
"""Rules that are given a number of GPUs are tried up to so many times the lower bound."""


def round_robin(problem: PlacementProblem) -> Plan:
    """Deal the adapters in the order given over the fewest GPUs on which the surrogate sees none starve.

    The usual way to spread adapters over replicas, with slots as usual.
    """
    rows = np.arange(problem.workload.num_adapters)
    return _fewest_trusted(problem, lambda count: [rows[gpu::count] for gpu in range(count)])


def max_base(problem: PlacementProblem) -> Plan:
    """Fill each GPU in the order given with as many adapters as keep the base model at its maximum.

    MaxBase of the reference (arXiv 2602.24044): the base model's maximum throughput over the mean
    load of an adapter is the number of adapters on a GPU, and all of them get a slot.
    """
    groups = _of_equal_count(problem)
    return _plan(problem, groups, [len(group) for group in groups])


def max_base_half(problem: PlacementProblem) -> Plan:
    """MaxBase with slots for half of a GPU's adapters.

    MaxBase* of the reference (arXiv 2602.24044), as we read it: the same groups, fewer slots.
    """
    groups = _of_equal_count(problem)
    return _plan(problem, groups, [max(len(group) // 2, 1) for group in groups])


def random_groups(problem: PlacementProblem) -> Plan:
    """Give each adapter a random one of as many GPUs as the base model's maximum asks for, slots random.

    Random of the reference (arXiv 2602.24044); seeded, so that it is the same each time.
    """
    rng = np.random.default_rng(0)
    count = math.ceil(workload_utilisation(problem))
    home = rng.integers(count, size=problem.workload.num_adapters)
    groups = [rows for gpu in range(count) if len(rows := np.flatnonzero(home == gpu))]
    return _plan(problem, groups, [int(rng.integers(1, len(group) + 1)) for group in groups])


def sum_of_rates(problem: PlacementProblem) -> Plan:
    """Fill GPUs in the order given until the sum of their offered tokens reaches a fixed capacity.

    The rule of thumb of many routers, "rates add up to C at fixed slots": C is what a server with the
    usual slots, all of them in use, does with requests of the fleet's mean lengths.
    """
    ranks = problem.workload.rank
    capacity = _capacity_tok_s(problem, slot_rank(int(ranks.max())))
    groups = _fill(np.arange(len(ranks)), _offered_tok_s(problem) / capacity)
    return _plan(problem, groups, [USUAL_MAX_LORAS] * len(groups))


def loraserve(problem: PlacementProblem) -> Plan:
    """Sort by rank and fill GPUs until utilisation, load over an operating point for the rank, is 1.

    LoRAServe-style, as we read it: each rank has an operating point, the load that a server of
    that rank carries, and adapters of like rank share servers.
    """
    points = {rank: _capacity_tok_s(problem, rank) for rank in usable_slot_ranks(problem)}
    ranks = [slot_rank(int(rank)) for rank in problem.workload.rank]
    load = _offered_tok_s(problem) / np.array([points[rank] for rank in ranks])
    order = np.lexsort((-load, -np.array(ranks)))
    groups = _fill(order, load)
    return _plan(problem, groups, [USUAL_MAX_LORAS] * len(groups))


def dlora_proactive(problem: PlacementProblem) -> Plan:
    """Balance load over the fewest GPUs whose loads stay within the capacity by formula.

    dLoRA's proactive placement (OSDI 2024), as we read it: adapters by descending load, each to the
    GPU with the least; a server holds as many adapters as fit in its memory.
    """
    load = _offered_tok_s(problem) / _capacity_tok_s(problem, slot_rank(int(problem.workload.rank.max())))
    order = np.argsort(-load, kind="stable")
    for count in range(max(math.ceil(load.sum()), 1), len(load) + 1):
        groups = _balanced(order, load, count)
        if max(float(load[group].sum()) for group in groups) <= 1 or count == len(load):
            return _plan(problem, groups, [USUAL_MAX_LORAS] * len(groups))
    return None


def seed_latency(problem: PlacementProblem) -> Plan:
    """Give each adapter to the GPU with the least rate, on the fewest GPUs that the surrogate trusts.

    The latency variant of the reference (arXiv 2602.24044): all GPUs open, feasibility only.
    """
    rate = problem.workload.rate_rps
    order = np.argsort(-rate, kind="stable")
    return _fewest_trusted(problem, lambda count: _balanced(order, rate, count))


def seed_greedy(problem: PlacementProblem) -> Plan:
    """Fill one GPU at a time, asking the surrogate only at fixed numbers of adapters.

    The greedy of the reference (arXiv 2602.24044), with our surrogate: ranks descending, inside a rank
    the order zig-zags between the highest and the lowest rates; at each testing point two slot counts
    are tried; a failure puts back what came since the last good test and closes the GPU.
    """
    order = _zigzag(problem)
    groups: Groups = []
    slots: list[int] = []
    while len(order):
        good = _largest_tested(problem, order)
        if good.held == 0:
            return None
        groups.append(order[: good.held])
        slots.append(good.max_loras)
        order = order[good.held :]
    return _plan(problem, groups, slots)


BASELINES: dict[str, Callable[[PlacementProblem], Plan]] = {
    "round_robin": round_robin,
    "max_base": max_base,
    "max_base_half": max_base_half,
    "random": random_groups,
    "sum_of_rates": sum_of_rates,
    "loraserve": loraserve,
    "dlora_proactive": dlora_proactive,
    "seed_latency": seed_latency,
    "seed_greedy": seed_greedy,
}


class _Tested(NamedTuple):
    """The largest number of adapters that passed a test, and with which slots."""

    held: int
    max_loras: int


def _zigzag(problem: PlacementProblem) -> NDArray[np.int64]:
    rank_class, rate = slot_rank_classes(problem.workload.rank), problem.workload.rate_rps
    parts = []
    for each in np.unique(rank_class)[::-1]:
        rows = np.flatnonzero(rank_class == each)
        rows = rows[np.argsort(-rate[rows], kind="stable")]
        half = (len(rows) + 1) // 2
        mixed = np.empty_like(rows)
        mixed[0::2], mixed[1::2] = rows[:half], rows[half:][::-1]
        parts.append(mixed)
    return np.concatenate(parts)


def _largest_tested(problem: PlacementProblem, order: NDArray[np.int64]) -> _Tested:
    good = _Tested(0, 0)
    for point in TESTING_POINTS:
        count = min(point, len(order))
        for slots in dict.fromkeys((min(count, max(good.max_loras, 8)), count)):
            gpu = _gpu(problem, 0, order[:count], slots)
            if gpu is not None and _trusted(gpu, problem):
                good = _Tested(count, gpu.max_loras)
                break
        else:
            return good
        if count == len(order):
            return good
    return good


def _of_equal_count(problem: PlacementProblem) -> Groups:
    share = workload_utilisation(problem) / problem.workload.num_adapters
    count = max(math.floor(1 / share), 1)
    rows = np.arange(problem.workload.num_adapters)
    return [rows[first : first + count] for first in range(0, len(rows), count)]


def _fill(order: NDArray[np.int64], load: NDArray[np.float64]) -> Groups:
    """Return groups in this order, each as long as its loads add up to 1."""
    groups: list[list[int]] = [[]]
    filled = 0.0
    for row in order.tolist():
        if groups[-1] and filled + load[row] > 1:
            groups.append([])
            filled = 0.0
        groups[-1].append(row)
        filled += float(load[row])
    return [np.array(group) for group in groups]


def _balanced(order: NDArray[np.int64], load: NDArray[np.float64], count: int) -> Groups:
    """Return groups of nearly equal load: each adapter in this order goes to the least loaded."""
    heap = [(0.0, gpu) for gpu in range(count)]
    groups: list[list[int]] = [[] for _ in range(count)]
    for row in order.tolist():
        filled, gpu = heapq.heappop(heap)
        groups[gpu].append(row)
        heapq.heappush(heap, (filled + float(load[row]), gpu))
    return [np.array(group) for group in groups if group]


def _fewest_trusted(problem: PlacementProblem, groups_of: Callable[[int], Groups]) -> Plan:
    """Return the plan of the fewest GPUs, from the lower bound up, that the surrogate trusts; else None."""
    least = load_bound(problem)
    for count in range(least, MAX_FACTOR * least + MAX_FACTOR):
        groups = groups_of(min(count, problem.workload.num_adapters))
        plan = _plan(problem, groups, [USUAL_MAX_LORAS] * len(groups))
        if plan is None or all(_trusted(gpu, problem) for gpu in plan.gpus):
            return plan
    return None


def _offered_tok_s(problem: PlacementProblem) -> NDArray[np.float64]:
    workload = problem.workload
    return workload.rate_rps * (workload.input_tokens_mean + workload.output_tokens_mean)


def _capacity_tok_s(problem: PlacementProblem, rank: int) -> float:
    """Return what one server with the usual slots of this rank does of the fleet's mixture, by formula."""
    slots = min(USUAL_MAX_LORAS, feasible_max_loras(problem.calibration, rank, problem.max_model_len))
    features, _ = features_of(aggregate(problem.workload), max(slots, 1), rank, problem.surrogate.calibration)
    return problem.workload.offered_tok_s / max(float(features[RHO]), 1e-9)


def _trusted(gpu: GpuPlan, problem: PlacementProblem) -> bool:
    predicted = gpu.predicted
    return (
        predicted.starvation_probability <= problem.starvation_risk
        and predicted.served_fraction >= problem.margins.min_served_fraction
    )


def _plan(problem: PlacementProblem, groups: Groups, slots: list[int]) -> Plan:
    """Return the plan of these groups with at most so many slots each, None where one cannot start."""
    gpus = [
        _gpu(problem, gpu, rows, most) for gpu, (rows, most) in enumerate(zip(groups, slots, strict=True))
    ]
    if any(gpu is None for gpu in gpus):
        return None
    return Placement(
        gpus=tuple(gpu for gpu in gpus if gpu is not None),
        unplaced=(),
        lower_bound=load_bound(problem),
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
        head_room=head_room(features),
    )
