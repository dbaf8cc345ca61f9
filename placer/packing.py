"""`place`: the plan with the fewest GPUs that a few packings and a search find."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.features import NUM_FEATURES, traffic_columns
from models.kernels.features import MIN_RATE_RPS
from models.surrogate import Prediction
from placer import bounds, limits
from placer.explain import binding_constraint, head_room
from placer.improvement import search
from placer.kernels import packing as kernel
from placer.kernels.acceptance import Oracle, best_choice
from placer.kernels.balancing import balance
from placer.kernels.best_case import utilisation_of_each
from placer.kernels.rates import NUM_STATE, rate_factor
from placer.latency import shortest_requests
from placer.placement import GpuPlan, Placement, Unplaced, UnplacedCode
from placer.ranks import slot_rank_classes
from placer.risk import rate_z, risk_allowance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from placer.problem import PlacementProblem


class Variant(NamedTuple):
    """One way to pack.

    Attributes
    ----------
    name
        For reports.
    ranks_descend
        Whether larger slot ranks come before larger loads.
    segregated
        Whether a GPU holds adapters of one slot rank only: a single adapter of a high rank taxes
        every slot of its GPU.
    """

    name: str
    ranks_descend: bool
    segregated: bool


VARIANTS = (
    Variant("ranks-descending", ranks_descend=True, segregated=False),
    Variant("rank-segregated", ranks_descend=False, segregated=True),
    Variant("rank-mixed", ranks_descend=False, segregated=False),
)
"""In the order they are tried, the one that is best most often first; with one slot rank all are it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tables:
    """A problem as the kernels read it.

    Attributes
    ----------
    oracle, items
        What decides, and what is placed.
    candidates
        (k,) int64, rows whose mean request a server takes.
    max_gpus
        GPUs at most.
    bounds
        Lower bounds from coarse shares.
    """

    oracle: Oracle
    items: kernel.Items
    candidates: NDArray[np.int64]
    max_gpus: int
    bounds: bounds.LowerBounds


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packing:
    """GPUs and their adapters, before the last choice of `max_loras`."""

    fleet: kernel.Fleet
    num_gpus: int

    @property
    def quality(self) -> tuple[int, int]:
        """Smaller is better: adapters without a GPU, GPUs."""
        return int((self.fleet.gpu_of < 0).sum()), self.num_gpus


def place(problem: PlacementProblem) -> Placement:
    """Return the best plan that was found; every adapter is in it or in `unplaced`.

    ``min_gpus``: the fewest GPUs. ``min_latency``: see `placer.latency`.

    A GPU is accepted when its server starts (`twin.memory`), it keeps the margins of
    `placer.margins`, and its probability of starvation is at most its allowance of
    `starvation_risk` (`risk_allowance`). Deterministic: no clock, no random numbers but seeded ones.
    With `num_trials` 0 it is the first packing, and the bound is that of load and count alone.
    """
    tables = build_tables(problem)
    return finished(problem, tables, first_packing(problem, tables))


def first_packing(problem: PlacementProblem, tables: Tables) -> Packing:
    """Return a packing before any search; which adapters it leaves without a GPU, no search changes."""
    if problem.objective == "min_latency":
        fleet = empty_fleet(len(tables.items.share), tables.max_gpus)
        used = shortest_requests(tables.oracle, tables.items, tables.candidates, fleet)
        return Packing(fleet=fleet, num_gpus=used)
    if problem.num_trials == 0:
        return run(tables, VARIANTS[0])
    return min(packings(tables), key=lambda packing: packing.quality)


def finished(problem: PlacementProblem, tables: Tables, packing: Packing) -> Placement:
    """Return the plan of a first packing, searched for fewer GPUs where the bound leaves room for it."""
    found = tables.bounds
    searches = problem.objective == "min_gpus" and problem.num_trials > 0
    if searches and packing.quality > (0, found.best):
        found = bounds.tightened(problem, found, packing.num_gpus)
        packing = balanced_over_fewer(tables, packing, found.best)
        packing = improved(tables, packing, found.best, problem.num_trials)
    return assemble(problem, tables, packing, found)


def packings(tables: Tables) -> Iterator[Packing]:
    """Yield the packing of every variant that can differ, ending with one that reaches the bound."""
    mixed = len(np.unique(tables.items.rank_class[tables.candidates])) > 1
    for variant in VARIANTS if mixed else VARIANTS[:1]:
        packing = run(tables, variant)
        yield packing
        if packing.quality <= (0, tables.bounds.best):
            return


