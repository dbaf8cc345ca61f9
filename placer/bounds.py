"""How few GPUs any plan could need: bounds that hold for every `max_loras` and every packing.

Load bound
----------
Adapter `i` with rate ``r``, prompt length ``p`` and ``d`` decode steps a request (generated tokens
less the first, which the prefill emits) asks of its GPU, each second, for ``r`` requests, ``r d``
decodes, ``r p`` prompt tokens, and ``r (d p + d (d + 1) / 2)`` tokens of context that its decodes
read. Call the sums over a GPU's adapters its demand X.

A step with a request in it has one adapter at least, on one slot at least. Let ``f(x)`` be the time
of such a step, Lat_model and Lat_sched together, with the work ``x`` in it. The step law is convex
in the work (linear, and one term that begins at a knee), so N steps that do X together take at least
``N f(X / N)``. A step holds at most `max_num_batched_tokens` tokens, `max_num_seqs` decodes and as
much context as the KV cache has beside one slot, which bounds N from below by ``n(X)``. Hence a GPU
is busy for at least ``G(X) = min over N >= n(X) of N f(X / N)``: its *best-case utilisation*, and no
plan of `placer.packing` holds a GPU where it is above 1. (In N the expression is convex with one
knee, so the minimum is at n(X) or at the knee.)

G is convex and ``G(c X) = c G(X)``, so it is subadditive: G of the whole workload's demand is at most
the sum over GPUs, at most the number of GPUs. Rounded up it is the bound.

It rests on the calibration's laws (their coefficients are >= 0), on KV sizes computed from the
model's shapes, on means of independent lengths (context is convex in the lengths, so their spread
only adds) and on no prefix being shared between requests. It knows nothing of queueing, of the
surrogate, or of how many adapters a step really holds: where many share a GPU it is loose. A server
may be offered up to 1 / 0.9 of what it can do before it counts as starved: the bound is one for plans
whose GPUs can serve all that is offered.

Count bound
-----------
No GPU holds more adapters than the surrogate was trained for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from placer.kernels import best_case as kernel
from placer.limits import max_adapters_per_gpu
from placer.ranks import slot_rank
from twin.domain import ServerConfig
from twin.latency import scheduler_coefficients, step_coefficients
from twin.memory import kv_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from placer.problem import PlacementProblem

ROUNDING = 1e-9
"""Relative slack of the sums, so that rounding cannot lift a bound above a full plan."""


class BestCase(NamedTuple):
    """The cheapest server of a problem, as `placer.kernels.best_case` reads it."""

    step_coefficients: NDArray[np.float64]
    scheduler_coefficients: NDArray[np.float64]
    server: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerBounds:
    """Numbers of GPUs that no plan with every adapter placed goes below.

    Attributes
    ----------
    load
        From the best-case utilisation of one GPU.
    count
        From the adapters that one GPU may hold.
    """

    load: int
    count: int

    @property
    def best(self) -> int:
        """The largest bound."""
        return max(self.load, self.count)


def lower_bounds(problem: PlacementProblem) -> LowerBounds:
    """Return every bound of the problem; see the module for what each rests on."""
    utilisation = workload_utilisation(problem)
    count = problem.workload.num_adapters / max_adapters_per_gpu(problem)
    return LowerBounds(load=math.ceil(utilisation * (1 - ROUNDING)), count=math.ceil(count))


def lower_bound(problem: PlacementProblem) -> int:
    """Return a number of GPUs that no plan with every adapter placed goes below."""
    return lower_bounds(problem).best


def workload_utilisation(problem: PlacementProblem) -> float:
    """Return the GPUs' time that the whole workload needs at best, in GPUs."""
    demand = adapter_demands(problem).sum(axis=0)
    return float(kernel.best_case_utilisation(*best_case(problem), demand))


def adapter_demands(problem: PlacementProblem) -> NDArray[np.float64]:
    """Return what each adapter asks of its GPU in one second.

    Returns
    -------
    (num_adapters, 4) float64: requests, decodes, prompt tokens, context tokens read.
    """
    workload = problem.workload
    prompt = workload.input_tokens_mean
    decodes = workload.output_tokens_mean - 1
    context = decodes * prompt + decodes * (decodes + 1) / 2
    demands = np.stack([np.ones_like(prompt), decodes, prompt, context], axis=1)
    return demands * workload.rate_rps[:, None]


def best_case(problem: PlacementProblem) -> BestCase:
    """Return the laws, and the server with one slot of the smallest rank that the workload needs."""
    calibration = problem.calibration
    rank = slot_rank(int(problem.workload.rank.min()))
    flags = ServerConfig(max_loras=1, max_lora_rank=rank)
    kv = max(kv_tokens(calibration, 1, rank, flags.block_size), 1)
    return BestCase(
        step_coefficients(calibration.step),
        scheduler_coefficients(calibration.scheduler),
        np.array([flags.max_num_batched_tokens, flags.max_num_seqs, kv, rank], dtype=np.float64),
    )
