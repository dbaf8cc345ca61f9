"""The scenarios that surrogates learn from: who sends what to one server, and with which flags.

Rows come in groups of `GROUP_SIZE`: one mix of adapters under several slot counts and loads. Each row
has random numbers of its own, so row `i` is the same whatever else is generated. The traits that matter
most (adapters, lengths, skew; slots, load) fill their ranges evenly, by additive recurrences; the others
are drawn. Loads are given as load over capacity (rho) or as slots over adapters with a request running.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from models.features import adapter_terms, calibration_vector, features_of, total
from models.kernels import features as kernel
from twin.domain import ServerConfig, Workload
from twin.memory import feasible_max_loras

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from twin.domain import Calibration

GROUP_SIZE = 4
"""Rows that share a mix of adapters; training never splits a group."""

RANKS = (8, 16, 32, 64, 128, 256, 320)
"""Values that vLLM takes for `--max-lora-rank`, those usual for adapters among them."""

MAX_REQUESTS = 600_000
"""A scenario that would send more in its window is drawn again: it would cost seconds to simulate."""

MIN_RHO = 0.02
MAX_RHO = 3.0
"""Highest load over capacity: what a client with a bounded number of open requests can hold up."""

MAX_ADAPTERS = 2000
SHORTEST_TOKENS, LONGEST_TOKENS = 16.0, 8000.0
LONGEST_ANSWER_TOKENS = 3000.0

MAX_DRAWS = 40
SCALE_STEPS = 5
SLOTS_SEARCH_WIDTH = 6.0
SLOTS_SEARCH_STEPS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row of a data set before it is simulated; rows of a group share a mix of adapters."""

    row: int
    group: int
    workload: Workload
    server: ServerConfig
    simulation_seed: int


