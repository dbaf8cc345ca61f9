"""Aggregates of one GPU's adapters, and the features that a surrogate's trees read.

An adapter contributes `NUM_AGGREGATES` terms. All but the last `NUM_MAXIMA` are sums over the GPU's
adapters, those are maxima: adding an adapter is one pass over a short vector, whatever the GPU
already holds. `fill_features` turns the aggregates and two flags of the server into features and
into the physical estimates that the trees correct.

The indices below are the order of aggregates, of `models.features.FEATURES` and of the vector that
`models.features.calibration_vector` packs.
"""

from math import expm1, isnan, log2

import numpy as np
from numba import njit

from twin.kernels.latency import (
    GRAPH_TOKENS,
    NUM_SCHEDULER_TERMS,
    NUM_STEP_TERMS,
    scheduler_us,
    step_ms,
)
from twin.kernels.memory import kv_tokens_kernel

DEFAULT_INPUT_CV = 1.113
"""Coefficient of variation of ShareGPT's prompts (4 + 1020 x Beta(0.40, 1.48)): where none is given."""

DEFAULT_OUTPUT_CV = 1.071
"""Coefficient of variation of ShareGPT's answers, tail included: where none is given."""

SHAREGPT_MEAN_PRODUCT = 0.656
"""E[in out] / (E[in] E[out]) of ShareGPT: long prompts get short answers. One where a cv is given."""

# Sums and maxima over adapters.
(
    COUNT,
    RATE,
    RATE_SQUARED,
    RATE_IN,
    RATE_OUT,
    RATE_IN_SQUARED,
    RATE_IN_OUT,
    RATE_OUT_SQUARED,
    RATE_RANK,
    RATE_ARRIVAL_VARIANCE,
    TOKENS_SQUARED,
    RANK,
) = range(12)
ACTIVE = 12
"""First of the `NUM_ACTIVE` sums of ``1 - exp(-u tau)``, u = rate x output tokens."""
NUM_ACTIVE = 28
ACTIVE_TAU_0 = 2.0**-13
"""Smallest tau, seconds a generated token; each next one is twice as long, up to 2^14."""
LAST_POSITION = NUM_ACTIVE - 2 - 1e-9
MAX_RANK = ACTIVE + NUM_ACTIVE
MAX_RATE = MAX_RANK + 1
NUM_SUMS = MAX_RANK
NUM_MAXIMA = 2
NUM_AGGREGATES = NUM_SUMS + NUM_MAXIMA

# What the formulas need of a calibration and of the flags a surrogate is trained for.
STEP_COEFFICIENTS = 0
SCHEDULER_COEFFICIENTS = STEP_COEFFICIENTS + NUM_STEP_TERMS
MEMORY = SCHEDULER_COEFFICIENTS + NUM_SCHEDULER_TERMS
LOAD_MS = MEMORY + 4
MAX_NUM_SEQS = LOAD_MS + 1
MAX_NUM_BATCHED_TOKENS = LOAD_MS + 2
BLOCK_SIZE = LOAD_MS + 3
HORIZON_S = LOAD_MS + 4
NUM_CALIBRATION = LOAD_MS + 5

# Features.
(
    RHO,
    SERVED_BY_FORMULA,
    SLOTS_OVER_ACTIVE,
    SLOTS_OVER_HOT,
    SLOTS_OVER_STUCK,
    SERVED_BY_SLOTS,
    SLOTS_OVER_COUNT,
    KV_PRESSURE,
    BUDGET_PRESSURE,
    SEQS_PRESSURE,
    BATCH,
    STEP_MS,
    KV_REQUESTS,
    RESIDENCE_SHARE,
    LOAD_SHARE,
    SCAN_SHARE,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    CONTEXT_TOKENS,
    OUTPUT_CV,
    RATE_SUM,
    RATE_EVENNESS,
    TOKENS_EVENNESS,
    MAX_RATE_SHARE,
    ARRIVAL_CV,
    NUM_ADAPTERS,
    MAX_LORAS,
    MAX_LORA_RANK,
    RANK_FILL,
) = range(29)
NUM_FEATURES = 29

MIN_RATE_RPS = 1e-9
"""One request in 30 years: smaller rates count as this, so that no square underflows."""

MIN_SERVED_FRACTION = 0.01
"""Floor of the physical estimate: what divides a measured fraction must not vanish."""

NUM_SECANTS = 3
"""Evaluations of the step law spent on the operating point: within 0.3 % of its limit in nine of ten."""