def balanced_over_fewer(tables: Tables, packing: Packing, wanted: int) -> Packing:
    """Return the packing that spreads the load evenly over the fewest GPUs, while those are fewer.

    Filling one GPU after the other leaves little room that is the right one for the last adapters.
    """
    order = placing_order(tables, VARIANTS[0])
    order = order[packing.fleet.gpu_of[order] >= 0]
    while packing.num_gpus > max(wanted, 1):
        fleet = empty_fleet(len(tables.items.share), packing.num_gpus - 1)
        num_gpus = balance(tables.oracle, tables.items, order, fleet, np.empty(NUM_FEATURES, np.float32))
        if num_gpus < 0:
            break
        is_left_out = packing.fleet.gpu_of < 0
        fleet.gpu_of[is_left_out] = packing.fleet.gpu_of[is_left_out]
        packing = Packing(fleet=fleet, num_gpus=num_gpus)
    return packing


def improved(tables: Tables, packing: Packing, wanted: int, budget: int) -> Packing:
    """Return a packing with as many adapters placed and no more GPUs."""
    fleet, num_gpus = search(
        tables.oracle, tables.items, packing.fleet, packing.num_gpus, wanted=wanted, budget=budget
    )
    return Packing(fleet=fleet, num_gpus=num_gpus)


def compile_search(problem: PlacementProblem) -> None:
    """Run the search and the fine bound once, so that no later caller waits for the compiler."""
    tables = build_tables(problem)
    bounds.least_shares(problem, bounds.PROOFS[0])
    one_gpu = empty_fleet(len(tables.items.share), 1)
    balance(tables.oracle, tables.items, tables.candidates, one_gpu, np.empty(NUM_FEATURES, np.float32))
    improved(tables, run(tables, VARIANTS[0]), wanted=0, budget=1)


def build_tables(
    problem: PlacementProblem, also: Iterable[int] = (), *, spread_over: int | None = None
) -> Tables:
    """Return the problem as arrays; adapters whose mean request is too long are no candidates.

    Parameters
    ----------
    problem
        What is to be placed.
    also
        Values of `max_loras` to consider beside the ladder's: those of servers that run already.
    spread_over
        GPUs that the chance of rates above the planned ones is spread over; None is twice the lower
        bound, as a plan hardly has more.
    """
    workload = problem.workload
    shares = bounds.least_shares(problem) if problem.num_trials else np.zeros(workload.num_adapters)
    found = bounds.lower_bounds(problem, shares)
    utilisation, load_std = _loads(problem)
    request_tokens = workload.input_tokens_mean + workload.output_tokens_mean
    candidates = np.flatnonzero(request_tokens <= problem.longest_request_tokens)
    max_gpus = len(candidates) if problem.max_gpus is None else min(problem.max_gpus, len(candidates))
    return Tables(
        oracle=Oracle(
            surrogate=problem.surrogate.kernel_args(),
            margins=problem.kept_margins.vector,
            starvation_risk=risk_allowance(problem, found.best),
            rate_z=rate_z(problem, 2 * found.best if spread_over is None else spread_over),
            max_ttft_ms=math.inf if problem.max_ttft_ms is None else problem.max_ttft_ms,
            known_adapters=limits.known_adapters_per_gpu(problem),
            max_adapters=limits.max_adapters_per_gpu(problem),
            slot_ranks=np.array(limits.usable_slot_ranks(problem), dtype=np.int64),
            ladders=limits.max_loras_ladders(problem, also),
        ),
        items=kernel.Items(
            rank_class=slot_rank_classes(workload.rank),
            traffic=traffic_columns(workload),
            share=shares,
            utilisation=utilisation,
            load_std=load_std,
        ),
        candidates=candidates,
        max_gpus=max_gpus,
        bounds=found,
    )


def _loads(problem: PlacementProblem) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each adapter's best-case utilisation of a GPU, and its standard deviation."""
    workload, best_case = problem.workload, bounds.best_case(problem)
    utilisation = utilisation_of_each(*best_case, bounds.adapter_demands(problem))
    if not workload.has_uncertain_rates:
        return utilisation, np.zeros(workload.num_adapters)
    one_rps = replace(workload, rate_rps=np.ones(workload.num_adapters), rate_schedules=())
    each_rps = utilisation_of_each(*best_case, bounds.adapter_demands(replace(problem, workload=one_rps)))
    # Smaller rates count as this one wherever the surrogate reads them.
    return np.maximum(utilisation, MIN_RATE_RPS * each_rps), each_rps * workload.rate_rps_std


