"""Families of workloads that plans are measured on; same family, seed and size, same workload."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from placer.errors import InvalidProblemError
from twin.domain import Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator
    from numpy.typing import NDArray

    from twin.domain import Calibration

RANKS = (8, 16, 32)
INPUT_TOKENS_MEAN = 223.0
"""ShareGPT's, as in the measured runs."""

OUTPUT_TOKENS_MEAN = 197.0

Columns = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]"]
"""Rates, mean prompt and mean answer of every adapter."""


def _zipf(rng: Generator, count: int) -> Columns:
    """A tenth of a request a second for each adapter on average, shared as 1 / place, 10 at most."""
    shares = 1.0 / np.arange(1, count + 1)
    rates = rng.permutation(0.1 * count * shares / shares.sum())
    # The first of many would alone be more than a GPU carries.
    return _of_sharegpt(np.minimum(rates, 10.0))


def _all_hot(rng: Generator, count: int) -> Columns:
    """Every adapter has requests running nearly always."""
    return _of_sharegpt(rng.uniform(0.5, 3.0, count))


def _all_cold(rng: Generator, count: int) -> Columns:
    """A request in minutes or hours."""
    return _of_sharegpt(10 ** rng.uniform(-4, -2, count))


def _mixed_lengths(rng: Generator, count: int) -> Columns:
    """Short questions, long documents, long answers; rates that bring about equal tokens."""
    prompts = 10 ** rng.uniform(1.5, 3.5, count)
    answers = 10 ** rng.uniform(1.0, 2.9, count)
    return 10 ** rng.uniform(1.2, 2.4, count) / (prompts + answers), prompts, answers


def _one_giant(rng: Generator, count: int) -> Columns:
    """One adapter takes most of a GPU, the others little."""
    rates = 10 ** rng.uniform(-3, -1, count)
    rates[rng.integers(count)] = 22.0
    return _of_sharegpt(rates)


SEED_PAPER_RATES = ((0.8, 0.4, 0.2), (1.6, 0.1, 0.00625), (0.4, 0.1, 0.025))
"""Triples of rates of the reference's workloads, dealt evenly over the adapters."""

SEED_PAPER_RANKS = ((8, 16), (8, 16, 32))


def _seed_paper(rng: Generator, count: int) -> Columns:
    """The reference's own: three rates, dealt evenly; which triple, the draw says."""
    triple = SEED_PAPER_RATES[int(rng.integers(len(SEED_PAPER_RATES)))]
    return _of_sharegpt(rng.permutation(np.resize(np.array(triple), count)))


def _of_sharegpt(rates: NDArray[np.float64]) -> Columns:
    return rates, np.full_like(rates, INPUT_TOKENS_MEAN), np.full_like(rates, OUTPUT_TOKENS_MEAN)


FAMILIES: dict[str, Callable[[Generator, int], Columns]] = {
    "zipf": _zipf,
    "all-hot": _all_hot,
    "all-cold": _all_cold,
    "mixed-lengths": _mixed_lengths,
    "one-giant": _one_giant,
    "seed-paper": _seed_paper,
}
"""Drawn families; `placer.trace_families` has those of published traces."""


def _ranks(family: str, seed: int) -> tuple[int, ...]:
    return SEED_PAPER_RANKS[seed % len(SEED_PAPER_RANKS)] if family == "seed-paper" else RANKS


def family_workload(family: str, seed: int, num_adapters: int, calibration: Calibration) -> Workload:
    """Return a workload of a family for the calibration's server.

    Raises
    ------
    InvalidProblemError
        Naming ``family`` where it is unknown.
    """
    if family not in FAMILIES:
        raise InvalidProblemError("family", f"must be one of {', '.join(FAMILIES)}, got {family!r}")
    rng = np.random.default_rng([seed, num_adapters, list(FAMILIES).index(family)])
    ranks = [rank for rank in _ranks(family, seed) if rank <= calibration.max_known_rank]
    rank = rng.choice(ranks, num_adapters)
    rates, prompts, answers = FAMILIES[family](rng, num_adapters)
    not_given = np.full(num_adapters, np.nan)
    return Workload(
        base_model=calibration.base_model,
        gpu_type=calibration.gpu_type,
        adapter_ids=tuple(f"adapter-{row}" for row in range(num_adapters)),
        rank=rank,
        rate_rps=rates,
        input_tokens_mean=prompts,
        output_tokens_mean=answers,
        input_tokens_cv=not_given,
        output_tokens_cv=not_given,
        arrival_cv=np.ones(num_adapters),
    )
