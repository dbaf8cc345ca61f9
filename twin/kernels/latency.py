"""The two per-step laws, callable from other kernels. Units are in the names."""

import numpy as np
from numba import njit

GRAPH_TOKENS = 512
"""Tokens of the largest step that vLLM replays as a CUDA graph.

Larger steps launch their kernels one by one, which LoRA's many small ones make slow. At about the same
size projections begin to be bound by arithmetic, not by reading their weights.
"""

NUM_STEP_TERMS = 11
NUM_SCHEDULER_TERMS = 4

FAR_QUEUE = 13_000
"""Waiting requests beyond which the scheduler's walk no longer stays in the processor's cache."""


@njit(cache=True, nogil=True)
def step_ms(
    step_coefficients,
    num_decodes,
    prefill_tokens,
    context_tokens,
    num_adapters,
    max_lora_rank,
    max_loras,
):
    """Return Lat_model: the model's time for one engine step, milliseconds.

    Parameters
    ----------
    step_coefficients
        (NUM_STEP_TERMS,) float64, in the order of `twin.domain.StepLaw`'s fields.
    num_decodes
        Requests that compute one token each.
    prefill_tokens
        Prompt tokens computed in the step.
    context_tokens
        Tokens whose keys and values the decoding requests read.
    num_adapters
        Distinct adapters in the batch.
    max_lora_rank, max_loras
        Flags of the server.
    """
    c = step_coefficients
    num_tokens = num_decodes + prefill_tokens
    total_ms = c[0] + c[1] * num_decodes + c[2] * prefill_tokens + c[3] * 1e-3 * context_tokens
    total_ms += c[4] * max(num_tokens - GRAPH_TOKENS, 0)
    if num_adapters > 0:
        total_ms += num_adapters * (c[5] + c[6] * 1e-3 * prefill_tokens)
        total_ms += c[7] * max(max_lora_rank * 0.125 - 1.0, 0.0)
        total_ms += max_loras * (c[8] + c[9] * 1e-3 * num_tokens)
        if num_tokens > GRAPH_TOKENS:
            total_ms += c[10]
    return total_ms


@njit(cache=True, nogil=True)
def scheduler_us(scheduler_coefficients, num_requests_running, num_scanned):
    """Return Lat_sched: the scheduler's time in one step, microseconds.

    Parameters
    ----------
    scheduler_coefficients
        (NUM_SCHEDULER_TERMS,) float64, in the order of `twin.domain.SchedulerLaw`'s fields.
    num_requests_running, num_scanned
        Running requests, and waiting requests that the scan passed or admitted.
    """
    c = scheduler_coefficients
    walk_us = c[2] * num_scanned + c[3] * max(num_scanned - FAR_QUEUE, 0)
    return c[0] + c[1] * num_requests_running + walk_us


@njit(cache=True, nogil=True)
def step_terms(state_samples, max_lora_rank, max_loras):
    """Return each term of the step law at coefficient 1, (num_samples, NUM_STEP_TERMS) float64.

    Parameters
    ----------
    state_samples
        (num_samples, >= 4) int64 as in `SimulationReport`.
    max_lora_rank, max_loras
        Integers.
    """
    terms = np.empty((state_samples.shape[0], NUM_STEP_TERMS))
    unit = np.zeros(NUM_STEP_TERMS)
    for term in range(NUM_STEP_TERMS):
        unit[term] = 1.0
        for row in range(state_samples.shape[0]):
            state = state_samples[row]
            terms[row, term] = step_ms(unit, state[0], state[1], state[2], state[3], max_lora_rank, max_loras)
        unit[term] = 0.0
    return terms
