"""One pass over the requests of a run for the sums, counts and quantiles of its report."""

import math

import numpy as np
from numba import njit

# The fields of `sums`.
(
    NUM_SENT,
    NUM_COMPLETED,
    NUM_UNFINISHED_BEFORE,
    NUM_UNFINISHED,
    COMPLETED_PROMPT_TOKENS,
    COMPLETED_OUTPUT_TOKENS,
    SENT_TOKENS,
    NUM_GAPS,
    NUM_WITH_GAPS,
    TTFT_NS,
    DECODE_NS,
    TPOT_NS,
) = range(12)
NUM_SUMS = 12

# The columns of `by_adapter`: of requests sent in the window, of those completed in it, how long those
# sent in it waited, and all waiting in it.
(
    ADAPTER_SENT,
    ADAPTER_COMPLETED,
    ADAPTER_SENT_TOKENS,
    ADAPTER_COMPLETED_TOKENS,
    ADAPTER_WAIT_NS,
    ADAPTER_MAX_WAIT_NS,
    ADAPTER_WINDOW_WAIT_NS,
) = range(7)
NUM_BY_ADAPTER = 8
"""One cache line."""

LEVELS = (0.5, 0.95, 0.99)
"""Quantiles of every latency."""

NUM_BINS = 4096

NUM_LATE = 64
"""Moments of the window's last fifth at which unfinished requests are counted."""
LATE_SHARE = 5


@njit(cache=True, nogil=True)
def nearest_ranks(values, quantiles):
    """Write the nearest-rank quantiles of `values` at `LEVELS`; NaN where there is no value.

    The bits of non-negative floating-point numbers are in the order of the numbers. So a histogram
    over equal ranges of bits tells in which range each quantile lies, and only that one is sorted.

    Parameters
    ----------
    values
        (num_values,) float64, each >= 0.
    quantiles
        (3,) float64, receives the result.
    """
    num_values = values.shape[0]
    if num_values == 0:
        quantiles[:] = np.nan
        return
    keys = values.view(np.int64)
    lowest, highest = keys[0], keys[0]
    for index in range(num_values):
        lowest, highest = min(lowest, keys[index]), max(highest, keys[index])
    shift = 0
    while (highest - lowest) >> shift >= NUM_BINS:
        shift += 1
    counts = np.zeros(NUM_BINS, np.int64)
    for index in range(num_values):
        counts[(keys[index] - lowest) >> shift] += 1
    for which in range(len(LEVELS)):
        rank = math.ceil(LEVELS[which] * num_values) - 1
        below = 0
        chosen = 0
        while below + counts[chosen] <= rank:
            below += counts[chosen]
            chosen += 1
        members = np.empty(counts[chosen], np.float64)
        num_members = 0
        for index in range(num_values):
            if (keys[index] - lowest) >> shift == chosen:
                members[num_members] = values[index]
                num_members += 1
        members.sort()
        quantiles[which] = members[rank - below]


