"""How few GPUs any plan could need: bounds that hold for every `max_loras` and every packing.

Load bound
----------
A GPU has 1,000 ms of engine steps in each second. Whatever the batching, adapter `i` with rate
``r``, prompt length ``p`` and ``d`` decode steps a request (generated tokens less the first, which
the prefill emits) makes a second cost at least

* ``r * (decode_ms * d + prefill_ms * p + context_ms / 1000 * k)`` of terms that grow with the
  requests themselves, where ``k = d * p + d * (d + 1) / 2`` is the context that its decodes read,
  and ``r * adapter_token_ms / 1000 * (d + p)``, because a step with tokens has one adapter at least;
* its part of the steps. A step costs at least ``s = base_ms + lora_ms + adapter_ms + rank term +
  slot_ms`` and the scheduler's base, one adapter on one slot, and holds at most
  `max_num_batched_tokens` tokens, `max_num_seqs` decodes and as much context as the KV cache has
  with one slot. So a GPU's steps in a second are at least the largest of
  ``sum r (d + p) / tokens``, ``sum r d / seqs`` and ``sum r k / kv``.

The sum over a GPU's adapters of the first, plus ``s`` times the largest of the second, is its
*best-case utilisation*, and no plan of `placer.packing` holds a GPU whose utilisation is above 1.
The maximum of sums is at most the sum of maxima, so the same expression over the whole workload,
rounded up, bounds the number of GPUs.

It rests on the calibration's step law (every coefficient is >= 0), on KV sizes computed from the
model's shapes, on means of independent lengths (the context is convex in the lengths, so their
spread only adds) and on no prefix being shared between requests. It knows nothing of queueing, of the
surrogate, or of how many adapters a step really holds: where many adapters share a GPU it is loose.

Count bound
-----------
No GPU holds more adapters than the surrogate was trained for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from placer.limits import max_adapters_per_gpu
from placer.ranks import slot_rank
from twin.domain import ServerConfig
from twin.memory import kv_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from placer.problem import PlacementProblem
    from twin.domain import Calibration

ROUNDING = 1e-9
"""Relative slack of the sums, so that rounding cannot lift a bound above a full plan."""

NUM_LOADS = 4
"""Columns of `best_case_loads`."""


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
    total = best_case_utilisation(best_case_loads(problem))
    count = problem.workload.num_adapters / max_adapters_per_gpu(problem)
    return LowerBounds(load=max(1, math.ceil(total * (1 - ROUNDING))), count=math.ceil(count))


def lower_bound(problem: PlacementProblem) -> int:
    """Return a number of GPUs that no plan with every adapter placed goes below."""
    return lower_bounds(problem).best


def best_case_utilisation(loads: NDArray[np.float64]) -> float:
    """Return the share of its time that one GPU with these adapters needs at the very least.

    Parameters
    ----------
    loads
        (k, 4) rows of `best_case_loads`.
    """
    sums = loads.sum(axis=0)
    return float(sums[0] + sums[1:].max())


def best_case_loads(problem: PlacementProblem) -> NDArray[np.float64]:
    """Return what each adapter costs one GPU at the very least.

    Returns
    -------
    (num_adapters, 4) float64, each a share of a GPU's time: the terms that grow with its requests,
    then the steps by token budget, by decode slots and by KV cache, of which the largest sum counts.
    """
    workload, step = problem.workload, problem.calibration.step
    scheduler = problem.calibration.scheduler
    prompt = workload.input_tokens_mean
    generated = workload.output_tokens_mean * problem.calibration.generated_over_requested
    decodes = np.maximum(generated - 1, 0)
    context = decodes * prompt + decodes * (decodes + 1) / 2
    direct_ms = (
        step.decode_ms * decodes
        + step.prefill_ms * prompt
        + step.context_ms / 1000 * context
        + step.adapter_token_ms / 1000 * (decodes + prompt)
        + scheduler.running_us / 1000 * decodes
        + scheduler.scanned_us / 1000
    )
    smallest = slot_rank(int(workload.rank.min()))
    server = ServerConfig(max_loras=1, max_lora_rank=smallest)
    kv = max(kv_tokens(problem.calibration, 1, smallest, server.block_size), 1)
    steps = np.stack(
        [(decodes + prompt) / server.max_num_batched_tokens, decodes / server.max_num_seqs, context / kv]
    )
    lightest_ms = lightest_step_ms(problem.calibration, smallest)
    columns = np.concatenate([direct_ms[None, :], lightest_ms * steps])
    return np.ascontiguousarray((columns * (workload.rate_rps / 1000)).T)


def lightest_step_ms(calibration: Calibration, max_lora_rank: int) -> float:
    """Return the least time of a step with a request in it: one adapter, one slot, no token."""
    step = calibration.step
    rank_ms = step.adapter_rank_ms * max(max_lora_rank / 8 - 1, 0)
    scheduler_ms = calibration.scheduler.base_us / 1000
    return step.base_ms + step.lora_ms + step.adapter_ms + rank_ms + step.slot_ms + scheduler_ms
