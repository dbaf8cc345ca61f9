"""The packing rules once more, in plain Python: every trial is computed from its adapters, from nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from models.features import FEATURE_NAMES, adapter_terms, features_of
from models.kernels.features import NUM_SUMS
from placer import bounds, limits
from placer.kernels.best_case import best_case_utilisation
from placer.ranks import slot_rank
from twin.domain import ServerConfig

if TYPE_CHECKING:
    from placer.packing import Variant
    from placer.problem import PlacementProblem

MAX_RHO = 1.05
FEW_KV_REQUESTS = 80
MIN_SERVED_FRACTION = 0.95
MARGINS = ("rho", "slots_over_active", "kv_pressure", "kv_requests")
REACH = 3
FEW_SLOTS = 8
RETRY_BELOW = 0.8


@dataclass
class OracleGpu:
    """A GPU under construction."""

    rows: list[int]
    max_lora_rank: int
    max_loras: int
    refused: dict[int, float] = field(default_factory=dict)


class Oracle:
    """Asks the surrogate about any set of adapters, and packs with nothing else."""

    def __init__(self, problem: PlacementProblem) -> None:
        self.problem = problem
        self.terms = adapter_terms(problem.workload)
        self.demands = bounds.adapter_demands(problem)
        self.best_case = bounds.best_case(problem)
        ranks = limits.usable_slot_ranks(problem)
        rows = limits.max_loras_ladders(problem).tolist()
        self.ladders = {rank: [m for m in row if m] for rank, row in zip(ranks, rows, strict=True)}

    def slot_rank(self, rows) -> int:
        """The `max_lora_rank` that these adapters need."""
        return slot_rank(int(max(self.problem.workload.rank[row] for row in rows)))

    def utilisation(self, rows) -> float:
        """Best-case utilisation of a GPU with these adapters."""
        demand = np.zeros(4)
        for row in rows:
            demand += self.demands[row]
        return best_case_utilisation(*self.best_case, demand)

    def risk(self, rows, max_loras: int) -> float:
        """The starvation probability of a GPU with these adapters, added in this order; 2 for a sure no.

        The capacity by formula, slots for the adapters that are active, and the tree for throughput
        each have a veto.
        """
        aggregates = np.zeros(self.terms.shape[1])
        for row in rows:
            aggregates[:NUM_SUMS] += self.terms[row, :NUM_SUMS]
            aggregates[NUM_SUMS:] = np.maximum(aggregates[NUM_SUMS:], self.terms[row, NUM_SUMS:])
        server = ServerConfig(max_loras=max_loras, max_lora_rank=self.slot_rank(rows))
        predicted = self.problem.surrogate.predict_aggregates(aggregates, server)
        features, _ = features_of(
            aggregates, max_loras, server.max_lora_rank, self.problem.surrogate.calibration
        )
        rho, slots_over_active, kv_pressure, kv_requests = (
            features[FEATURE_NAMES.index(name)] for name in MARGINS
        )
        scarce = max_loras < len(rows) and slots_over_active < 1
        thrashes = kv_pressure * (1 + (FEW_KV_REQUESTS / kv_requests) ** 2) > 1
        if thrashes or rho > MAX_RHO or scarce or predicted.served_fraction < MIN_SERVED_FRACTION:
            return 2.0
        return predicted.starvation_probability

    def choices(self, rows) -> list[int]:
        """Values of `max_loras` worth a trial for these adapters."""
        ladder = self.ladders[self.slot_rank(rows)]
        wanted = max(len(rows), FEW_SLOTS)
        enough = next((k for k, max_loras in enumerate(ladder) if max_loras >= wanted), len(ladder) - 1)
        return ladder[: enough + 1]

    def accepts(self, rows, max_loras: int) -> bool:
        """Whether a GPU with these adapters and flags obeys every rule."""
        return (
            max_loras in self.ladders[self.slot_rank(rows)]
            and len(rows) <= limits.max_adapters_per_gpu(self.problem)
            and self.utilisation(rows) <= 1
            and self.risk(rows, max_loras) <= self.problem.starvation_risk
        )

    def fits(self, rows) -> bool:
        """Whether one GPU carries these adapters with some `max_loras`."""
        return any(self.accepts(rows, max_loras) for max_loras in self.choices(rows))

    def pack(self, variant: Variant) -> list[OracleGpu]:
        """The GPUs of one variant, in the order they were opened."""
        gpus: list[OracleGpu] = []
        for row in self.order(variant):
            if not any(self.join(gpu, row, variant) for gpu in gpus):
                self.open(gpus, row)
        return gpus

    def order(self, variant: Variant) -> list[int]:
        workload = self.problem.workload
        longest = self.problem.longest_request_tokens
        lengths = workload.input_tokens_mean + workload.output_tokens_mean
        rows = [row for row in range(workload.num_adapters) if lengths[row] <= longest]

        def key(row):
            rank = self.slot_rank([row]) if variant.ranks_descend else 0
            return -rank, -self.utilisation([row]), row

        return sorted(rows, key=key)

    def join(self, gpu: OracleGpu, row: int, variant: Variant) -> bool:
        rows = [*gpu.rows, row]
        rank, cost = self.slot_rank(rows), self.utilisation([row])
        if variant.segregated and self.slot_rank([row]) != gpu.max_lora_rank:
            return False
        if len(rows) > limits.max_adapters_per_gpu(self.problem) or cost >= gpu.refused.get(rank, np.inf):
            return False
        if self.utilisation(rows) > 1:
            return False
        choices = self.choices(rows)
        present = min(sum(m < gpu.max_loras for m in self.ladders[gpu.max_lora_rank]), len(choices) - 1)
        near = sorted(range(len(choices)), key=lambda k: (abs(k - present), -k))
        for k in near:
            if abs(k - present) <= REACH and self.accepts(rows, choices[k]):
                gpu.rows, gpu.max_lora_rank, gpu.max_loras = rows, rank, choices[k]
                return True
        gpu.refused[rank] = RETRY_BELOW * cost
        return False

    def open(self, gpus: list[OracleGpu], row: int) -> None:
        most = self.problem.max_gpus
        if (most is None or len(gpus) < most) and self.fits([row]):
            choices = self.choices([row])
            best = min(choices, key=lambda max_loras: self.risk([row], max_loras))
            gpus.append(OracleGpu(rows=[row], max_lora_rank=self.slot_rank([row]), max_loras=best))


def fewest_gpus(oracle: Oracle) -> int:
    """The fewest GPUs over all partitions of a handful of adapters; 0 where none obeys the rules."""
    count = oracle.problem.workload.num_adapters
    best = [0]

    def extend(row: int, groups: list[list[int]]) -> None:
        if best[0] and len(groups) >= best[0]:
            return
        if row == count:
            if all(oracle.fits(group) for group in groups):
                best[0] = len(groups)
            return
        for group in groups:
            group.append(row)
            extend(row + 1, groups)
            group.pop()
        extend(row + 1, [*groups, [row]])

    extend(0, [])
    return best[0]