@njit(cache=True, nogil=True, error_model="numpy")
def adapter_terms(terms, rank, rate_rps, input_tokens, output_tokens, input_cv, output_cv, arrival_cv):
    """Write one adapter's terms; NaN for a length's cv stands for the shape of ShareGPT.

    Parameters
    ----------
    terms
        (NUM_AGGREGATES,) float64, overwritten: sums first, then maxima.
    rank, rate_rps, input_tokens, output_tokens, input_cv, output_cv, arrival_cv
        As in `twin.domain.Adapter`.
    """
    mean_product = 1.0
    if isnan(input_cv) and isnan(output_cv):
        mean_product = SHAREGPT_MEAN_PRODUCT
    if isnan(input_cv):
        input_cv = DEFAULT_INPUT_CV
    if isnan(output_cv):
        output_cv = DEFAULT_OUTPUT_CV
    rate_rps = max(rate_rps, MIN_RATE_RPS)
    tokens_per_s = rate_rps * (input_tokens + output_tokens)
    terms[COUNT] = 1.0
    terms[RATE] = rate_rps
    terms[RATE_SQUARED] = rate_rps * rate_rps
    terms[RATE_IN] = rate_rps * input_tokens
    terms[RATE_OUT] = rate_rps * output_tokens
    terms[RATE_IN_SQUARED] = rate_rps * input_tokens * input_tokens * (1.0 + input_cv * input_cv)
    terms[RATE_IN_OUT] = rate_rps * input_tokens * output_tokens * mean_product
    terms[RATE_OUT_SQUARED] = rate_rps * output_tokens * output_tokens * (1.0 + output_cv * output_cv)
    terms[RATE_RANK] = rate_rps * rank
    terms[RATE_ARRIVAL_VARIANCE] = rate_rps * arrival_cv * arrival_cv
    terms[TOKENS_SQUARED] = tokens_per_s * tokens_per_s
    terms[RANK] = rank
    # y(tau) = 1 - exp(-u tau), and y(2 tau) = y (2 - y).
    y = -expm1(-rate_rps * output_tokens * ACTIVE_TAU_0)
    for k in range(NUM_ACTIVE):
        terms[ACTIVE + k] = y
        y *= 2.0 - y
    terms[MAX_RANK] = rank
    terms[MAX_RATE] = rate_rps


@njit(cache=True, nogil=True, error_model="numpy")
def add_terms(aggregates, terms):
    """Add one adapter's terms, or another group's aggregates, to a GPU's aggregates, in place.

    Parameters
    ----------
    aggregates, terms
        (NUM_AGGREGATES,) float64; all zeros is a GPU without adapters.
    """
    for k in range(NUM_SUMS):
        aggregates[k] += terms[k]
    for k in range(NUM_SUMS, NUM_AGGREGATES):
        aggregates[k] = max(aggregates[k], terms[k])


@njit(cache=True, nogil=True, error_model="numpy")
def joined_terms(out, aggregates, terms):
    """Write to `out` what `add_terms` would make of `aggregates`, and leave them as they are."""
    for k in range(NUM_SUMS):
        out[k] = aggregates[k] + terms[k]
    for k in range(NUM_SUMS, NUM_AGGREGATES):
        out[k] = max(aggregates[k], terms[k])


@njit(cache=True, nogil=True, error_model="numpy")
def add_adapter(aggregates, rank, rate_rps, input_tokens, output_tokens, input_cv, output_cv, arrival_cv):
    """Add one adapter to a GPU's aggregates in place.

    A loop that adds the same adapter to many GPUs calls `adapter_terms` once and `add_terms` often.
    """
    terms = np.empty(NUM_AGGREGATES)
    adapter_terms(terms, rank, rate_rps, input_tokens, output_tokens, input_cv, output_cv, arrival_cv)
    add_terms(aggregates, terms)


@njit(cache=True, nogil=True, error_model="numpy")
def fill_terms(out, rank, rate_rps, input_tokens, output_tokens, input_cv, output_cv, arrival_cv):
    """Write every adapter's terms to `out`, (num_adapters, NUM_AGGREGATES) float64; columns as above."""
    for row in range(rank.shape[0]):
        adapter_terms(
            out[row],
            rank[row],
            rate_rps[row],
            input_tokens[row],
            output_tokens[row],
            input_cv[row],
            output_cv[row],
            arrival_cv[row],
        )