def placing_order(tables: Tables, variant: Variant) -> NDArray[np.int64]:
    """Return the candidates by descending load (after rank where the variant says so), ties by row."""
    rows = tables.candidates
    rank_class = tables.items.rank_class[rows] if variant.ranks_descend else np.zeros(len(rows), np.int64)
    return rows[np.lexsort((-tables.items.utilisation[rows], -rank_class))]


def empty_fleet(num_adapters: int, max_gpus: int) -> kernel.Fleet:
    """Return GPUs without adapters."""
    rank_class, choice, count = (np.zeros(max_gpus, dtype=np.int64) for _ in range(3))
    return kernel.Fleet(
        gpu_of=np.full(num_adapters, kernel.NO_GPU_LEFT, dtype=np.int64),
        rank_class=rank_class,
        choice=choice,
        count=count,
        share=np.zeros(max_gpus),
        aggregates=np.zeros((max_gpus, NUM_STATE)),
    )


def run(tables: Tables, variant: Variant) -> Packing:
    """Pack once."""
    # Few fleets need more; the rest of the room is made when it turns out to be needed.
    size = min(tables.max_gpus, 2 * tables.bounds.best + 8)
    while True:
        fleet = empty_fleet(len(tables.items.share), size)
        num_gpus = kernel.pack(
            tables.oracle,
            tables.items,
            placing_order(tables, variant),
            variant.segregated,
            0,
            fleet,
            np.empty(NUM_FEATURES, dtype=np.float32),
        )
        if size == tables.max_gpus or not (fleet.gpu_of[tables.candidates] == kernel.NO_GPU_LEFT).any():
            break
        size = min(tables.max_gpus, 4 * size)
    assert fleet.count[:num_gpus].sum() == (fleet.gpu_of >= 0).sum(), "every placed adapter is on one GPU"
    return Packing(fleet=fleet, num_gpus=num_gpus)


def assemble(
    problem: PlacementProblem,
    tables: Tables,
    packing: Packing,
    found: bounds.LowerBounds,
    *,
    choose: bool = True,
) -> Placement:
    """Return the placement of a packing, with the final `max_loras` of every GPU, or with the present."""
    fleet, num_gpus = packing.fleet, packing.num_gpus
    order = np.lexsort((-tables.items.utilisation, fleet.gpu_of))  # heaviest first on each GPU
    starts = np.searchsorted(fleet.gpu_of[order], np.arange(num_gpus + 1))
    kernel.restate(tables.items, order, starts, fleet)
    features = np.empty((num_gpus, NUM_FEATURES), dtype=np.float32)
    predicted = np.empty((num_gpus, 5))
    if choose:
        kernel.choose(tables.oracle, fleet, num_gpus, np.empty(NUM_FEATURES, dtype=np.float32))
    kernel.describe(tables.oracle, fleet, num_gpus, features, predicted)
    rows = np.split(order[starts[0] :], starts[1:-1] - starts[0]) if num_gpus else []
    return Placement(
        rate_z=tables.oracle.rate_z,
        gpus=tuple(
            _gpu_plan(tables, fleet, gpu, rows[gpu], (features[gpu], predicted[gpu]), problem)
            for gpu in range(num_gpus)
        ),
        unplaced=tuple(unplaced_of(problem, tables, packing)),
        lower_bound=found.best,
        bound_rests_on=found.rests_on,
    )


def _gpu_plan(
    tables: Tables,
    fleet: kernel.Fleet,
    gpu: int,
    rows: NDArray[np.int64],
    seen: tuple[NDArray[np.float32], NDArray[np.float64]],
    problem: PlacementProblem,
) -> GpuPlan:
    """Return one GPU with the features and predictions that `describe` wrote."""
    rows.flags.writeable = False
    features, predicted = seen
    rank_class, oracle = fleet.rank_class[gpu], tables.oracle
    return GpuPlan(
        gpu=gpu,
        rows=rows,
        max_loras=int(oracle.ladders[rank_class, fleet.choice[gpu]]),
        max_lora_rank=int(oracle.slot_ranks[rank_class]),
        predicted=prediction(predicted, problem.surrogate.out_of_range(features)),
        binding_constraint=binding_constraint(features, problem.kept_margins),
        head_room=head_room(features, problem.kept_margins),
        load_margin=rate_factor(fleet.aggregates[gpu], oracle.rate_z) - 1.0,
    )


