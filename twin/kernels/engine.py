"""The engine loop of one vLLM V1 server, event-exact, with work proportional to what changes.

Three facts make a step cheap. Every decoding request gains exactly one token a step, so its context
and its finishing step follow from the step counter. It needs a new KV block once in `block_size`
steps, so the blocks a step needs are a count per residue of the step counter. And the scan of the
waiting queue depends on adapters only through "is it in the batch", so two heaps of adapters, keyed
by their oldest waiting request, find the next admissible request without looking at the others.

The rules, numbered, are in `twin/README.md`; `tests/support/twin_oracle.py` is the same server in
plain Python, request by request.
"""

import math

import numpy as np
from numba import njit

from twin.kernels.latency import scheduler_us, step_ms
from twin.kernels.ordered import (
    BLOCK_BITS,
    SUPERBLOCK_BITS,
    counted_add,
    counted_below,
    counted_discard,
    heap_push,
    heap_remove,
    heap_sift_up,
    idle_append,
    list_append,
    list_remove,
)

# Why admission ended in a step: the columns of `stop_ns`.
STOP_QUEUE_EMPTY, STOP_SLOTS, STOP_KV, STOP_TOKENS, STOP_SEQS, STOP_PREEMPTED = range(6)
NUM_STOPS = 6

# The fields of `totals`.
(
    NUM_SENT,
    NUM_STEPS,
    NUM_PREEMPTIONS,
    NUM_LOADS_CPU,
    NUM_LOADS_DISK,
    RUNNING_NS,
    WAITING_NS,
    MAX_WAITING,
    KV_BLOCK_NS,
    MAX_KV_BLOCKS,
    ADAPTER_NS,
    BUSY_NS,
    LOAD_NS,
    SCHEDULER_NS,
) = range(14)
NUM_TOTALS = 14

NUM_SAMPLED = 5

GAP_BINS_PER_E_FOLD = 100
NUM_GAP_BINS = 2400
"""Bins of the token-gap histogram: 1 % wide, from 1 microsecond to 7 hours."""


@njit(cache=True, nogil=True)
def gap_bin(gap_ns):
    """Return the histogram bin of a gap between two tokens of a request."""
    index = int(GAP_BINS_PER_E_FOLD * math.log(max(gap_ns, 1000) * 1e-3))
    return min(index, NUM_GAP_BINS - 1)


