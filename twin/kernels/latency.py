"""The two per-step laws, callable from other kernels. Units are in the names."""

import numpy as np
from numba import njit

ROOFLINE_TOKENS = 256
"""Tokens in a step above which a projection is bound by arithmetic, not by reading its weights."""


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
        (9,) float64, in the order of `twin.domain.StepLaw`'s fields.
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
    total_ms += c[4] * max(num_tokens - ROOFLINE_TOKENS, 0)
    if num_adapters > 0:
        rank_excess = max(max_lora_rank * 0.125 - 1.0, 0.0)
        total_ms += num_adapters * (c[5] + c[6] * 1e-3 * num_tokens + c[7] * rank_excess)
        total_ms += c[8] * max_loras
    return total_ms


@njit(cache=True, nogil=True)
def scheduler_us(scheduler_coefficients, num_requests_running, num_scanned):
    """Return Lat_sched: the scheduler's time in one step, microseconds.

    Parameters
    ----------
    scheduler_coefficients
        (3,) float64, in the order of `twin.domain.SchedulerLaw`'s fields.
    num_requests_running, num_scanned
        Running requests, and waiting requests that the scan passed or admitted.
    """
    c = scheduler_coefficients
    return c[0] + c[1] * num_requests_running + c[2] * num_scanned


@njit(cache=True, nogil=True)
def token_weighted_terms(state_samples, num_terms, max_lora_rank, max_loras):
    """Return each term of the step law at coefficient 1, mean over emitted tokens, (num_terms,).

    Parameters
    ----------
    state_samples
        (num_samples, 7) int64 as in `SimulationReport`.
    num_terms, max_lora_rank, max_loras
        Integers.
    """
    sums = np.zeros(num_terms)
    unit = np.zeros(num_terms)
    num_tokens = 0
    for row in range(state_samples.shape[0]):
        state = state_samples[row]
        num_tokens += state[0]
        for term in range(num_terms):
            unit[term] = 1.0
            sums[term] += state[0] * step_ms(
                unit, state[0], state[1], state[2], state[3], max_lora_rank, max_loras
            )
            unit[term] = 0.0
    return sums / max(num_tokens, 1)
