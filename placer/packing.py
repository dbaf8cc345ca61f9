"""`place`: the plan with the fewest GPUs among a few First-Fit-Decreasing packings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.features import NUM_AGGREGATES, NUM_FEATURES
from models.surrogate import Prediction
from placer import bounds, limits
from placer.explain import binding_constraint
from placer.kernels import packing as kernel
from placer.kernels.best_case import utilisation_of_each
from placer.placement import GpuPlan, Placement, Unplaced, UnplacedCode
from placer.ranks import slot_rank_classes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from placer.problem import PlacementProblem


class Variant(NamedTuple):
    """One way to pack.

    Attributes
    ----------
    name
        For reports.
    ranks_descend
        Whether larger slot ranks come before heavier adapters.
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
    """A problem as the kernel reads it; shapes as in `placer.kernels.packing.pack`."""

    rank_class: NDArray[np.int64]
    traffic: NDArray[np.float64]
    demands: NDArray[np.float64]
    cost: NDArray[np.float64]
    best_case: bounds.BestCase
    slot_ranks: NDArray[np.int64]
    ladders: NDArray[np.int64]
    candidates: NDArray[np.int64]
    max_adapters: int
    max_gpus: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packing:
    """What one run of the kernel found.

    Attributes
    ----------
    gpu_of
        (num_adapters,) int64: each adapter's GPU, or a negative code of the kernel.
    order
        (k,) int64, rows in the order of placing.
    max_loras, max_lora_rank
        (num_gpus,) int64.
    features
        (num_gpus, NUM_FEATURES) float32.
    predicted
        (num_gpus, 5) float64: served fraction, starvation probability, ITL, TTFT, offered tokens.
    """

    gpu_of: NDArray[np.int64]
    order: NDArray[np.int64]
    max_loras: NDArray[np.int64]
    max_lora_rank: NDArray[np.int64]
    features: NDArray[np.float32]
    predicted: NDArray[np.float64]

    @property
    def quality(self) -> tuple[int, int, float]:
        """Smaller is better: adapters without a GPU, GPUs, the largest starvation probability."""
        riskiest = float(self.predicted[:, 1].max(initial=0.0))
        return int((self.gpu_of < 0).sum()), len(self.max_loras), riskiest


def place(problem: PlacementProblem) -> Placement:
    """Return the plan with the fewest GPUs that was found; every adapter is in it or in `unplaced`.

    A GPU is accepted when its server starts (`twin.memory`), it holds no more adapters than the
    surrogate was trained for, its best-case utilisation (`placer.bounds`) is at most 1, its load and
    slots suffice by formula (rho <= 1.05, and slots for the adapters with a request running), and the
    surrogate serves 0.95 of it with a starvation probability of at most `starvation_risk`.
    Deterministic: no clock, no random numbers.
    """
    tables = build_tables(problem)
    best = min(packings(problem, tables), key=lambda packing: packing.quality)
    return Placement(
        gpus=tuple(_gpu_plans(best)),
        unplaced=tuple(_unplaced(problem, tables, best)),
        lower_bound=bounds.lower_bound(problem),
    )


def packings(problem: PlacementProblem, tables: Tables) -> Iterator[Packing]:
    """Yield the packing of every variant that can differ, ending with one that reaches the bound."""
    mixed = len(np.unique(tables.rank_class[tables.candidates])) > 1
    bound = bounds.lower_bound(problem)
    for variant in VARIANTS if mixed else VARIANTS[:1]:
        packing = run(problem, tables, variant)
        yield packing
        if packing.quality[:2] <= (0, bound):
            return


def build_tables(problem: PlacementProblem) -> Tables:
    """Return the problem as arrays; adapters whose mean request is too long are no candidates."""
    workload = problem.workload
    demands, best_case = bounds.adapter_demands(problem), bounds.best_case(problem)
    traffic = np.stack(
        [
            workload.rank.astype(np.float64),
            workload.rate_rps,
            workload.input_tokens_mean,
            workload.output_tokens_mean,
            workload.input_tokens_cv,
            workload.output_tokens_cv,
            workload.arrival_cv,
        ],
        axis=1,
    )
    request_tokens = workload.input_tokens_mean + workload.output_tokens_mean
    candidates = np.flatnonzero(request_tokens <= problem.longest_request_tokens)
    max_gpus = len(candidates) if problem.max_gpus is None else min(problem.max_gpus, len(candidates))
    return Tables(
        rank_class=slot_rank_classes(workload.rank),
        traffic=np.ascontiguousarray(traffic),
        demands=demands,
        cost=utilisation_of_each(*best_case, demands),
        best_case=best_case,
        slot_ranks=np.array(limits.usable_slot_ranks(problem), dtype=np.int64),
        ladders=limits.max_loras_ladders(problem),
        candidates=candidates,
        max_adapters=limits.max_adapters_per_gpu(problem),
        max_gpus=max_gpus,
    )


