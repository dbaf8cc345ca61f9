"""The engine loop of one vLLM V1 server, event-exact, with work proportional to what changes.

Four facts make a step cheap. Every decoding request gains exactly one token a step, so its context
and its finishing step follow from the step counter. It needs a new KV block once in `block_size`
steps, so the blocks a step needs are a count per residue of the step counter. What is in the batch
is small, so it sits in a table of seats that stays in the processor's cache. And WAITING is a plain
queue: requests are looked at once, in order, and only those passed over for want of a slot go to a
queue of their adapter, from which two sets of oldest requests, of adapters in the batch and outside
it, give the next admissible one without looking at the others.

The rules, numbered, are in `twin/README.md`; `tests/support/twin_oracle.py` is the same server in
plain Python, request by request.
"""

import math

import numpy as np
from numba import njit

from twin.kernels.latency import scheduler_us, step_ms
from twin.kernels.ordered import (
    counted_add,
    counted_below,
    counted_discard,
    counted_set,
    idle_append,
    list_append,
    list_remove,
    sorted_add,
    sorted_discard,
    sorted_first,
    sorted_from,
    sorted_set,
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
    NUM_ARRIVAL_STEPS,
    NUM_SET_CHANGES,
) = range(16)
NUM_TOTALS = 16

NUM_SAMPLED = 7
"""Columns of `samples`."""

# The fields of a seat, one cache line: whose it is, context less step (before the first token: tokens
# to prefill), the step residue in which it needs a block, the next seat that finishes in its step, its
# entry in the log of admissions, tokens generated before this admission, and when the last of them
# came (-1 where its gap is counted).
(
    REQUEST,
    ADAPTER,
    CONTEXT_BASE,
    RESIDUE,
    RING_FOLLOWING,
    ADMISSION,
    GENERATED,
    LAST_TOKEN_NS,
) = range(8)
NUM_SEAT_FIELDS = 8

FROM_PREEMPTED, FROM_PASSED, FROM_UNSCANNED = range(3)
NOT_COUNTED = -1
NEVER_NS = np.iinfo(np.int64).max

GAP_BINS_PER_E_FOLD = 100
NUM_GAP_BINS = 2400
"""Bins of the token-gap histogram: 1 % wide, from 1 microsecond to 7 hours."""


_CELL_BITS = 17
_FIRST_CELL, _NUM_CELLS = 1 << 5, 1 << 13
"""Gaps of 4 ms to 1 s, those of nearly all steps, are looked up in cells of 131 microseconds."""


def _bin_by_logarithm(gap_ns):
    return min(int(GAP_BINS_PER_E_FOLD * math.log(max(gap_ns, 1000) * 1e-3)), NUM_GAP_BINS - 1)


def _lower_edges_ns():
    """Return the smallest gap of each bin up to the last cell, (num_bins,) int64."""
    edges_ns = []
    while not edges_ns or edges_ns[-1] >> _CELL_BITS <= _NUM_CELLS:
        index = len(edges_ns)
        edge_ns = int(1e3 * math.exp(index / GAP_BINS_PER_E_FOLD)) - 2
        while _bin_by_logarithm(edge_ns) < index:
            edge_ns += 1
        edges_ns.append(edge_ns)
    return np.array(edges_ns, np.int64)


_EDGES_NS = _lower_edges_ns()
_BIN_OF_CELL = np.searchsorted(_EDGES_NS, np.arange(_NUM_CELLS) << _CELL_BITS, side="right") - 1


@njit(cache=True, nogil=True)
def gap_bin(gap_ns):
    """Return the histogram bin of a gap between two tokens of a request."""
    cell = gap_ns >> _CELL_BITS
    if _FIRST_CELL <= cell < _NUM_CELLS:
        index = _BIN_OF_CELL[cell]
        while gap_ns >= _EDGES_NS[index + 1]:
            index += 1
        return index
    index = int(GAP_BINS_PER_E_FOLD * math.log(max(gap_ns, 1000) * 1e-3))
    return min(index, NUM_GAP_BINS - 1)


@njit(cache=True, nogil=True)
def compact(admissions, seats):
    """Drop the entries of the admission log whose seats have been left; return how many remain."""
    kept = 0
    for index in range(admissions.shape[0]):
        seat = admissions[index]
        if seats[seat, ADMISSION] == index:
            admissions[kept] = seat
            seats[seat, ADMISSION] = kept
            kept += 1
    return kept