@njit(cache=True, nogil=True)
def run_engine(
    arrival_ns,
    adapter_of,
    prompt_tokens,
    output_tokens,
    cpu_load_ns,
    disk_load_ns,
    flags,
    step_coefficients,
    scheduler_coefficients,
    horizon_ns,
    first_token_ns,
    finish_ns,
    sent_ns,
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
        (num_requests,) int64, int32, int32, int32: when each request is due (sorted), whose it is,
        and its lengths, each >= 1. `output_tokens` decides when a request ends and nothing else.
    cpu_load_ns, disk_load_ns
        (num_adapters,) int64: time to bring each adapter into a slot from host memory or disk.
    flags
        (9,) int64: max_loras, max_lora_rank, max_cpu_loras, max_num_seqs, max_num_batched_tokens,
        block_size, number of KV blocks, the client's limit on unfinished requests (0: none), and
        whether adapters start in host memory (1) or on disk (0).
    step_coefficients, scheduler_coefficients
        Laws as in `twin.kernels.latency`.
    horizon_ns
        The run ends at the first step boundary at or after it.
    first_token_ns, finish_ns, sent_ns
        (num_requests,) int64, filled with -1 by the caller.
    gap_counts
        (NUM_GAP_BINS,) int64 zeros: tokens by the gap before them.
    stop_ns
        (NUM_STOPS,) int64 zeros: time in steps by what ended their admission.
    totals
        (NUM_TOTALS,) float64 zeros: counts, and time integrals (a week's would overflow int64).
    samples
        (num_samples, NUM_SAMPLED) int64: the state of every `sample_stride`-th step, as long as rows
        last: decodes, prompt tokens, context tokens, distinct adapters, scanned requests.
    sample_stride
        Integer >= 1.
    """
    max_loras, max_lora_rank, max_cpu_loras = flags[0], flags[1], flags[2]
    max_num_seqs, token_budget, block_size = flags[3], flags[4], flags[5]
    num_blocks, max_unfinished, starts_in_cpu = flags[6], flags[7], flags[8]
    num_requests = arrival_ns.shape[0]
    num_adapters = cpu_load_ns.shape[0]

    # Requests. `context_base + step` is the context a decoding request computes in `step`.
    generated = np.zeros(num_requests, np.int32)
    context_base = np.zeros(num_requests, np.int64)
    finish_step = np.full(num_requests, -1, np.int64)
    last_token_ns = np.full(num_requests, -1, np.int64)

    # RUNNING, in order of admission.
    run_previous = np.full(num_requests, -1, np.int32)
    run_following = np.full(num_requests, -1, np.int32)
    run_ends = np.full(2, -1, np.int32)
    num_running = 0
    num_decodes = 0
    context_tokens = 0
    blocks_due = np.zeros(block_size, np.int64)
    fresh = np.empty(max_num_seqs, np.int32)

    # Requests that finish in one step, in a ring over steps.
    longest = 1
    for request in range(num_requests):
        longest = max(longest, output_tokens[request])
    ring_size = 1
    while ring_size <= longest:
        ring_size *= 2
    ring_mask = ring_size - 1
    ring_head = np.full(ring_size, -1, np.int32)
    ring_previous = np.full(num_requests, -1, np.int32)
    ring_following = np.full(num_requests, -1, np.int32)

    # WAITING: a queue for each adapter; keys order requests over all queues.
    queue_following = np.full(num_requests, -1, np.int32)
    queue_first = np.full(num_adapters, -1, np.int32)
    queue_last = np.full(num_adapters, -1, np.int32)
    request_key = np.arange(num_requests)
    head_key = np.zeros(num_adapters, np.int64)
    batch_heap = np.empty(num_adapters, np.int32)
    other_heap = np.empty(num_adapters, np.int32)
    heap_position = np.full(num_adapters, -1, np.int32)
    batch_heap_size = 0
    other_heap_size = 0
    front_key = 0
    num_waiting = 0
    present = np.zeros(num_requests, np.uint8)
    block_counts = np.zeros((num_requests >> BLOCK_BITS) + 1, np.int32)
    superblock_counts = np.zeros((num_requests >> SUPERBLOCK_BITS) + 1, np.int32)

    # Adapters: in the batch, resident in a slot (idle ones by last use), in host memory likewise.
    num_running_of = np.zeros(num_adapters, np.int32)
    num_active = 0
    in_slot = np.zeros(num_adapters, np.bool_)
    num_in_slot = 0
    slot_previous = np.full(num_adapters, -1, np.int32)
    slot_following = np.full(num_adapters, -1, np.int32)
    slot_ends = np.full(2, -1, np.int32)
    in_cpu = np.zeros(num_adapters, np.bool_)
    num_in_cpu = 0
    cpu_previous = np.full(num_adapters, -1, np.int32)
    cpu_following = np.full(num_adapters, -1, np.int32)
    cpu_ends = np.full(2, -1, np.int32)
    idle_since_step = np.full(num_adapters, -1, np.int64)
    if starts_in_cpu:
        for adapter in range(max(num_adapters - max_cpu_loras, 0), num_adapters):
            in_cpu[adapter] = True
            num_in_cpu += 1
            list_append(cpu_previous, cpu_following, cpu_ends, adapter)

    free_blocks = num_blocks
    partial = -1  # the one request whose prefill is cut by the token budget; always the last RUNNING
    partial_computed = 0
    partial_length = 0
    now_ns = 0
    next_arrival = 0
    num_finished = 0
    num_finished_before = 0
    adapter = 0
    request = 0
    step = 0

    while True:
        # --- Arrivals up to now. A client at its limit sends the next request when one finishes.
        while (
            next_arrival < num_requests
            and arrival_ns[next_arrival] <= now_ns
            and arrival_ns[next_arrival] < horizon_ns
            and (max_unfinished == 0 or next_arrival - num_finished < max_unfinished)
        ):
            request = next_arrival
            sent_ns[request] = arrival_ns[request]
            if max_unfinished > 0 and request - num_finished_before >= max_unfinished:
                if now_ns >= horizon_ns:
                    sent_ns[request] = -1  # the window is over before the client may send it
                    break
                sent_ns[request] = now_ns
            next_arrival += 1
            adapter = adapter_of[request]
            if queue_first[adapter] < 0:
                queue_first[adapter] = request
                head_key[adapter] = request
                if num_running_of[adapter] > 0:
                    batch_heap_size = heap_push(batch_heap, heap_position, head_key, batch_heap_size, adapter)
                else:
                    other_heap_size = heap_push(other_heap, heap_position, head_key, other_heap_size, adapter)
            else:
                queue_following[queue_last[adapter]] = request
            queue_last[adapter] = request
            num_waiting += 1
            counted_add(present, block_counts, superblock_counts, request)
        totals[MAX_WAITING] = max(totals[MAX_WAITING], num_waiting)

        if now_ns >= horizon_ns:
            break
        if num_running == 0 and num_waiting == 0:
            if next_arrival >= num_requests or arrival_ns[next_arrival] >= horizon_ns:
                break
            now_ns = arrival_ns[next_arrival]
            continue

        # --- RUNNING first: decodes take one token each, then the partial prefill what is left.
        needed = blocks_due[step % block_size]
        preempted = False
        while True:
            partial_new = 0
            if partial >= 0:
                partial_new = min(partial_length - partial_computed, token_budget - num_decodes)
                held = (partial_computed + block_size - 1) // block_size
                partial_needed = (partial_computed + partial_new + block_size - 1) // block_size - held
            else:
                partial_needed = 0
            if needed + partial_needed <= free_blocks:
                break
            # The last admitted request gives way.
            request = run_ends[1]
            adapter = adapter_of[request]
            preempted = True
            totals[NUM_PREEMPTIONS] += 1
            if request == partial:
                free_blocks += (partial_computed + block_size - 1) // block_size
                partial = -1
            else:
                context = context_base[request] + step
                residue = (1 - context_base[request]) % block_size
                blocks_due[residue] -= 1
                if residue == step % block_size:
                    needed -= 1
                free_blocks += (context - 1 + block_size - 1) // block_size
                num_decodes -= 1
                context_tokens -= context
                generated[request] = context - prompt_tokens[request]
                bucket = finish_step[request] & ring_mask
                before, after = ring_previous[request], ring_following[request]
                if before >= 0:
                    ring_following[before] = after
                else:
                    ring_head[bucket] = after
                if after >= 0:
                    ring_previous[after] = before
            if last_token_ns[request] < 0 and generated[request] > 0:
                last_token_ns[request] = now_ns
            list_remove(run_previous, run_following, run_ends, request)
            num_running -= 1
            num_running_of[adapter] -= 1
            was_waiting = queue_first[adapter] >= 0
            if num_running_of[adapter] == 0:
                num_active -= 1
                idle_append(slot_previous, slot_following, slot_ends, idle_since_step, step - 1, adapter)
                idle_append(cpu_previous, cpu_following, cpu_ends, idle_since_step, step - 1, adapter)
                if was_waiting:
                    batch_heap_size = heap_remove(
                        batch_heap, heap_position, head_key, batch_heap_size, adapter
                    )
            front_key -= 1
            request_key[request] = front_key
            queue_following[request] = queue_first[adapter]
            queue_first[adapter] = request
            head_key[adapter] = front_key
            if queue_last[adapter] < 0:
                queue_last[adapter] = request
            if num_running_of[adapter] > 0:
                if was_waiting:
                    heap_sift_up(batch_heap, heap_position, head_key, heap_position[adapter])
                else:
                    batch_heap_size = heap_push(batch_heap, heap_position, head_key, batch_heap_size, adapter)
            else:
                other_heap_size = heap_push(other_heap, heap_position, head_key, other_heap_size, adapter)
            num_waiting += 1
        free_blocks -= needed + partial_needed
        budget_left = token_budget - num_decodes - partial_new
        prefill_tokens = partial_new
        num_fresh = 0
        if partial >= 0:
            partial_computed += partial_new
            if partial_computed == partial_length:
                fresh[0] = partial
                num_fresh = 1
                partial = -1

        # --- WAITING, in order, passing over requests whose adapter has no slot in this batch.
        load_ns = 0
        num_admitted = 0
        last_key = -1
        stop = STOP_QUEUE_EMPTY
        if preempted:
            stop = STOP_PREEMPTED
        while not preempted:
            if num_waiting == 0:
                break
            if num_running >= max_num_seqs:
                stop = STOP_SEQS
                break
            if budget_left <= 0:
                stop = STOP_TOKENS
                break
            if num_active < max_loras and other_heap_size > 0:
                adapter = other_heap[0]
                if batch_heap_size > 0 and head_key[batch_heap[0]] < head_key[adapter]:
                    adapter = batch_heap[0]
            elif batch_heap_size > 0:
                adapter = batch_heap[0]
            else:
                stop = STOP_SLOTS
                break
            request = queue_first[adapter]
            last_key = head_key[adapter]
            length = prompt_tokens[request] + generated[request]
            new_tokens = min(length, budget_left)
            new_blocks = (new_tokens + block_size - 1) // block_size
            if new_blocks > free_blocks:
                stop = STOP_KV
                break
            # Admit: out of its queue, into the batch.
            free_blocks -= new_blocks
            budget_left -= new_tokens
            prefill_tokens += new_tokens
            num_admitted += 1
            num_waiting -= 1
            if request_key[request] >= 0:
                counted_discard(present, block_counts, superblock_counts, request)
            queue_first[adapter] = queue_following[request]
            if queue_first[adapter] < 0:
                queue_last[adapter] = -1
            else:
                head_key[adapter] = request_key[queue_first[adapter]]
            if num_running_of[adapter] == 0:
                other_heap_size = heap_remove(other_heap, heap_position, head_key, other_heap_size, adapter)
                if queue_first[adapter] >= 0:
                    batch_heap_size = heap_push(batch_heap, heap_position, head_key, batch_heap_size, adapter)
                num_active += 1
                if in_slot[adapter]:
                    list_remove(slot_previous, slot_following, slot_ends, adapter)
                    list_remove(cpu_previous, cpu_following, cpu_ends, adapter)
                else:
                    if num_in_slot == max_loras:
                        evicted = slot_ends[0]
                        list_remove(slot_previous, slot_following, slot_ends, evicted)
                        in_slot[evicted] = False
                        num_in_slot -= 1
                    in_slot[adapter] = True
                    num_in_slot += 1
                    if in_cpu[adapter]:
                        list_remove(cpu_previous, cpu_following, cpu_ends, adapter)
                        load_ns += cpu_load_ns[adapter]
                        totals[NUM_LOADS_CPU] += 1
                    else:
                        if num_in_cpu == max_cpu_loras:
                            # It is in no slot: with max_cpu_loras >= max_loras some adapter in host
                            # memory is outside the slots, and it was used before those in them.
                            evicted = cpu_ends[0]
                            list_remove(cpu_previous, cpu_following, cpu_ends, evicted)
                            in_cpu[evicted] = False
                            num_in_cpu -= 1
                        in_cpu[adapter] = True
                        num_in_cpu += 1
                        load_ns += disk_load_ns[adapter]
                        totals[NUM_LOADS_DISK] += 1
            else:
                batch_heap_size = heap_remove(batch_heap, heap_position, head_key, batch_heap_size, adapter)
                if queue_first[adapter] >= 0:
                    batch_heap_size = heap_push(batch_heap, heap_position, head_key, batch_heap_size, adapter)
            num_running_of[adapter] += 1
            list_append(run_previous, run_following, run_ends, request)
            num_running += 1
            if new_tokens < length:
                partial, partial_computed, partial_length = request, new_tokens, length
            else:
                fresh[num_fresh] = request
                num_fresh += 1

        # --- How far the scan walked: only with all slots taken does it pass over anybody, and never
        # over a preempted request (negative key): adapters of the batch and of preempted requests
        # together are at most `max_loras`, because a newcomer stands behind them all.
        num_scanned = num_admitted
        if stop == STOP_SLOTS:
            num_scanned += num_waiting
        elif num_active == max_loras and last_key >= 0:
            num_scanned += counted_below(present, block_counts, superblock_counts, last_key)

        # --- The step runs.
        model_ms = step_ms(
            step_coefficients,
            num_decodes,
            prefill_tokens,
            context_tokens,
            num_active,
            max_lora_rank,
            max_loras,
        )
        scheduler_ns = int(1e3 * scheduler_us(scheduler_coefficients, num_running, num_scanned))
        duration_ns = int(1e6 * model_ms) + scheduler_ns + load_ns
        end_ns = now_ns + duration_ns
        counted_ns = min(end_ns, horizon_ns) - now_ns
        used_blocks = num_blocks - free_blocks
        totals[NUM_STEPS] += 1
        totals[RUNNING_NS] += num_running * counted_ns
        totals[WAITING_NS] += num_waiting * counted_ns
        totals[KV_BLOCK_NS] += used_blocks * counted_ns
        totals[MAX_KV_BLOCKS] = max(totals[MAX_KV_BLOCKS], used_blocks)
        totals[ADAPTER_NS] += num_active * counted_ns
        totals[BUSY_NS] += counted_ns
        totals[LOAD_NS] += load_ns
        totals[SCHEDULER_NS] += scheduler_ns
        stop_ns[stop] += counted_ns
        if step % sample_stride == 0 and step // sample_stride < samples.shape[0]:
            sample = samples[step // sample_stride]
            sample[0], sample[1], sample[2] = num_decodes, prefill_tokens, context_tokens
            sample[3], sample[4] = num_active, num_scanned
        gap_counts[gap_bin(duration_ns)] += num_decodes
        now_ns = end_ns

        num_finished_before = num_finished

        # --- Every decode gained a token; finished prefills emit one and join the decodes.
        context_tokens += num_decodes
        for index in range(num_fresh):
            request = fresh[index]
            length = prompt_tokens[request] + generated[request]
            if first_token_ns[request] < 0:
                first_token_ns[request] = end_ns
            else:
                gap_counts[gap_bin(end_ns - last_token_ns[request])] += 1
                last_token_ns[request] = -1
            context_base[request] = length - step
            finish_step[request] = step + output_tokens[request] - generated[request] - 1
            context_tokens += length + 1
            num_decodes += 1
            blocks_due[(1 - context_base[request]) % block_size] += 1
            bucket = finish_step[request] & ring_mask
            following = ring_head[bucket]
            ring_previous[request] = -1
            ring_following[request] = following
            if following >= 0:
                ring_previous[following] = request
            ring_head[bucket] = request

        # --- Requests that have their last token finish.
        bucket = step & ring_mask
        request = ring_head[bucket]
        ring_head[bucket] = -1
        while request >= 0:
            after = ring_following[request]
            context = context_base[request] + step
            blocks_due[(1 - context_base[request]) % block_size] -= 1
            free_blocks += (context + block_size - 1) // block_size
            context_tokens -= context + 1
            num_decodes -= 1
            finish_ns[request] = end_ns
            num_finished += 1
            num_running -= 1
            list_remove(run_previous, run_following, run_ends, request)
            adapter = adapter_of[request]
            num_running_of[adapter] -= 1
            if num_running_of[adapter] == 0:
                num_active -= 1
                idle_append(slot_previous, slot_following, slot_ends, idle_since_step, step, adapter)
                idle_append(cpu_previous, cpu_following, cpu_ends, idle_since_step, step, adapter)
                if queue_first[adapter] >= 0:
                    batch_heap_size = heap_remove(
                        batch_heap, heap_position, head_key, batch_heap_size, adapter
                    )
                    other_heap_size = heap_push(other_heap, heap_position, head_key, other_heap_size, adapter)
            request = after
        step += 1

    totals[NUM_SENT] = next_arrival
    assert free_blocks >= 0