@njit(cache=True, nogil=True)
def summarise(
    sent_ns,
    admitted_ns,
    first_token_ns,
    finish_ns,
    adapter_of,
    prompt_tokens,
    output_tokens,
    num_sent,
    start_ns,
    end_ns,
    sums,
    quantiles_ms,
    by_adapter,
    unfinished,
):
    """Sum a window of a run up; the arrays after `end_ns` receive the result.

    Parameters
    ----------
    sent_ns, admitted_ns, first_token_ns, finish_ns, adapter_of, prompt_tokens, output_tokens
        (num_requests,) as in `twin.kernels.engine.run_engine`.
    num_sent
        Only the first so many requests were sent.
    start_ns, end_ns
        The window. A request is sent in it from `start_ns` on, completed in it after `start_ns` and
        not after `end_ns`, and waits until it is admitted, at most to `end_ns`.
    sums
        (NUM_SUMS,) float64: latencies, tokens and gaps of requests completed in the window, but for
        `SENT_TOKENS`. Gaps are those between tokens, so a request of one token has none.
    quantiles_ms
        (3, 3) float64: of TTFT, TPOT and E2E, at `LEVELS`.
    by_adapter
        (num_adapters, NUM_BY_ADAPTER) float64 zeros.
    unfinished
        (NUM_LATE,) int64 zeros: requests sent and not finished at equally spaced moments of the last
        fifth of the window, the last at its end.
    """
    late_ns = (end_ns - start_ns) // LATE_SHARE
    late_start_ns = end_ns - late_ns
    ttft_ms = np.empty(num_sent)
    tpot_ms = np.empty(num_sent)
    e2e_ms = np.empty(num_sent)
    num_sent_before, num_finished_before, num_finished = 0, 0, 0
    num_completed = 0
    num_several = 0
    num_prompt, num_output = 0.0, 0.0
    ttft_sum_ns, decode_sum_ns, tpot_sum_ns = 0.0, 0.0, 0.0
    for request in range(num_sent):
        row = by_adapter[adapter_of[request]]
        tokens = prompt_tokens[request] + output_tokens[request]
        waits_until_ns = end_ns
        if 0 <= admitted_ns[request] < end_ns:
            waits_until_ns = admitted_ns[request]
        if sent_ns[request] >= start_ns:
            row[ADAPTER_SENT] += 1
            row[ADAPTER_SENT_TOKENS] += tokens
            wait_ns = waits_until_ns - sent_ns[request]
            row[ADAPTER_WAIT_NS] += wait_ns
            row[ADAPTER_MAX_WAIT_NS] = max(row[ADAPTER_MAX_WAIT_NS], wait_ns)
            row[ADAPTER_WINDOW_WAIT_NS] += wait_ns
        else:
            num_sent_before += 1
            row[ADAPTER_WINDOW_WAIT_NS] += max(waits_until_ns - start_ns, 0)
        from_moment = max(-((late_start_ns - sent_ns[request]) * NUM_LATE // late_ns) - 1, 0)
        if from_moment < NUM_LATE:
            unfinished[from_moment] += 1
        if finish_ns[request] < 0 or finish_ns[request] > end_ns:
            continue
        to_moment = max(-((late_start_ns - finish_ns[request]) * NUM_LATE // late_ns) - 1, 0)
        unfinished[to_moment] -= 1
        num_finished += 1
        if finish_ns[request] <= start_ns:
            num_finished_before += 1
            continue
        row[ADAPTER_COMPLETED] += 1
        row[ADAPTER_COMPLETED_TOKENS] += tokens
        num_prompt += prompt_tokens[request]
        num_output += output_tokens[request]
        ttft_ns = first_token_ns[request] - sent_ns[request]
        decode_ns = finish_ns[request] - first_token_ns[request]
        ttft_sum_ns += ttft_ns
        decode_sum_ns += decode_ns
        ttft_ms[num_completed] = ttft_ns * 1e-6
        e2e_ms[num_completed] = (ttft_ns + decode_ns) * 1e-6
        num_completed += 1
        if output_tokens[request] > 1:
            tpot_ns = decode_ns / (output_tokens[request] - 1)
            tpot_sum_ns += tpot_ns
            tpot_ms[num_several] = tpot_ns * 1e-6
            num_several += 1
    for moment in range(1, NUM_LATE):
        unfinished[moment] += unfinished[moment - 1]
    nearest_ranks(ttft_ms[:num_completed], quantiles_ms[0])
    nearest_ranks(tpot_ms[:num_several], quantiles_ms[1])
    nearest_ranks(e2e_ms[:num_completed], quantiles_ms[2])
    sums[NUM_SENT] = num_sent - num_sent_before
    sums[NUM_COMPLETED] = num_completed
    sums[NUM_UNFINISHED_BEFORE] = num_sent_before - num_finished_before
    sums[NUM_UNFINISHED] = num_sent - num_finished
    sums[COMPLETED_PROMPT_TOKENS] = num_prompt
    sums[COMPLETED_OUTPUT_TOKENS] = num_output
    sums[SENT_TOKENS] = by_adapter[:, ADAPTER_SENT_TOKENS].sum()
    sums[NUM_GAPS] = num_output - num_completed
    sums[NUM_WITH_GAPS] = num_several
    sums[TTFT_NS] = ttft_sum_ns
    sums[DECODE_NS] = decode_sum_ns
    sums[TPOT_NS] = tpot_sum_ns