def scenario(calibration: Calibration, seed: int, row: int, *, max_adapters: int = MAX_ADAPTERS) -> Scenario:
    """Return row `row` of the design with this seed; same arguments, same scenario.

    Parameters
    ----------
    calibration
        Ranks and slots stay within what it knows and what fits in memory.
    seed, row
        Together the seed of the row's random numbers, each >= 0.
    max_adapters
        Adapters on the server at most.
    """
    max_lora_rank, mix = _mix_of_group(seed, row // GROUP_SIZE, calibration.max_known_rank, max_adapters)
    of_row = np.random.default_rng([seed, row, 1])
    simulation_seed = int(of_row.integers(2**31))
    vector = calibration_vector(calibration)
    slots_level, load_level = levels(seed, row, 2)
    server, scale = _draw_server(calibration, of_row, slots_level, max_lora_rank), 0.0
    for _ in range(MAX_DRAWS):
        scale = _draw_scale(of_row, load_level, mix, server, vector)
        if scale * mix.rate_rps.sum() * vector[kernel.HORIZON_S] <= MAX_REQUESTS:
            break
        slots_level, load_level = of_row.uniform(size=2)
        server = _draw_server(calibration, of_row, slots_level, max_lora_rank)
    else:
        scale = MAX_REQUESTS / (mix.rate_rps.sum() * vector[kernel.HORIZON_S])
    workload = replace(mix, rate_rps=mix.rate_rps * scale)
    return Scenario(
        row=row, group=row // GROUP_SIZE, workload=workload, server=server, simulation_seed=simulation_seed
    )


@lru_cache(maxsize=1)
def _mix_of_group(seed: int, group: int, max_known_rank: int, max_adapters: int) -> tuple[int, Workload]:
    """Return a group's `max_lora_rank` and mix; its rows follow each other, so the last one is kept."""
    of_group = np.random.default_rng([seed, group, 0])
    max_lora_rank = _draw_rank(max_known_rank, of_group)
    level = levels(seed, group, NUM_MIX_LEVELS)
    return max_lora_rank, _draw_mix(of_group, level, max_lora_rank, max_adapters)


NUM_MIX_LEVELS = 4
"""Adapters, prompt tokens, output tokens, skew."""


def levels(seed: int, index: int, count: int) -> NDArray[np.float64]:
    """Return point `index` of an additive recurrence that fills the unit cube evenly, (count,) float64.

    Its steps are the powers of the root of ``x**(count + 1) = x + 1`` (the golden ratio for one
    dimension), which leaves no part of the cube empty for long; the seed shifts all points alike.
    """
    root = 2.0
    for _ in range(64):
        root = (1.0 + root) ** (1.0 / (count + 1))
    start = np.random.default_rng([seed, count, 2]).uniform(size=count)
    return (start + (index + 1) * root ** -np.arange(1.0, count + 1)) % 1.0


SHORT_MODEL_LEN = 16_384
"""The `max_model_len` of servers that trade long requests for KV cache and slots."""

USUAL_SLOTS = (8, 16, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384)
"""Values of `max_loras` that people set."""

ODDS = {
    "slots": {"any": 0.5, "usual": 0.5},
    "model_len": {"own": 5 / 6, "short": 1 / 6},
    "cv": {"sharegpt": 0.7, "given": 0.3},
    "arrivals": {"poisson": 0.7, "one_law": 0.15, "own_laws": 0.15},
    "ranks": {"mixed": 0.7, "equal": 0.3},
    "shares": {"three_rates": 0.35, "zipf": 0.30, "equal": 0.15, "log_normal": 0.20},
    "lengths": {"sharegpt": 0.3, "equal": 0.3, "spread": 0.4},
    "load": {"any": 0.6, "border": 0.2, "over": 0.2},
    "scarce_slots": {"capacity": 0.6, "slots": 0.4},
}
"""How often each kind of each trait is drawn."""


def _pick(rng: Generator, trait: str) -> str:
    """Return a kind of the trait, drawn with its odds."""
    kinds = list(ODDS[trait])
    return kinds[int(rng.choice(len(kinds), p=list(ODDS[trait].values())))]


def _between(level: float, low: float, high: float) -> float:
    """Return the value at a level in [0, 1] of a range that is even in logarithms."""
    return float(low * (high / low) ** level)


def _draw_rank(max_known_rank: int, rng: Generator) -> int:
    known = [rank for rank in RANKS if rank <= max_known_rank] or [max_known_rank]
    return int(rng.choice(known))


def _draw_server(calibration: Calibration, rng: Generator, level: float, max_lora_rank: int) -> ServerConfig:
    max_model_len = None
    if _pick(rng, "model_len") == "short":
        max_model_len = min(SHORT_MODEL_LEN, calibration.model.max_model_len)
    most = max(feasible_max_loras(calibration, max_lora_rank, max_model_len), 1)
    usual = [count for count in USUAL_SLOTS if count <= most]
    if usual and _pick(rng, "slots") == "usual":
        max_loras = usual[min(int(level * len(usual)), len(usual) - 1)]
    else:
        max_loras = round(_between(level, 1.0, most))
    return ServerConfig(max_loras=max_loras, max_lora_rank=max_lora_rank, max_model_len=max_model_len)


def _draw_mix(rng: Generator, level: NDArray[np.float64], max_lora_rank: int, max_adapters: int) -> Workload:
    """Return adapters whose rates sum to one request a second."""
    count = round(_between(level[0], 1.0, max_adapters))
    input_mean, output_mean = _draw_lengths(rng, level[1:3], count)
    input_cv, output_cv = _draw_length_cvs(rng, count)
    return Workload(
        base_model="any",
        gpu_type="any",
        adapter_ids=tuple(f"adapter-{row}" for row in range(count)),
        rank=_draw_ranks(rng, count, max_lora_rank),
        rate_rps=_draw_shares(rng, level[3], count),
        input_tokens_mean=input_mean,
        output_tokens_mean=output_mean,
        input_tokens_cv=input_cv,
        output_tokens_cv=output_cv,
        arrival_cv=_draw_arrival_cvs(rng, count),
    )


def _draw_length_cvs(rng: Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if _pick(rng, "cv") == "sharegpt":
        return np.full(count, math.nan), np.full(count, math.nan)
    low, high = np.sort(rng.uniform(0.1, 1.8, size=(2, 2)), axis=0)
    return rng.uniform(low[0], high[0], size=count), rng.uniform(low[1], high[1], size=count)


def _draw_arrival_cvs(rng: Generator, count: int) -> NDArray[np.float64]:
    kind = _pick(rng, "arrivals")
    if kind == "poisson":
        return np.ones(count)
    size = 1 if kind == "one_law" else count
    return np.broadcast_to(np.exp(rng.uniform(np.log(0.5), np.log(5.0), size=size)), count).copy()


def _draw_ranks(rng: Generator, count: int, max_lora_rank: int) -> NDArray[np.int32]:
    """Return ranks up to the server's, with at least one adapter that needs it."""
    pool = [rank for rank in RANKS if rank <= max_lora_rank]
    ranks = np.full(count, max_lora_rank, dtype=np.int32)
    if pool and _pick(rng, "ranks") == "mixed":
        ranks[1:] = rng.choice(pool, size=count - 1)
    return ranks


def _draw_shares(rng: Generator, level: float, count: int) -> NDArray[np.float64]:
    """Return each adapter's share of the requests."""
    kind = _pick(rng, "shares")
    if kind == "three_rates":
        ratios = 2.0 ** rng.integers(1, 7, size=2)
        shares = np.resize([1.0, ratios[0], ratios[0] * ratios[1]], count)
    elif kind == "zipf":
        shares = np.arange(1, count + 1, dtype=np.float64) ** -(0.2 + 1.8 * level)
    elif kind == "equal":
        shares = np.ones(count)
    else:
        shares = np.exp(rng.normal(0.0, 0.2 + 2.3 * level, size=count))
    rng.shuffle(shares)
    return shares / shares.sum()


def _draw_lengths(
    rng: Generator, level: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean prompt and output tokens of each adapter: ShareGPT's, one fleet's, or spread."""
    kind = _pick(rng, "lengths")
    if kind == "sharegpt":
        return np.full(count, 200.0 + 45.0 * level[0]), np.full(count, 180.0 + 35.0 * level[1])
    centre_in = _between(level[0], SHORTEST_TOKENS, LONGEST_TOKENS)
    centre_out = _between(level[1], SHORTEST_TOKENS, LONGEST_ANSWER_TOKENS)
    spread = 0.0 if kind == "equal" else rng.uniform(0.2, 1.2)
    inputs = centre_in * np.exp(rng.normal(0.0, spread, size=count))
    outputs = centre_out * np.exp(rng.normal(0.0, spread, size=count))
    inputs = np.clip(inputs, SHORTEST_TOKENS, LONGEST_TOKENS)
    return inputs, np.clip(outputs, SHORTEST_TOKENS, LONGEST_TOKENS)


def _draw_scale(
    rng: Generator, level: float, mix: Workload, server: ServerConfig, calibration: NDArray[np.float64]
) -> float:
    """Return the factor on the rates that gives the load drawn for the row."""
    rho = {
        "any": _between(level, MIN_RHO, MAX_RHO),
        "border": 0.6 + 0.7 * level,
        "over": 1.1 + (MAX_RHO - 1.1) * level,
    }[_pick(rng, "load")]
    scale = scale_for_rho(rho, mix, server, calibration)
    if mix.num_adapters > server.max_loras and _pick(rng, "scarce_slots") == "slots":
        most = scale * MAX_RHO / rho
        scale = _scale_for_slots(_between(level, 0.4, 2.5), most, mix, server, calibration)
    return scale


def _feature(
    column: int, scale: float, mix: Workload, server: ServerConfig, calibration: NDArray[np.float64]
) -> float:
    """Return one feature of a server whose adapters' rates are `scale` times those of the mix."""
    aggregates = total(adapter_terms(mix, mix.rate_rps * scale))
    row, _ = features_of(aggregates, server.max_loras, server.max_lora_rank, calibration)
    return float(row[column])


def scale_for_rho(rho: float, mix: Workload, server: ServerConfig, calibration: NDArray[np.float64]) -> float:
    """Return the factor on the rates at which load over capacity is `rho`: nearly proportional."""
    scale = 1.0
    for _ in range(SCALE_STEPS):
        scale *= rho / _feature(kernel.RHO, scale, mix, server, calibration)
    return scale


def _scale_for_slots(
    slots_over_active: float,
    most: float,
    mix: Workload,
    server: ServerConfig,
    calibration: NDArray[np.float64],
) -> float:
    """Return the factor on the rates, at most `most`, at which slots over active adapters is given."""
    low, high = np.log(most) - SLOTS_SEARCH_WIDTH, np.log(most)
    if _feature(kernel.SLOTS_OVER_ACTIVE, most, mix, server, calibration) > slots_over_active:
        return most
    for _ in range(SLOTS_SEARCH_STEPS):
        middle = 0.5 * (low + high)
        scale = float(np.exp(middle))
        if _feature(kernel.SLOTS_OVER_ACTIVE, scale, mix, server, calibration) > slots_over_active:
            low = middle
        else:
            high = middle
    return float(np.exp(low))