def placing_order(tables: Tables, variant: Variant) -> NDArray[np.int64]:
    """Return the candidates by descending cost (after rank where the variant says so), ties by row."""
    rows = tables.candidates
    rank_class = tables.rank_class[rows] if variant.ranks_descend else np.zeros(len(rows), dtype=np.int64)
    return rows[np.lexsort((-tables.cost[rows], -rank_class))]


def run(problem: PlacementProblem, tables: Tables, variant: Variant) -> Packing:
    """Pack once and choose every GPU's final `max_loras`."""
    order = placing_order(tables, variant)
    size = tables.max_gpus
    gpu_of = np.full(problem.workload.num_adapters, kernel.NO_GPU_LEFT, dtype=np.int64)
    gpu_class, gpu_choice, gpu_count = (np.zeros(size, dtype=np.int64) for _ in range(3))
    aggregates = np.zeros((size, NUM_AGGREGATES))
    surrogate = problem.surrogate.kernel_args()
    num_gpus = kernel.pack(
        order,
        tables.rank_class,
        tables.traffic,
        tables.demands,
        tables.cost,
        tables.best_case,
        tables.slot_ranks,
        tables.ladders,
        surrogate,
        problem.starvation_risk,
        tables.max_adapters,
        variant.segregated,
        gpu_of,
        gpu_class,
        gpu_choice,
        gpu_count,
        aggregates,
        np.empty(NUM_FEATURES, dtype=np.float32),
    )
    used = slice(0, num_gpus)
    features = np.empty((num_gpus, NUM_FEATURES), dtype=np.float32)
    predicted = np.empty((num_gpus, 5))
    kernel.finish(
        surrogate,
        aggregates[used],
        gpu_class[used],
        gpu_count[used],
        tables.slot_ranks,
        tables.ladders,
        problem.starvation_risk,
        gpu_choice[used],
        features,
        predicted,
    )
    assert gpu_count[used].sum() == (gpu_of >= 0).sum(), "every placed adapter is on one GPU"
    return Packing(
        gpu_of=gpu_of,
        order=order,
        max_loras=tables.ladders[gpu_class[used], gpu_choice[used]],
        max_lora_rank=tables.slot_ranks[gpu_class[used]],
        features=features,
        predicted=predicted,
    )


def _gpu_plans(packing: Packing) -> Iterator[GpuPlan]:
    gpu_of = packing.gpu_of[packing.order]
    by_gpu = np.argsort(gpu_of, kind="stable")  # keeps the order of placing inside a GPU
    starts = np.searchsorted(gpu_of[by_gpu], np.arange(len(packing.max_loras) + 1))
    for gpu in range(len(packing.max_loras)):
        rows = packing.order[by_gpu[starts[gpu] : starts[gpu + 1]]]
        rows.flags.writeable = False
        served, risk, itl_ms, ttft_ms, offered_tok_s = packing.predicted[gpu].tolist()
        yield GpuPlan(
            gpu=gpu,
            rows=rows,
            max_loras=int(packing.max_loras[gpu]),
            max_lora_rank=int(packing.max_lora_rank[gpu]),
            predicted=Prediction(
                throughput_tok_s=served * offered_tok_s,
                offered_tok_s=offered_tok_s,
                served_fraction=served,
                starvation_probability=risk,
                itl_ms=itl_ms,
                ttft_ms=ttft_ms,
            ),
            binding_constraint=binding_constraint(packing.features[gpu]),
        )


_CODES: dict[int, UnplacedCode] = {
    kernel.NO_GPU_LEFT: "max_gpus",
    kernel.STARVES_ALONE: "starvation_risk",
    kernel.OVERLOADS_ALONE: "overload",
    kernel.NO_MEMORY: "memory",
}


def _unplaced(problem: PlacementProblem, tables: Tables, packing: Packing) -> Iterator[Unplaced]:
    is_candidate = np.zeros(problem.workload.num_adapters, dtype=np.bool_)
    is_candidate[tables.candidates] = True
    for row in np.flatnonzero(packing.gpu_of < 0).tolist():
        code = _CODES[int(packing.gpu_of[row])] if is_candidate[row] else "request_too_long"
        yield Unplaced(row=row, code=code, reason=_reason(problem, tables, row, code))


def _reason(problem: PlacementProblem, tables: Tables, row: int, code: UnplacedCode) -> str:
    """Return one sentence with the numbers that decided."""
    workload = problem.workload
    slot = tables.slot_ranks[tables.rank_class[row]]
    if code == "request_too_long":
        tokens = workload.input_tokens_mean[row] + workload.output_tokens_mean[row]
        return f"its mean request has {tokens:g} tokens, a server takes {problem.longest_request_tokens}"
    if code == "memory":
        return (
            f"beside slots of rank {slot} no max_loras that the surrogate knows leaves room "
            f"for one request of {problem.longest_request_tokens} tokens"
        )
    if code == "overload":
        return f"it needs {tables.cost[row]:.3g} times what one GPU can do at best"
    if code == "starvation_risk":
        return (
            "alone on a GPU it starves, or with a probability above "
            f"{problem.starvation_risk:g}, with every max_loras that fits"
        )
    return f"all {problem.max_gpus} GPUs are full"
