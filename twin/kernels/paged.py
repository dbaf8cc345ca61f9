"""The engine loop of one S-LoRA server: unified paging, separate prefill and decode steps.

Adapters and the keys and values of running requests share one pool of tokens. Admission asks whether
the pool can hold the largest need that the running requests may come to, so nothing is preempted.

The rules, numbered, are in `docs/paged-engine.md`; `tests/support/paged_oracle.py` is the same server
in plain Python.
"""

import numpy as np
from numba import njit

from twin.kernels.engine import (
    ADAPTER_NS,
    BUSY_NS,
    KV_BLOCK_NS,
    LOAD_NS,
    MAX_KV_BLOCKS,
    MAX_WAITING,
    NUM_LOADS_CPU,
    NUM_SENT,
    NUM_STEPS,
    RUNNING_NS,
    STOP_KV,
    STOP_QUEUE_EMPTY,
    STOP_SEQS,
    STOP_TOKENS,
    WAITING_NS,
    gap_bin,
)

NUM_FLAGS = 5
NUM_STEP_TERMS = 7


@njit(cache=True, nogil=True)
def peak_tokens(running, num_running, prompt_tokens, declared_tokens, generated, candidate):
    """Return the most tokens that running requests and a candidate may need at one time.

    If each request runs to the length that it declares, the batch needs most at a moment when one
    of them ends. With requests ordered by tokens left, most first, that is the maximum over `k` of
    ``(k + 1) x left[k] + held[0] + … + held[k]``. A request that has no token yet counts as if it
    had one and as many to come as before: S-LoRA's own caution.

    Parameters
    ----------
    running
        (capacity,) int32, rows of running requests, most tokens left first.
    num_running
        How many of them count.
    prompt_tokens, declared_tokens, generated
        (num_requests,) int32: lengths, and tokens generated so far.
    candidate
        Row of a request that is not running.
    """
    candidate_left = declared_tokens[candidate] - 1
    held = 0
    peak = 0
    count = 0
    is_counted = False
    for index in range(num_running + 1):
        request = candidate
        if index < num_running:
            request = running[index]
        left = declared_tokens[request] - generated[request] - 1
        if not is_counted and (index == num_running or left <= candidate_left):
            is_counted = True
            count += 1
            held += prompt_tokens[candidate] + 1
            peak = max(peak, count * candidate_left + held)
        if index < num_running:
            count += 1
            held += prompt_tokens[request] + max(generated[request], 1)
            peak = max(peak, count * left + held)
    return peak


@njit(cache=True, nogil=True)
def insert_running(running, num_running, declared_tokens, generated, candidate):
    """Insert a request into those running, most tokens left first, after those with as many left.

    Its prefill takes one of its tokens left and none of the others': behind its equals it is in
    order after that too.

    Parameters
    ----------
    running, num_running, declared_tokens, generated, candidate
        As in `peak_tokens`.
    """
    left = declared_tokens[candidate] - generated[candidate]
    place = num_running
    while place > 0:
        other = running[place - 1]
        if declared_tokens[other] - generated[other] >= left:
            break
        running[place] = other
        place -= 1
    running[place] = candidate


@njit(cache=True, nogil=True)
def decode_ms(step_coefficients, num_decodes, sum_rank):
    """Return the time of one decode step, milliseconds.

    Parameters
    ----------
    step_coefficients
        (NUM_STEP_TERMS,) float64, in the order of `twin.paged_domain.PagedStepLaw`'s fields.
    num_decodes
        Requests that compute one token each.
    sum_rank
        Ranks of the distinct adapters in the batch, added up.
    """
    c = step_coefficients
    return c[0] + c[1] * num_decodes + c[2] * 1e-3 * num_decodes * num_decodes + c[3] * sum_rank


@njit(cache=True, nogil=True)
def prefill_ms(step_coefficients, num_tokens, sum_rank):
    """Return the time of one prefill step, milliseconds.

    Parameters
    ----------
    step_coefficients
        (NUM_STEP_TERMS,) float64, as in `decode_ms`.
    num_tokens
        Prompt tokens of the step.
    sum_rank
        Ranks of the distinct adapters that it prefills, added up.
    """
    c = step_coefficients
    return c[4] + c[5] * num_tokens + c[6] * sum_rank