@njit(cache=True, nogil=True, error_model="numpy")
def expected_active(aggregates, tau_s):
    """Return the expected number of adapters with a request running: the sum of 1 - exp(-u tau).

    A cubic in log tau through the four nearest stored values; linear below them, constant above.
    Each adapter's curve is smooth in log tau, so the error is under 1 %.

    Parameters
    ----------
    aggregates
        (NUM_AGGREGATES,) float64.
    tau_s
        Seconds that a generated token occupies its request: the step in a server that keeps up,
        batch / sum(rate x output tokens) in one whose batch is given.
    """
    # One way through, no early return: the compiler then drops its reference counts.
    position = min(max(log2(tau_s / ACTIVE_TAU_0), 1.0), LAST_POSITION)
    k = int(position)
    t = position - k
    s, u, v = t + 1.0, t - 1.0, t - 2.0
    k += ACTIVE
    between = (s * u * v * aggregates[k] - s * t * v * aggregates[k + 1]) * 0.5 + (
        s * t * u * aggregates[k + 2] - t * u * v * aggregates[k - 1]
    ) / 6.0
    return between * min(tau_s * (0.5 / ACTIVE_TAU_0), 1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def laws_of(calibration):
    """Return the step law's coefficients without its last, `eager_ms`; that one; the scheduler law's.

    `step_of` spreads `eager_ms` over steps near the largest CUDA graph, so the law itself gets 0 there.
    """
    c = calibration
    step_coefs = (c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], 0.0)
    return step_coefs, c[10], (c[11], c[12], c[13], c[14])


