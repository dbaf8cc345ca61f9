"""The least share of its time that a GPU needs for its traffic, whatever it batches together."""

import numpy as np
from numba import njit

from twin.kernels.latency import GRAPH_TOKENS, scheduler_us, step_ms

# What an adapter asks of a GPU in one second, and their number.
REQUESTS, DECODES, PROMPT_TOKENS, CONTEXT_TOKENS = range(4)
NUM_DEMANDS = 4

# The server at its best: flags, and the KV cache beside one slot.
MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS, KV_TOKENS, MAX_LORA_RANK = range(4)


@njit(cache=True, nogil=True)
def _busy_ms(step_coefficients, scheduler_coefficients, server, demand, steps):
    """Return the milliseconds that this many equal steps take, one adapter on one slot in each."""
    model_ms = step_ms(
        step_coefficients,
        demand[DECODES] / steps,
        demand[PROMPT_TOKENS] / steps,
        demand[CONTEXT_TOKENS] / steps,
        1,
        server[MAX_LORA_RANK],
        1,
    )
    running = demand[DECODES] / steps
    scanned = demand[REQUESTS] / steps
    return steps * (model_ms + 1e-3 * scheduler_us(scheduler_coefficients, running, scanned))


@njit(cache=True, nogil=True)
def best_case_utilisation(step_coefficients, scheduler_coefficients, server, demand):
    """Return the least share of its time that one GPU needs for this demand; `placer.bounds` derives it.

    Parameters
    ----------
    step_coefficients, scheduler_coefficients
        Laws as in `twin.kernels.latency`.
    server
        (4,) float64: max_num_batched_tokens, max_num_seqs, KV tokens, max_lora_rank.
    demand
        (NUM_DEMANDS,) float64, each a second: requests, decodes, prompt tokens, context tokens read.
    """
    num_tokens = demand[DECODES] + demand[PROMPT_TOKENS]
    fewest = max(
        num_tokens / server[MAX_NUM_BATCHED_TOKENS],
        demand[DECODES] / server[MAX_NUM_SEQS],
        demand[CONTEXT_TOKENS] / server[KV_TOKENS],
    )
    if fewest == 0.0:  # a demand so small that its share of a step rounds to nothing
        return 0.0
    at_the_knee = max(num_tokens / GRAPH_TOKENS, fewest)
    busy_ms = min(
        _busy_ms(step_coefficients, scheduler_coefficients, server, demand, fewest),
        _busy_ms(step_coefficients, scheduler_coefficients, server, demand, at_the_knee),
    )
    return 1e-3 * busy_ms


@njit(cache=True, nogil=True)
def utilisation_of_each(step_coefficients, scheduler_coefficients, server, demands):
    """Return the best-case utilisation of a GPU with each adapter alone, (num_adapters,) float64."""
    out = np.empty(demands.shape[0])
    for row in range(demands.shape[0]):
        out[row] = best_case_utilisation(step_coefficients, scheduler_coefficients, server, demands[row])
    return out