@njit(cache=True, nogil=True)
def run_paged_engine(
    arrival_ns,
    adapter_of,
    prompt_tokens,
    output_tokens,
    declared_tokens,
    rank,
    pool_tokens_of,
    load_ns_of,
    flags,
    step_coefficients,
    horizon_ns,
    first_token_ns,
    finish_ns,
    sent_ns,
    admitted_ns,
    gap_counts,
    stop_ns,
    totals,
    samples,
    sample_stride,
):
    """Serve a list of requests until the horizon; the arrays after it receive the result.

    Parameters
    ----------
    arrival_ns, adapter_of, prompt_tokens, output_tokens
        As in `twin.kernels.engine.run_engine`.
    declared_tokens
        (num_requests,) int32, >= `output_tokens`: the limit that each request declares, which is what
        admission reads. `output_tokens` decides when a request ends and nothing else.
    rank, pool_tokens_of, load_ns_of
        (num_adapters,) int32, int64, int64: rank, tokens of the pool, and time to load.
    flags
        (NUM_FLAGS,) int64: max_total_token_num, batch_max_tokens, running_max_req_size,
        max_wait_tokens (>= 1), and nanoseconds between two looks of an idle router.
    step_coefficients
        (NUM_STEP_TERMS,) float64, as in `decode_ms`.
    horizon_ns, gap_counts, totals, samples, sample_stride
        As in `twin.kernels.engine.run_engine`; a block is one token of the pool, adapters included.
    first_token_ns, finish_ns, sent_ns, admitted_ns
        (num_requests,) int64, filled with -1 by the caller.
    stop_ns
        (NUM_STOPS,) int64 zeros: time in steps with requests left waiting, by what ended the last
        admission; time in other steps is of an empty queue.
    """
    pool_tokens, batch_max_tokens, running_max = flags[0], flags[1], flags[2]
    max_wait_tokens, idle_poll_ns = flags[3], flags[4]
    num_requests = arrival_ns.shape[0]
    num_adapters = rank.shape[0]

    generated = np.zeros(num_requests, np.int32)
    running = np.empty(min(running_max, num_requests), np.int32)
    num_running_of = np.zeros(num_adapters, np.int32)
    prefilled_in_step = np.full(num_adapters, -1, np.int64)
    num_running = 0
    num_active = 0
    sum_rank = 0
    adapter_tokens = 0
    context_tokens = 0
    next_arrival = 0
    first_waiting = 0  # requests are admitted in order: WAITING is first_waiting .. next_arrival
    decodes_since_prefill = 0
    stop = STOP_QUEUE_EMPTY
    last_decode_ns = 0
    prefill_end_ns = 0
    num_just_prefilled = 0
    now_ns = 0
    step = 0

    while True:
        # --- Arrivals up to now.
        while (
            next_arrival < num_requests
            and arrival_ns[next_arrival] <= now_ns
            and arrival_ns[next_arrival] < horizon_ns
        ):
            sent_ns[next_arrival] = arrival_ns[next_arrival]
            next_arrival += 1
        num_waiting = next_arrival - first_waiting
        totals[MAX_WAITING] = max(totals[MAX_WAITING], num_waiting)
        if now_ns >= horizon_ns:
            break
        if num_running == 0 and num_waiting == 0:
            if next_arrival >= num_requests or arrival_ns[next_arrival] >= horizon_ns:
                break
            idle_ns = arrival_ns[next_arrival] - now_ns
            if idle_poll_ns > 0:
                idle_ns = (idle_ns + idle_poll_ns - 1) // idle_poll_ns * idle_poll_ns
            now_ns += idle_ns
            continue

        # --- A prefill batch, from the front of WAITING, when nothing runs or enough was decoded.
        load_ns = 0
        prefill_tokens = 0
        prefill_rank = 0
        num_before = num_running
        is_prefill = False
        looks = num_before == 0 or decodes_since_prefill >= max_wait_tokens
        if looks:
            stop = STOP_QUEUE_EMPTY
        while looks and first_waiting < next_arrival:
            if num_running >= running_max:
                stop = STOP_SEQS
                break
            request = first_waiting
            adapter = adapter_of[request]
            more_tokens = 0
            if num_running_of[adapter] == 0:
                more_tokens = pool_tokens_of[adapter]
            peak = peak_tokens(running, num_running, prompt_tokens, declared_tokens, generated, request)
            if peak + adapter_tokens + more_tokens >= pool_tokens:
                stop = STOP_KV
                break
            if prefill_tokens + prompt_tokens[request] > batch_max_tokens:
                stop = STOP_TOKENS
                break
            is_prefill = True
            admitted_ns[request] = now_ns
            first_waiting += 1
            prefill_tokens += prompt_tokens[request]
            context_tokens += prompt_tokens[request]
            if num_running_of[adapter] == 0:
                adapter_tokens += more_tokens
                num_active += 1
                sum_rank += rank[adapter]
                load_ns += load_ns_of[adapter]
                totals[NUM_LOADS_CPU] += 1
            if prefilled_in_step[adapter] != step:
                prefilled_in_step[adapter] = step
                prefill_rank += rank[adapter]
            num_running_of[adapter] += 1
            insert_running(running, num_running, declared_tokens, generated, request)
            num_running += 1
        num_waiting = next_arrival - first_waiting
        assert num_running > 0, "an empty server admits the first request that waits"

        # --- The step runs: a prefill, or a decode of all that run.
        num_decodes = 0
        if is_prefill:
            duration_ns = int(1e6 * prefill_ms(step_coefficients, prefill_tokens, prefill_rank)) + load_ns
        else:
            num_decodes = num_running
            duration_ns = int(1e6 * decode_ms(step_coefficients, num_running, sum_rank))
        end_ns = now_ns + duration_ns
        counted_ns = min(end_ns, horizon_ns) - now_ns
        used_tokens = context_tokens + adapter_tokens + num_decodes
        totals[NUM_STEPS] += 1
        totals[RUNNING_NS] += num_running * counted_ns
        totals[WAITING_NS] += num_waiting * counted_ns
        totals[KV_BLOCK_NS] += used_tokens * counted_ns
        totals[MAX_KV_BLOCKS] = max(totals[MAX_KV_BLOCKS], used_tokens)
        totals[ADAPTER_NS] += num_active * counted_ns
        totals[BUSY_NS] += counted_ns
        totals[LOAD_NS] += load_ns
        if num_waiting == 0:
            stop = STOP_QUEUE_EMPTY
        stop_ns[stop] += counted_ns
        if step % sample_stride == 0 and step // sample_stride < samples.shape[0]:
            sample = samples[step // sample_stride]
            sample[0], sample[1], sample[2] = num_decodes, prefill_tokens, context_tokens
            sample[3], sample[4] = num_active, num_running - num_before
            sample[5], sample[6] = duration_ns, num_running - num_before

        # --- Tokens: prefilled requests got their first, decoding ones one more.
        if is_prefill:
            for request in range(first_waiting - (num_running - num_before), first_waiting):
                first_token_ns[request] = end_ns
                generated[request] = 1
            num_just_prefilled = 0
            decodes_since_prefill = 0
            prefill_end_ns = end_ns
        else:
            context_tokens += num_running
            for index in range(num_running):
                generated[running[index]] += 1
            num_older = num_running - num_just_prefilled
            if num_older > 0:
                gap_counts[gap_bin(end_ns - last_decode_ns)] += num_older
            if num_just_prefilled > 0:
                gap_counts[gap_bin(end_ns - prefill_end_ns)] += num_just_prefilled
            num_just_prefilled = 0
            last_decode_ns = end_ns
            decodes_since_prefill += 1

        # --- Requests that have their last token finish; an adapter that none runs leaves the pool.
        kept = 0
        for index in range(num_running):
            request = running[index]
            if generated[request] < output_tokens[request]:
                running[kept] = request
                kept += 1
                if is_prefill and first_token_ns[request] == end_ns:
                    num_just_prefilled += 1
                continue
            finish_ns[request] = end_ns
            context_tokens -= prompt_tokens[request] + generated[request] - 1
            adapter = adapter_of[request]
            num_running_of[adapter] -= 1
            if num_running_of[adapter] == 0:
                num_active -= 1
                sum_rank -= rank[adapter]
                adapter_tokens -= pool_tokens_of[adapter]
        num_running = kept
        now_ns = end_ns
        step += 1

    totals[NUM_SENT] = next_arrival