def prediction(row: NDArray[np.float64], out_of_range: tuple[str, ...] = ()) -> Prediction:
    """Return the prediction that `evaluate_all` wrote as a row, for features that leave the trained range."""
    served, risk, itl_ms, ttft_ms, offered_tok_s = row.tolist()
    return Prediction(
        throughput_tok_s=served * offered_tok_s,
        offered_tok_s=offered_tok_s,
        served_fraction=served,
        starvation_probability=risk,
        itl_ms=itl_ms,
        ttft_ms=ttft_ms,
        out_of_range=out_of_range,
    )


_CODES: dict[int, UnplacedCode] = {
    kernel.NO_GPU_LEFT: "max_gpus",
    kernel.STARVES_ALONE: "starvation_risk",
    kernel.OVERLOADS_ALONE: "overload",
    kernel.NO_MEMORY: "memory",
}


def code_of(code: UnplacedCode) -> int:
    """Return the kernel's number for why an adapter has no GPU."""
    return next((number for number, name in _CODES.items() if name == code), kernel.NO_GPU_LEFT)


def with_bound_of(placement: Placement, other: Placement) -> Placement:
    """Return a placement with the lower bound of another one for the same problem."""
    return replace(placement, lower_bound=other.lower_bound, bound_rests_on=other.bound_rests_on)


def unplaced_of(problem: PlacementProblem, tables: Tables, packing: Packing) -> Iterator[Unplaced]:
    """Yield each adapter without a GPU, and why."""
    is_candidate = np.zeros(problem.workload.num_adapters, dtype=np.bool_)
    is_candidate[tables.candidates] = True
    for row in np.flatnonzero(packing.fleet.gpu_of < 0).tolist():
        code = _CODES[int(packing.fleet.gpu_of[row])] if is_candidate[row] else "request_too_long"
        if (
            code == "starvation_risk"
            and problem.max_ttft_ms is not None
            and not _starves(problem, tables, row)
        ):
            code = "max_ttft_ms"
        yield Unplaced(row=row, code=code, reason=_reason(problem, tables, row, code))


def _starves(problem: PlacementProblem, tables: Tables, row: int) -> bool:
    """Tell whether an adapter would starve alone on a GPU, were its TTFT not limited."""
    oracle = tables.oracle._replace(margins=problem.margins.vector, max_ttft_ms=math.inf)
    terms = np.empty(NUM_STATE)
    kernel.terms_of(tables.items, row, terms)
    _, risk = best_choice(oracle, terms, tables.items.rank_class[row], np.empty(NUM_FEATURES, np.float32))
    return bool(risk > oracle.starvation_risk)


def _reason(problem: PlacementProblem, tables: Tables, row: int, code: UnplacedCode) -> str:
    """Return one sentence with the numbers that decided."""
    workload = problem.workload
    slot = tables.oracle.slot_ranks[tables.items.rank_class[row]]
    if code == "request_too_long":
        tokens = workload.input_tokens_mean[row] + workload.output_tokens_mean[row]
        return f"its mean request has {tokens:g} tokens, a server takes {problem.longest_request_tokens}"
    if code == "memory":
        return (
            f"beside slots of rank {slot} no max_loras that the surrogate knows leaves room "
            f"for one request of {problem.longest_request_tokens} tokens"
        )
    if code == "overload":
        return f"it needs {tables.items.utilisation[row]:.3g} times what one GPU can do at best"
    if code == "starvation_risk":
        return (
            "alone on a GPU it starves, or with a probability above "
            f"{tables.oracle.starvation_risk:.3g}, with every max_loras that fits"
        )
    if code == "max_ttft_ms":
        return (
            f"alone on a GPU it waits longer than {problem.max_ttft_ms:g} ms for its first token, or leaves "
            "too little room to tell, with every max_loras that fits"
        )
    return f"all {tables.max_gpus if problem.max_gpus is None else problem.max_gpus} GPUs are full"
