"""The packing rules once more, in plain Python: every trial is computed from its adapters, from nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from models.features import FEATURE_NAMES, adapter_terms, features_of
from models.kernels.features import (
    ACTIVE,
    ACTIVE_TAU_0,
    COUNT,
    MAX_RANK,
    NUM_ACTIVE,
    NUM_SUMS,
    RANK,
    RATE_IN,
    RATE_OUT,
    RATE_SQUARED,
    TOKENS_SQUARED,
    expected_active,
)
from placer import bounds, limits
from placer.kernels.best_case import best_case_utilisation
from placer.ranks import slot_rank
from placer.risk import rate_z, risk_allowance
from twin.domain import ServerConfig
from twin.kernels.latency import GRAPH_TOKENS, scheduler_us, step_ms
from twin.latency import scheduler_coefficients, step_coefficients

if TYPE_CHECKING:
    from placer.packing import Variant
    from placer.problem import PlacementProblem

ASKED = (
    "rho",
    "slots_over_active",
    "slots_over_hot",
    "kv_pressure",
    "kv_requests",
    "batch",
    "context_tokens",
)
REACH = 3
FEW_SLOTS = 8
SPARE_SLOTS = 1.25
RETRY_BELOW = 0.8
MAX_UNSETTLED = 1.015
MAX_TREE_RISK = 0.5


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
        self.margins = problem.margins
        self.max_ttft_ms = math.inf
        if problem.max_ttft_ms is not None:
            self.max_ttft_ms = problem.max_ttft_ms
            self.margins = replace(
                problem.margins,
                max_rho=min(problem.margins.max_rho, 0.95),
                max_kv_pressure=min(problem.margins.max_kv_pressure, 0.95),
                min_slots_over_active=max(problem.margins.min_slots_over_active, 1.25),
            )
        self.shares = bounds.least_shares(problem)
        bound = bounds.lower_bounds(problem, self.shares).best
        self.risk_limit = risk_allowance(problem, bound)
        self.rate_z = rate_z(problem, 2 * bound)
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

    def load_factor(self, rows) -> float:
        """What all rates of a GPU are multiplied by: mean load plus z standard deviations, over the mean."""
        workload = self.problem.workload
        loads = [self.utilisation([row]) for row in rows]
        errors = [workload.rate_rps_std[row] / workload.rate_rps[row] for row in rows]
        variance = sum((load * error) ** 2 for load, error in zip(loads, errors, strict=True))
        return 1 + self.rate_z * math.sqrt(variance) / sum(loads) if variance else 1.0

    def risk(self, rows, max_loras: int) -> float:
        """The starvation probability of a GPU with these adapters, added in this order; 2 for a sure no.

        Where rates are uncertain it is asked for at the mean and with all rates raised.
        """
        factor = self.load_factor(rows)
        risks = [self.risk_at(rows, max_loras, each) for each in ((1.0, factor) if factor > 1 else (1.0,))]
        return max(risks)

    def risk_at(self, rows, max_loras: int, factor: float) -> float:
        """The starvation probability with all rates multiplied, 2 for a sure no.

        The capacity by formula, the KV cache's margin, slots for the adapters that are active, the limit
        of TTFT, and both trees each have a veto.
        """
        aggregates = np.zeros(self.terms.shape[1])
        for row in rows:
            aggregates[:NUM_SUMS] += self.terms[row, :NUM_SUMS]
            aggregates[NUM_SUMS:] = np.maximum(aggregates[NUM_SUMS:], self.terms[row, NUM_SUMS:])
        if factor > 1:
            aggregates = with_higher_rates(aggregates, factor)
        server = ServerConfig(max_loras=max_loras, max_lora_rank=self.slot_rank(rows))
        predicted = self.problem.surrogate.predict_aggregates(aggregates, server)
        features, _ = features_of(
            aggregates, max_loras, server.max_lora_rank, self.problem.surrogate.calibration
        )
        asked = {name: features[FEATURE_NAMES.index(name)] for name in ASKED}
        is_loud = self.loud(asked, shares_slots=max_loras < len(rows))
        refused = (
            predicted.starvation_probability > MAX_TREE_RISK
            or predicted.ttft_ms > self.max_ttft_ms
            or asked["rho"] > self.margins.max_rho
            or (predicted.served_fraction < self.margins.min_served_fraction and is_loud)
            or asked["kv_pressure"] * (1 + (self.margins.few_kv_requests / asked["kv_requests"]) ** 2)
            > self.margins.max_kv_pressure
            or (max_loras < len(rows) and self.short_of_slots(aggregates, asked, len(rows), server))
            or (len(rows) > limits.known_adapters_per_gpu(self.problem) and is_loud)
        )
        return 2.0 if refused else self.risk_share(rows, max_loras) * predicted.starvation_probability

    def risk_share(self, rows, max_loras: int) -> float:
        """Chance of starvation over what the tree says, of a GPU that keeps every margin."""
        has_slots = max_loras >= len(rows)
        return self.margins.risk_share_with_slots if has_slots else self.margins.risk_share

    def short_of_slots(self, aggregates, asked, count: int, server: ServerConfig) -> bool:
        """Whether active adapters outnumber the slots, or the batch that counts them is not settled."""
        if asked["slots_over_active"] < self.margins.min_slots_over_active:
            return True
        if asked["slots_over_hot"] < self.margins.min_slots_over_hot:
            return True
        calibration = self.problem.calibration
        active, running = server.max_loras / asked["slots_over_active"], asked["batch"] + 1.0
        prompt_tokens = running * aggregates[RATE_IN] / aggregates[RATE_OUT]
        # Steps about the largest CUDA graph: a share of them, growing with the mean, is beyond it.
        beyond = min(max((running + prompt_tokens) / GRAPH_TOKENS - 0.5, 0.0), 1.0)
        step = calibration.step.eager_ms * beyond + step_ms(
            step_coefficients(replace(calibration.step, eager_ms=0.0)),
            running,
            prompt_tokens,
            running * asked["context_tokens"],
            min(active + 1 - active / count, server.max_loras),
            server.max_lora_rank,
            server.max_loras,
        )
        step_s = 1e-3 * step + 1e-6 * scheduler_us(scheduler_coefficients(calibration.scheduler), running, 0)
        return bool(asked["rho"] < 1 and aggregates[RATE_OUT] * step_s > MAX_UNSETTLED * asked["batch"])

    def loud(self, asked, *, shares_slots: bool) -> bool:
        """Whether a GPU uses more than the quiet share of some limit."""
        quiet = self.margins.quiet_share
        few_slots = shares_slots and asked["slots_over_active"] * quiet < 1
        return asked["rho"] > quiet or asked["kv_pressure"] > quiet or few_slots

    def choices(self, rows) -> list[int]:
        """Values of `max_loras` worth a trial for these adapters."""
        ladder = self.ladders[self.slot_rank(rows)]
        wanted = max(SPARE_SLOTS * len(rows), FEW_SLOTS)
        enough = next((k for k, max_loras in enumerate(ladder) if max_loras >= wanted), len(ladder) - 1)
        return ladder[: enough + 1]

    def accepts(self, rows, max_loras: int) -> bool:
        """Whether a GPU with these adapters and flags obeys every rule."""
        return (
            max_loras in self.ladders[self.slot_rank(rows)]
            and len(rows) <= limits.max_adapters_per_gpu(self.problem)
            and self.risk(rows, max_loras) <= self.risk_limit
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
        rank, cost = self.slot_rank(rows), self.utilisation([row]) * self.load_factor([row])
        if variant.segregated and self.slot_rank([row]) != gpu.max_lora_rank:
            return False
        if len(rows) > limits.max_adapters_per_gpu(self.problem) or cost >= gpu.refused.get(rank, np.inf):
            return False
        if sum(self.shares[row] for row in rows) > 1 + 1e-9:
            return False
        choices = self.choices(rows)
        present = min(sum(m < gpu.max_loras for m in self.ladders[gpu.max_lora_rank]), len(choices) - 1)
        near = sorted(range(len(choices)), key=lambda k: (abs(k - present), -k))
        for k in near:
            reach = REACH if len(rows) <= limits.known_adapters_per_gpu(self.problem) else len(choices)
            if abs(k - present) <= reach and self.accepts(rows, choices[k]):
                gpu.rows, gpu.max_lora_rank, gpu.max_loras = rows, rank, choices[k]
                return True
        gpu.refused[rank] = RETRY_BELOW * cost
        return False

    def open(self, gpus: list[OracleGpu], row: int) -> None:
        most = self.problem.max_gpus
        if (most is None or len(gpus) < most) and self.utilisation([row]) <= 1 and self.fits([row]):
            choices = self.choices([row])
            best = min(choices, key=lambda max_loras: self.risk([row], max_loras))
            gpus.append(OracleGpu(rows=[row], max_lora_rank=self.slot_rank([row]), max_loras=best))


def with_higher_rates(aggregates, factor: float):
    """Sums of rates grow by the factor, of their squares by its square; activity is that of longer tau."""
    raised = aggregates * factor
    for kept in (COUNT, RANK, MAX_RANK):
        raised[kept] = aggregates[kept]
    for squared in (RATE_SQUARED, TOKENS_SQUARED):
        raised[squared] = aggregates[squared] * factor**2
    for k in range(NUM_ACTIVE):
        raised[ACTIVE + k] = expected_active(aggregates, factor * ACTIVE_TAU_0 * 2.0**k)
    return raised


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
