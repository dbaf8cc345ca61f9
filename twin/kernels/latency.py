"""The two per-step laws, callable from other kernels. Units are in the names."""

from numba import njit


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
    total_ms = c[0] + c[1] * num_decodes + c[2] * prefill_tokens + c[3] * 1e-3 * context_tokens
    if num_adapters > 0:
        per_adapter_ms = (
            c[5] + c[6] * 1e-3 * (num_decodes + prefill_tokens) + c[7] * max(max_lora_rank * 0.125 - 1.0, 0.0)
        )
        total_ms += c[4] + num_adapters * per_adapter_ms + c[8] * max_loras
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