@njit(cache=True, nogil=True, error_model="numpy")
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
    warmup_ns,
    horizon_ns,
    sent_ns,
    admitted_ns,
    first_token_ns,
    finish_ns,
    slots_wait_ns,
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
    warmup_ns, horizon_ns
        What is counted: integrals between the two, and steps (with their gaps, loads, preemptions and
        maxima) that start at or after the first. The run ends at the first step boundary at or after
        the second, which is the larger.
    sent_ns, admitted_ns, first_token_ns, finish_ns
        (num_requests,) int64, of any content: when each entered WAITING, was first admitted, answered
        and finished; -1 where a time never came.
    slots_wait_ns
        (num_adapters,) float64 zeros: time that each adapter's requests waited, since they were first
        passed over, while it was not in the batch and all slots were taken, summed over requests.
    gap_counts
        (NUM_GAP_BINS,) int64 zeros: tokens by the gap before them.
    stop_ns
        (NUM_STOPS,) int64 zeros: time in steps by what ended their admission.
    totals
        (NUM_TOTALS,) float64 zeros: counts, and time integrals (a week's would overflow int64).
    samples
        (num_samples, NUM_SAMPLED) int64: the state of every `sample_stride`-th step, as long as rows
        last: decodes, prompt tokens, context tokens, distinct adapters, scanned requests, duration in
        nanoseconds, requests in prefill.
    sample_stride
        Integer >= 1.
    """
    max_loras, max_lora_rank, max_cpu_loras = flags[0], flags[1], flags[2]
    max_num_seqs, token_budget, block_size = flags[3], flags[4], flags[5]
    num_blocks, max_unfinished, starts_in_cpu = flags[6], flags[7], flags[8]
    num_adapters = cpu_load_ns.shape[0]
    num_due = np.searchsorted(arrival_ns, horizon_ns)
    slots_may_bind = num_adapters > max_loras
    cpu_may_evict = num_adapters > max_cpu_loras

    # Requests that have been admitted and not finished sit in a seat; RUNNING in order of admission is
    # a log of seats, in which an entry counts while its seat says so.
    seats = np.empty((max_num_seqs, NUM_SEAT_FIELDS), np.int64)
    num_seats = 0
    empty_seats = np.empty(max_num_seqs, np.int32)
    num_empty = 0
    admissions = np.empty(2 * max_num_seqs, np.int32)
    num_admissions = 0
    preempted_seats = np.empty(max_num_seqs, np.int32)
    num_preempted = 0
    fresh = np.empty(max_num_seqs, np.int32)
    blocks_due = np.zeros(block_size, np.int64)
    num_running = 0
    num_decodes = 0
    context_tokens = 0

    # Seats that finish in one step, the last admitted first, in a ring over steps.
    longest = 1
    for request in range(num_due):
        longest = max(longest, output_tokens[request])
    ring_size = 1
    while ring_size <= longest:
        ring_size *= 2
    ring_mask = ring_size - 1
    ring = np.full(ring_size, -1, np.int32)

    # WAITING: preempted seats, then requests passed over for want of a slot, in a queue for each
    # adapter, then the requests that no scan has reached, `unscanned` to `next_arrival`.
    num_held_back = num_due if slots_may_bind else 0
    queue_following = np.empty(num_held_back, np.int32)
    queue_first = np.full(num_adapters, -1, np.int32)
    queue_last = np.full(num_adapters, -1, np.int32)
    heads_in_batch = sorted_set(num_held_back)
    heads_outside = sorted_set(num_held_back)
    passed, passed_blocks, passed_regions = counted_set(num_held_back)
    num_passed = 0
    unscanned = 0
    num_waiting = 0

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
    batch = sorted_set(num_adapters)
    entered = np.empty(num_adapters, np.int32)
    is_entering = np.zeros(num_adapters, np.bool_)

    # The clock that runs while all slots are taken, what it said when each adapter outside the batch
    # was looked at last, and how many requests of each adapter were passed over and wait.
    slots_taken_ns = 0
    slots_seen_ns = np.zeros(num_adapters, np.int64)
    num_passed_of = np.zeros(num_adapters, np.int64)
    if starts_in_cpu:
        for adapter in range(max(num_adapters - max_cpu_loras, 0), num_adapters):
            in_cpu[adapter] = True
            num_in_cpu += 1
            list_append(cpu_previous, cpu_following, cpu_ends, adapter)

    # Totals, of steps since the window opened.
    window_is_open = False
    first_step = 0
    running_ns, waiting_ns, adapter_ns, kv_block_ns = 0.0, 0.0, 0.0, 0.0
    busy_ns, total_load_ns, total_scheduler_ns = 0, 0, 0
    max_waiting, max_kv_blocks = 0, 0
    num_preemptions, num_loads_cpu, num_loads_disk = 0, 0, 0
    num_arrival_steps, num_set_changes = 0, 0
    has_left = False  # whether an adapter left the batch since the last step ran

    free_blocks = num_blocks
    partial = -1  # the one seat whose prefill is cut by the token budget; always the last RUNNING
    partial_computed = 0
    partial_length = 0
    now_ns = 0
    next_arrival = 0
    next_due_ns = NEVER_NS
    if num_due > 0:
        next_due_ns = arrival_ns[0]
    num_arrived = 0  # when the last step began
    num_finished = 0
    num_finished_before = 0
    step = 0
    step_residue = 0
    sample_countdown = 0
    num_samples = 0

    while True:
        # --- Arrivals up to now. A client at its limit sends the next request when one finishes.
        while next_due_ns <= now_ns:
            due_ns = next_due_ns
            if max_unfinished > 0:
                if next_arrival - num_finished >= max_unfinished:
                    break
                if next_arrival - num_finished_before >= max_unfinished:
                    if now_ns >= horizon_ns:
                        break  # the window is over before the client may send it
                    due_ns = now_ns
            sent_ns[next_arrival] = due_ns
            admitted_ns[next_arrival] = -1
            first_token_ns[next_arrival] = -1
            finish_ns[next_arrival] = -1
            next_arrival += 1
            next_due_ns = NEVER_NS
            if next_arrival < num_due:
                next_due_ns = arrival_ns[next_arrival]
        num_waiting = next_arrival - num_finished - num_running
        if not window_is_open and now_ns >= warmup_ns:
            window_is_open = True
            first_step = step
            total_load_ns, total_scheduler_ns = 0, 0
            max_waiting, max_kv_blocks = 0, 0
            num_preemptions, num_loads_cpu, num_loads_disk = 0, 0, 0
            num_arrival_steps, num_set_changes = 0, 0
            gap_counts[:] = 0
            sample_countdown, num_samples = 0, 0
        max_waiting = max(max_waiting, num_waiting)

        if now_ns >= horizon_ns:
            break
        if num_running + num_waiting == 0:
            if next_arrival < num_due:
                now_ns = next_due_ns
            elif window_is_open:
                break
            else:
                now_ns = warmup_ns
            continue

        if next_arrival > num_arrived:
            num_arrived = next_arrival
            num_arrival_steps += 1

        # --- RUNNING first: decodes take one token each, then the partial prefill what is left.
        needed = blocks_due[step_residue]
        preempts = False
        while True:
            partial_new = 0
            partial_needed = 0
            if partial >= 0:
                partial_new = min(partial_length - partial_computed, token_budget - num_decodes)
                held = (partial_computed + block_size - 1) // block_size
                partial_needed = (partial_computed + partial_new + block_size - 1) // block_size - held
            if needed + partial_needed <= free_blocks:
                break
            # The last admitted request gives way: its seat goes to the front of WAITING.
            preempts = True
            num_preemptions += 1
            num_admissions -= 1
            while seats[admissions[num_admissions], ADMISSION] != num_admissions:
                num_admissions -= 1
            seat = admissions[num_admissions]
            adapter = seats[seat, ADAPTER]
            if seat == partial:
                free_blocks += (partial_computed + block_size - 1) // block_size
                partial = -1
            else:
                request = seats[seat, REQUEST]
                context = seats[seat, CONTEXT_BASE] + step
                residue = seats[seat, RESIDUE]
                blocks_due[residue] -= 1
                if residue == step_residue:
                    needed -= 1
                free_blocks += (context - 1 + block_size - 1) // block_size
                num_decodes -= 1
                context_tokens -= context
                seats[seat, GENERATED] = context - prompt_tokens[request]
                # Prefills end in order of admission, so the last admitted is the first of its ring.
                finish_step = prompt_tokens[request] + output_tokens[request] - 1 - seats[seat, CONTEXT_BASE]
                ring[finish_step & ring_mask] = seats[seat, RING_FOLLOWING]
            if seats[seat, LAST_TOKEN_NS] < 0 and seats[seat, GENERATED] > 0:
                seats[seat, LAST_TOKEN_NS] = now_ns
            preempted_seats[num_preempted] = seat
            num_preempted += 1
            num_waiting += 1
            num_running -= 1
            num_running_of[adapter] -= 1
            if num_running_of[adapter] == 0:
                num_active -= 1
                has_left = True
                sorted_discard(batch, adapter)
                if slots_may_bind:
                    slots_seen_ns[adapter] = slots_taken_ns
                    idle_append(slot_previous, slot_following, slot_ends, idle_since_step, step - 1, adapter)
                    if cpu_may_evict:
                        idle_append(cpu_previous, cpu_following, cpu_ends, idle_since_step, step - 1, adapter)
                    if queue_first[adapter] >= 0:
                        sorted_discard(heads_in_batch, queue_first[adapter])
                        sorted_add(heads_outside, queue_first[adapter])
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
        num_entered = 0
        num_to_load = 0
        num_admitted = 0
        num_passed_before = 0  # those passed over that stand before the last request looked at
        stop = STOP_QUEUE_EMPTY
        if preempts:
            stop = STOP_PREEMPTED
        while num_waiting > 0 and not preempts:
            if num_running >= max_num_seqs:
                stop = STOP_SEQS
                break
            if budget_left <= 0:
                stop = STOP_TOKENS
                break
            request = -1
            source = FROM_PREEMPTED
            if num_preempted > 0:
                # Never passed over: adapters of the batch and of preempted requests together are at
                # most `max_loras`, because a newcomer stands behind them all.
                seat = preempted_seats[num_preempted - 1]
                request = seats[seat, REQUEST]
                adapter = seats[seat, ADAPTER]
                length = prompt_tokens[request] + seats[seat, GENERATED]
                num_passed_before = 0
            else:
                if num_passed > 0:
                    source = FROM_PASSED
                    request = sorted_first(heads_in_batch)
                    if num_active < max_loras:
                        outside = sorted_first(heads_outside)
                        if request < 0 or 0 <= outside < request:
                            request = outside
                    num_passed_before = NOT_COUNTED
                if request < 0:
                    source = FROM_UNSCANNED
                    while unscanned < next_arrival:
                        adapter = adapter_of[unscanned]
                        if num_active < max_loras or num_running_of[adapter] > 0:
                            request = unscanned
                            break
                        # Passed over for the first time: to the queue of its adapter.
                        counted_add(passed, passed_blocks, passed_regions, unscanned)
                        num_passed += 1
                        waited_ns = slots_taken_ns - slots_seen_ns[adapter]
                        slots_wait_ns[adapter] += num_passed_of[adapter] * waited_ns
                        slots_seen_ns[adapter] = slots_taken_ns
                        num_passed_of[adapter] += 1
                        if queue_first[adapter] < 0:
                            queue_first[adapter] = unscanned
                            sorted_add(heads_outside, unscanned)
                        else:
                            queue_following[queue_last[adapter]] = unscanned
                        queue_following[unscanned] = -1
                        queue_last[adapter] = unscanned
                        unscanned += 1
                    num_passed_before = num_passed
                    if request < 0:
                        stop = STOP_SLOTS
                        break
                adapter = adapter_of[request]
                length = prompt_tokens[request]
                last_passed = request
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
            if source == FROM_PREEMPTED:
                num_preempted -= 1
            else:
                admitted_ns[request] = now_ns
                if num_empty > 0:
                    num_empty -= 1
                    seat = empty_seats[num_empty]
                else:
                    seat = num_seats
                    num_seats += 1
                seats[seat, REQUEST] = request
                seats[seat, ADAPTER] = adapter
                seats[seat, GENERATED] = 0
                seats[seat, LAST_TOKEN_NS] = -1
                if source == FROM_PASSED:
                    counted_discard(passed, passed_blocks, passed_regions, request)
                    num_passed -= 1
                    following = queue_following[request]
                    queue_first[adapter] = following
                    if num_running_of[adapter] > 0:
                        sorted_discard(heads_in_batch, request)
                    else:
                        sorted_discard(heads_outside, request)
                    if following >= 0:
                        sorted_add(heads_in_batch, following)
                else:
                    unscanned += 1
            if num_running_of[adapter] == 0:
                num_active += 1
                if num_passed_of[adapter] > 0:
                    waited_ns = slots_taken_ns - slots_seen_ns[adapter]
                    slots_wait_ns[adapter] += num_passed_of[adapter] * waited_ns
                if source == FROM_PREEMPTED and queue_first[adapter] >= 0:
                    sorted_discard(heads_outside, queue_first[adapter])
                    sorted_add(heads_in_batch, queue_first[adapter])
                sorted_add(batch, adapter)
                if cpu_may_evict and in_cpu[adapter]:
                    list_remove(cpu_previous, cpu_following, cpu_ends, adapter)
                entered[num_entered] = adapter
                num_entered += 1
                if not in_slot[adapter]:
                    num_to_load += 1
            if source == FROM_PASSED:
                num_passed_of[adapter] -= 1
            num_running_of[adapter] += 1
            num_running += 1
            if num_admissions == admissions.shape[0]:
                num_admissions = compact(admissions, seats)
            admissions[num_admissions] = seat
            seats[seat, ADMISSION] = num_admissions
            num_admissions += 1
            seats[seat, CONTEXT_BASE] = length
            if new_tokens < length:
                partial, partial_computed, partial_length = seat, new_tokens, length
            else:
                fresh[num_fresh] = seat
                num_fresh += 1

        # --- Adapters that entered the batch come into slots. The batch's adapters are touched one after
        # another; one that is in no slot takes that of the adapter touched longest ago, which may belong to
        # the batch and stand behind it: then that one is loaded again when its turn comes.
        for index in range(num_entered):
            adapter = entered[index]
            if num_to_load > 0:
                is_entering[adapter] = True
            elif slots_may_bind:
                list_remove(slot_previous, slot_following, slot_ends, adapter)
        adapter = -1
        if num_to_load > 0:
            adapter = sorted_from(batch, 0)
        while adapter >= 0:
            if in_slot[adapter]:
                if slots_may_bind and is_entering[adapter]:
                    list_remove(slot_previous, slot_following, slot_ends, adapter)
            else:
                if not in_cpu[adapter] and num_in_cpu == max_cpu_loras:
                    # Some adapter in host memory is idle: it holds `max_loras` at least, and this one is
                    # in the batch and not there.
                    evicted = cpu_ends[0]
                    list_remove(cpu_previous, cpu_following, cpu_ends, evicted)
                    in_cpu[evicted] = False
                    num_in_cpu -= 1
                    if in_slot[evicted]:
                        list_remove(slot_previous, slot_following, slot_ends, evicted)
                        in_slot[evicted] = False
                        num_in_slot -= 1
                if num_in_slot == max_loras:
                    evicted = slot_ends[0]
                    is_idle = True
                    if evicted < 0 or idle_since_step[evicted] == step - 1:
                        following = sorted_from(batch, adapter + 1)
                        while following >= 0 and (is_entering[following] or not in_slot[following]):
                            following = sorted_from(batch, following + 1)
                        if evicted < 0 or 0 <= following < evicted:
                            evicted = following
                            is_idle = False
                    if is_idle:
                        list_remove(slot_previous, slot_following, slot_ends, evicted)
                    in_slot[evicted] = False
                    num_in_slot -= 1
                in_slot[adapter] = True
                num_in_slot += 1
                if in_cpu[adapter]:
                    load_ns += cpu_load_ns[adapter]
                    num_loads_cpu += 1
                else:
                    in_cpu[adapter] = True
                    num_in_cpu += 1
                    load_ns += disk_load_ns[adapter]
                    num_loads_disk += 1
            is_entering[adapter] = False
            adapter = sorted_from(batch, adapter + 1)
        if num_entered > 0 or has_left:
            num_set_changes += 1
        has_left = False

        # --- How far the scan walked: only with all slots taken does it pass over anybody.
        num_scanned = num_admitted
        if num_active == max_loras and num_passed > 0:
            if num_passed_before == NOT_COUNTED:
                num_passed_before = counted_below(passed, passed_blocks, passed_regions, last_passed)
            num_scanned += num_passed_before
        num_prefills = num_fresh
        if partial >= 0:
            num_prefills += 1

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
        counted_ns = max(min(end_ns, horizon_ns) - max(now_ns, warmup_ns), 0)
        used_blocks = num_blocks - free_blocks
        running_ns += num_running * counted_ns
        waiting_ns += num_waiting * counted_ns
        kv_block_ns += used_blocks * counted_ns
        adapter_ns += num_active * counted_ns
        max_kv_blocks = max(max_kv_blocks, used_blocks)
        busy_ns += counted_ns
        if num_active == max_loras:
            slots_taken_ns += counted_ns
        total_load_ns += load_ns
        total_scheduler_ns += scheduler_ns
        stop_ns[stop] += counted_ns
        if sample_countdown == 0:
            sample_countdown = sample_stride
            if num_samples < samples.shape[0]:
                sample = samples[num_samples]
                sample[0], sample[1], sample[2] = num_decodes, prefill_tokens, context_tokens
                sample[3], sample[4] = num_active, num_scanned
                sample[5], sample[6] = duration_ns, num_prefills
                num_samples += 1
        sample_countdown -= 1
        gap_counts[gap_bin(duration_ns)] += num_decodes
        now_ns = end_ns

        num_finished_before = num_finished

        # --- Every decode gained a token; finished prefills emit one and join the decodes.
        context_tokens += num_decodes
        for index in range(num_fresh):
            seat = fresh[index]
            request = seats[seat, REQUEST]
            length = seats[seat, CONTEXT_BASE]
            generated = seats[seat, GENERATED]
            if generated == 0:
                first_token_ns[request] = end_ns
            else:
                gap_counts[gap_bin(end_ns - seats[seat, LAST_TOKEN_NS])] += 1
                seats[seat, LAST_TOKEN_NS] = -1
            context_tokens += length + 1
            num_decodes += 1
            # The next block is due when the context, `length` + 1 in the next step, has filled these.
            residue = step_residue + 1 + (length + block_size - 1) // block_size * block_size - length
            if residue >= block_size:
                residue -= block_size
            blocks_due[residue] += 1
            bucket = (step + output_tokens[request] - generated - 1) & ring_mask
            seats[seat, CONTEXT_BASE] = length - step
            seats[seat, RESIDUE] = residue
            seats[seat, RING_FOLLOWING] = ring[bucket]
            ring[bucket] = seat

        # --- Requests that have their last token finish.
        bucket = step & ring_mask
        seat = ring[bucket]
        ring[bucket] = -1
        while seat >= 0:
            context = seats[seat, CONTEXT_BASE] + step
            blocks_due[seats[seat, RESIDUE]] -= 1
            free_blocks += (context + block_size - 1) // block_size
            context_tokens -= context + 1
            num_decodes -= 1
            finish_ns[seats[seat, REQUEST]] = end_ns
            num_finished += 1
            num_running -= 1
            seats[seat, ADMISSION] = -1
            empty_seats[num_empty] = seat
            num_empty += 1
            adapter = seats[seat, ADAPTER]
            num_running_of[adapter] -= 1
            if num_running_of[adapter] == 0:
                num_active -= 1
                has_left = True
                sorted_discard(batch, adapter)
                if slots_may_bind:
                    slots_seen_ns[adapter] = slots_taken_ns
                    idle_append(slot_previous, slot_following, slot_ends, idle_since_step, step, adapter)
                    if cpu_may_evict:
                        idle_append(cpu_previous, cpu_following, cpu_ends, idle_since_step, step, adapter)
                    if queue_first[adapter] >= 0:
                        sorted_discard(heads_in_batch, queue_first[adapter])
                        sorted_add(heads_outside, queue_first[adapter])
            seat = seats[seat, RING_FOLLOWING]
        step += 1
        step_residue += 1
        if step_residue == block_size:
            step_residue = 0

    assert free_blocks >= 0
    for request in range(next_arrival, arrival_ns.shape[0]):
        sent_ns[request] = -1
        admitted_ns[request] = -1
        first_token_ns[request] = -1
        finish_ns[request] = -1
    totals[NUM_SENT] = next_arrival
    for adapter in range(num_adapters):
        if num_running_of[adapter] == 0:
            waited_ns = slots_taken_ns - slots_seen_ns[adapter]
            slots_wait_ns[adapter] += num_passed_of[adapter] * waited_ns
    totals[NUM_STEPS] = step - first_step
    totals[NUM_PREEMPTIONS] = num_preemptions
    totals[NUM_LOADS_CPU] = num_loads_cpu
    totals[NUM_LOADS_DISK] = num_loads_disk
    totals[RUNNING_NS] = running_ns
    totals[WAITING_NS] = waiting_ns
    totals[MAX_WAITING] = max_waiting
    totals[KV_BLOCK_NS] = kv_block_ns
    totals[MAX_KV_BLOCKS] = max_kv_blocks
    totals[ADAPTER_NS] = adapter_ns
    totals[BUSY_NS] = busy_ns
    totals[LOAD_NS] = total_load_ns
    totals[SCHEDULER_NS] = total_scheduler_ns
    totals[NUM_ARRIVAL_STEPS] = num_arrival_steps
    totals[NUM_SET_CHANGES] = num_set_changes