@njit(cache=True, nogil=True, error_model="numpy")
def step_of(
    step_coefs,
    eager_ms,
    scheduler_coefs,
    batch,
    num_adapters,
    in_per_out,
    context_tokens,
    max_loras,
    max_lora_rank,
):
    """Return the mean step that a token sees beside `batch` other requests, milliseconds.

    Prompts come in bursts, so the share of steps beyond the largest CUDA graph grows gradually with the
    mean. Coefficients are tuples: arrays would cost more to pass than the laws to compute.
    """
    running = batch + 1.0
    model_ms = step_ms(
        step_coefs,
        running,
        running * in_per_out,
        running * context_tokens,
        num_adapters,
        max_lora_rank,
        max_loras,
    )
    eager_share = running * (1.0 + in_per_out) * (1.0 / GRAPH_TOKENS) - 0.5
    model_ms += eager_ms * min(max(eager_share, 0.0), 1.0)
    return model_ms + 1e-3 * scheduler_us(scheduler_coefs, running, 0.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _token_step(
    step_coefs,
    eager_ms,
    scheduler_coefs,
    aggregates,
    batch,
    in_per_out,
    context_tokens,
    max_loras,
    max_lora_rank,
):
    """Return `step_of` with the adapters expected beside a running request and its own."""
    active = expected_active(aggregates, batch / aggregates[RATE_OUT])
    seen = min(active + 1.0 - active / aggregates[COUNT], max_loras * 1.0)
    return step_of(
        step_coefs,
        eager_ms,
        scheduler_coefs,
        batch,
        seen,
        in_per_out,
        context_tokens,
        max_loras,
        max_lora_rank,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _slot_bound_tau_s(
    calibration, aggregates, batch, share, in_per_out, context_tokens, max_loras, max_lora_rank
):
    """Return the seconds a token takes in a server that serves `share` of the load, all slots taken."""
    step_coefs, eager_ms, scheduler_coefs = laws_of(calibration)
    work = 1e-3 * aggregates[RATE_OUT] * share
    slots = max_loras * 1.0
    served = max(batch * share, 1e-6)
    step = 0.0
    for _ in range(2):
        step = step_of(
            step_coefs,
            eager_ms,
            scheduler_coefs,
            served,
            slots,
            in_per_out,
            context_tokens,
            max_loras,
            max_lora_rank,
        )
        served = max(min(work * step, batch), 1e-6)
    return 1e-3 * step


@njit(cache=True, nogil=True, error_model="numpy")
def _operating_point(
    calibration, aggregates, max_batch, in_per_out, context_tokens, max_loras, max_lora_rank
):
    """Return the running requests that Little's law asks for, and the step with them.

    ``B = sum(rate out) step(B)``, at most `max_batch`. Regula falsi: step(B) increases and is nearly
    straight, so a few secants do.

    Returns
    -------
    batch, step_ms, rho
        Requests; milliseconds; load over the capacity at `max_batch`.
    """
    step_coefs, eager_ms, scheduler_coefs = laws_of(calibration)
    work = 1e-3 * aggregates[RATE_OUT]
    full = max(max_batch - 1.0, 1e-6)
    step = _token_step(
        step_coefs,
        eager_ms,
        scheduler_coefs,
        aggregates,
        full,
        in_per_out,
        context_tokens,
        max_loras,
        max_lora_rank,
    )
    rho = work * step / max_batch
    if rho >= 1.0:
        return max_batch, step, rho
    low, gap_low = 0.0, work * calibration[STEP_COEFFICIENTS]
    high, gap_high = max_batch, work * step - max_batch
    batch = max_batch
    for _ in range(NUM_SECANTS):
        batch = low + (high - low) * gap_low / (gap_low - gap_high)
        step = _token_step(
            step_coefs,
            eager_ms,
            scheduler_coefs,
            aggregates,
            batch,
            in_per_out,
            context_tokens,
            max_loras,
            max_lora_rank,
        )
        gap = work * step - batch
        if gap > 0.0:
            low, gap_low = batch, gap
        else:
            high, gap_high = batch, gap
    batch = low + (high - low) * gap_low / (gap_low - gap_high)
    return batch, batch / work, rho


@njit(cache=True, nogil=True, error_model="numpy")
def fill_features(aggregates, max_loras, max_lora_rank, calibration, out):
    """Write the features of one GPU and return the physical estimates that the trees correct.

    Parameters
    ----------
    aggregates
        (NUM_AGGREGATES,) float64 of at least one adapter.
    max_loras, max_lora_rank
        Flags of the server.
    calibration
        (NUM_CALIBRATION,) float64 from `models.features.calibration_vector`.
    out
        (NUM_FEATURES,) float, overwritten, in the order of `models.features.FEATURES`.

    Returns
    -------
    served_fraction, itl_ms, ttft_ms, offered_tok_s
        By formula alone (`models.features` states them).
    """
    count = aggregates[COUNT]
    rate_rps = aggregates[RATE]
    work_tok_s = aggregates[RATE_OUT]
    prompt_tok_s = aggregates[RATE_IN]
    offered_tok_s = work_tok_s + prompt_tok_s
    in_per_out = prompt_tok_s / work_tok_s
    # A running request is met in proportion to its output length: second moments, not means.
    in_when_running = aggregates[RATE_IN_OUT] / work_tok_s
    out_when_running = aggregates[RATE_OUT_SQUARED] / work_tok_s
    context_tokens = in_when_running + 0.5 * out_when_running + 0.5 * calibration[BLOCK_SIZE]

    # The fullest batch; the load over the capacity at it; batch, step and adapters at this load.
    kv = kv_tokens_kernel(calibration[MEMORY:LOAD_MS], max_loras, max_lora_rank, int(calibration[BLOCK_SIZE]))
    kv_requests = max(kv / context_tokens, 1.0)
    budget_requests = calibration[MAX_NUM_BATCHED_TOKENS] / (1.0 + in_per_out)
    max_batch = max(min(kv_requests, budget_requests, calibration[MAX_NUM_SEQS]), 1.0)
    batch, operating_ms, rho = _operating_point(
        calibration, aggregates, max_batch, in_per_out, context_tokens, max_loras, max_lora_rank
    )
    wanted_batch = max(batch, rho * max_batch)
    tau_s = batch / work_tok_s
    active = expected_active(aggregates, tau_s)
    active_half = expected_active(aggregates, 0.5 * tau_s)
    # Of y = 1 - exp(-u tau/4), sum(y^2): an adapter with many requests running seldom yields its slot.
    active_quarter = expected_active(aggregates, 0.25 * tau_s)
    hot = max(2.0 * active_quarter - active_half, 1e-9)
    # Where slots are scarce the step is that of what they let through, and those with y^4 near 1 never
    # yield: they have the slots for good, or as many of them as there are slots for. The others take
    # turns in what is left; they need little of it, as a turn serves all that has come in since the last.
    slots_let = 1.0
    stuck = 4.0 * active_quarter - 6.0 * active_half - active
    active_at_step = active if rho < 1.0 else expected_active(aggregates, 1e-3 * operating_ms)
    if active_at_step <= max_loras:
        stuck += 4.0 * expected_active(aggregates, 0.75 * tau_s)
        stuck = max(stuck, 0.05 * active)
    else:
        q_s = 0.25 * _slot_bound_tau_s(
            calibration,
            aggregates,
            batch,
            min(max_loras / active, 1.0),
            in_per_out,
            context_tokens,
            max_loras,
            max_lora_rank,
        )
        y1 = expected_active(aggregates, q_s)
        y2 = expected_active(aggregates, 2.0 * q_s)
        y3 = expected_active(aggregates, 3.0 * q_s)
        wanting = expected_active(aggregates, 4.0 * q_s)
        stuck = max(4.0 * y1 - 6.0 * y2 + 4.0 * y3 - wanting, 1e-9)
        of_others = (y1 - expected_active(aggregates, 0.5 * q_s)) / (0.5 * q_s) / work_tok_s
        turns = max(max_loras - stuck, 0.0) / max(0.2 * (wanting - stuck), 1e-9)
        slots_let = min(max_loras / stuck, 1.0) * (1.0 - of_others) + of_others * min(turns, 1.0)
        stuck = max(stuck, 0.05 * wanting)
    # An adapter's busy period begins as often as d(active)/d(tau) / output tokens; it needs a load
    # where slots are fewer than adapters.
    begun_per_s = (active - active_half) / (0.5 * tau_s) * rate_rps / work_tok_s
    loads_per_s = max(1.0 - max_loras / count, 0.0) * begun_per_s
    # With all slots taken a load makes others of the batch be loaded again: a sixth of the slots.
    slots_taken = min(max(4.0 * active / max_loras - 3.0, 0.0), 1.0)
    loads_per_s *= 1.0 + slots_taken * max_loras / 6.0

    unfinished_tok_s = batch * (in_when_running + out_when_running) / calibration[HORIZON_S]
    residence_share = unfinished_tok_s / offered_tok_s
    saturation = min(1.0, 1.0 / rho)
    served_fraction = max(min(saturation - residence_share, slots_let), MIN_SERVED_FRACTION)
    input_tokens = prompt_tok_s / rate_rps
    output_tokens = work_tok_s / rate_rps
    queue = 0.5 * rate_rps * calibration[HORIZON_S] * (1.0 - saturation)
    scan_ms = 1e-3 * calibration[SCHEDULER_COEFFICIENTS + 2] * queue
    prefill_ms = calibration[STEP_COEFFICIENTS + 2] * input_tokens
    ttft_ms = 1.5 * operating_ms + prefill_ms + 500.0 * calibration[HORIZON_S] * (1.0 - saturation)

    out[RHO] = rho
    out[SERVED_BY_FORMULA] = served_fraction
    out[SLOTS_OVER_ACTIVE] = max_loras / active
    out[SLOTS_OVER_HOT] = max_loras / hot
    out[SLOTS_OVER_STUCK] = max_loras / stuck
    out[SERVED_BY_SLOTS] = slots_let
    out[SLOTS_OVER_COUNT] = max_loras / count
    out[KV_PRESSURE] = wanted_batch / kv_requests
    out[BUDGET_PRESSURE] = wanted_batch / budget_requests
    out[SEQS_PRESSURE] = wanted_batch / calibration[MAX_NUM_SEQS]
    out[BATCH] = batch
    out[STEP_MS] = operating_ms
    out[KV_REQUESTS] = kv_requests
    out[RESIDENCE_SHARE] = residence_share
    out[LOAD_SHARE] = 1e-3 * loads_per_s * calibration[LOAD_MS]
    out[SCAN_SHARE] = scan_ms / operating_ms
    out[INPUT_TOKENS] = input_tokens
    out[OUTPUT_TOKENS] = output_tokens
    out[CONTEXT_TOKENS] = context_tokens
    output_squared = aggregates[RATE_OUT_SQUARED] / rate_rps
    out[OUTPUT_CV] = max(output_squared / (output_tokens * output_tokens) - 1.0, 0.0) ** 0.5
    out[RATE_SUM] = rate_rps
    out[RATE_EVENNESS] = rate_rps * rate_rps / aggregates[RATE_SQUARED]
    out[TOKENS_EVENNESS] = offered_tok_s * offered_tok_s / aggregates[TOKENS_SQUARED]
    out[MAX_RATE_SHARE] = aggregates[MAX_RATE] / rate_rps
    out[ARRIVAL_CV] = (aggregates[RATE_ARRIVAL_VARIANCE] / rate_rps) ** 0.5
    out[NUM_ADAPTERS] = count
    out[MAX_LORAS] = max_loras
    out[MAX_LORA_RANK] = max_lora_rank
    out[RANK_FILL] = aggregates[RANK] / (count * max_lora_rank)
    return served_fraction, operating_ms, ttft_ms, offered_tok_s
