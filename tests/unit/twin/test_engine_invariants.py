"""INV-1 to INV-12 of `twin/README.md`, on the kernel itself where it tells."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.twin_cases import SCHEDULER, Scenario, num_examples, run_kernel, scenarios
from tests.support.twin_oracle import Oracle

property_of_the_engine = settings(max_examples=num_examples(50), deadline=None)
drained = scenarios(horizon=False)


# --- INV-1: requests are conserved.


@property_of_the_engine
@given(scenarios())
def test_every_request_sent_is_finished_or_still_in_the_server(scenario):
    outcome = run_kernel(scenario)
    num_sent = outcome.totals["NUM_SENT"]
    assert all(sent_ns >= 0 for sent_ns in outcome.sent_ns[:num_sent])
    assert all(sent_ns == -1 for sent_ns in outcome.sent_ns[num_sent:])
    assert all(finish_ns == -1 for finish_ns in outcome.finish_ns[num_sent:])
    if scenario.max_unfinished == 0:
        assert num_sent == sum(due_ns < scenario.horizon_ns for due_ns in scenario.arrival_ns)


@property_of_the_engine
@given(drained)
def test_a_drained_server_has_finished_every_request(scenario):
    outcome = run_kernel(scenario)
    assert outcome.totals["NUM_SENT"] == scenario.num_requests
    assert -1 not in outcome.finish_ns
    assert -1 not in outcome.first_token_ns


# --- INV-2: tokens are conserved.


@property_of_the_engine
@given(drained)
def test_a_drained_server_has_emitted_every_token_once(scenario):
    outcome = run_kernel(scenario)
    assert sum(outcome.gap_counts.values()) == sum(scenario.output_tokens) - scenario.num_requests


@property_of_the_engine
@given(drained)
def test_every_prompt_token_is_computed_once_where_nothing_is_preempted(scenario):
    outcome = run_kernel(replace(scenario, num_blocks=10_000))
    assert outcome.totals["NUM_PREEMPTIONS"] == 0
    assert sum(step.prefill_tokens for step in outcome.samples) == sum(scenario.prompt_tokens)
    assert sum(step.num_decodes for step in outcome.samples) == (
        sum(scenario.output_tokens) - scenario.num_requests
    )


# --- INV-3: blocks are conserved.


@property_of_the_engine
@given(scenarios())
def test_blocks_in_use_never_exceed_the_blocks_there_are(scenario):
    totals = run_kernel(scenario).totals
    assert 0 < totals["MAX_KV_BLOCKS"] <= scenario.num_blocks or totals["NUM_STEPS"] == 0
    assert 0 <= totals["KV_BLOCK_NS"] <= totals["MAX_KV_BLOCKS"] * totals["BUSY_NS"]


@property_of_the_engine
@given(scenarios(horizon=False, loads=False))
def test_a_drained_server_starts_afresh(scenario):
    once = run_kernel(scenario)
    pause_ns = max(once.finish_ns) + 1
    again = run_kernel(
        replace(
            scenario,
            arrival_ns=scenario.arrival_ns + tuple(pause_ns + due_ns for due_ns in scenario.arrival_ns),
            adapter_of=scenario.adapter_of * 2,
            prompt_tokens=scenario.prompt_tokens * 2,
            output_tokens=scenario.output_tokens * 2,
        )
    )
    assert again.finish_ns[: scenario.num_requests] == once.finish_ns
    assert again.finish_ns[scenario.num_requests :] == [pause_ns + finish_ns for finish_ns in once.finish_ns]
    assert again.totals["KV_BLOCK_NS"] == 2 * once.totals["KV_BLOCK_NS"]


# --- INV-4: time is monotone.


@property_of_the_engine
@given(scenarios())
def test_a_request_is_due_then_sent_then_answered_then_finished(scenario):
    outcome = run_kernel(scenario)
    assert outcome.sent_ns[: outcome.totals["NUM_SENT"]] == sorted(
        outcome.sent_ns[: outcome.totals["NUM_SENT"]]
    )
    for index in range(outcome.totals["NUM_SENT"]):
        assert scenario.arrival_ns[index] <= outcome.sent_ns[index] < scenario.horizon_ns
        admitted_ns = outcome.admitted_ns[index]
        first_ns, finish_ns = outcome.first_token_ns[index], outcome.finish_ns[index]
        assert admitted_ns == -1 or outcome.sent_ns[index] <= admitted_ns
        assert first_ns == -1 or 0 <= admitted_ns < first_ns
        assert first_ns == -1 or outcome.sent_ns[index] < first_ns
        assert finish_ns == -1 or 0 < first_ns <= finish_ns
        assert (first_ns == finish_ns) == (scenario.output_tokens[index] == 1 or first_ns == -1)


@property_of_the_engine
@given(scenarios(warmup=True))
def test_waiting_for_a_slot_is_part_of_waiting(scenario):
    outcome = run_kernel(scenario)
    waits_ns = [0] * scenario.num_adapters
    for index in range(outcome.totals["NUM_SENT"]):
        admitted_ns = outcome.admitted_ns[index]
        until_ns = scenario.horizon_ns if admitted_ns < 0 else min(admitted_ns, scenario.horizon_ns)
        begin_ns = max(outcome.sent_ns[index], scenario.warmup_ns)
        waits_ns[scenario.adapter_of[index]] += max(until_ns - begin_ns, 0)
    assert all(0 <= part <= whole for part, whole in zip(outcome.slots_wait_ns, waits_ns, strict=True))
    if scenario.num_adapters <= scenario.max_loras:
        assert not any(outcome.slots_wait_ns)


@property_of_the_engine
@given(scenarios())
def test_time_in_steps_is_split_by_what_ended_their_admission(scenario):
    outcome = run_kernel(scenario)
    assert min(outcome.stop_ns.values()) >= 0
    assert sum(outcome.stop_ns.values()) == outcome.totals["BUSY_NS"] <= scenario.horizon_ns


@property_of_the_engine
@given(scenarios(), st.integers(1, 10**12))
def test_a_later_start_of_the_client_shifts_every_event(scenario, shift_ns):
    assume(scenario.arrival_ns[0] < scenario.horizon_ns)
    plain = run_kernel(scenario)
    later = run_kernel(
        replace(
            scenario,
            arrival_ns=tuple(due_ns + shift_ns for due_ns in scenario.arrival_ns),
            horizon_ns=scenario.horizon_ns + shift_ns,
        )
    )
    for name in ("sent_ns", "first_token_ns", "finish_ns"):
        expected = [event_ns + shift_ns if event_ns >= 0 else -1 for event_ns in getattr(plain, name)]
        assert getattr(later, name) == expected
    assert later.totals == plain.totals


# --- INV-5: the flags are limits of every step.


@property_of_the_engine
@given(scenarios())
def test_no_step_exceeds_slots_or_token_budget_or_sequences(scenario):
    outcome = run_kernel(scenario)
    for step in outcome.samples:
        assert 0 <= step.num_adapters <= scenario.max_loras
        assert 0 < step.num_decodes + step.prefill_tokens <= scenario.max_num_batched_tokens
        assert step.num_decodes <= scenario.max_num_seqs
    assert outcome.totals["RUNNING_NS"] <= scenario.max_num_seqs * outcome.totals["BUSY_NS"]


@property_of_the_engine
@given(scenarios(), st.integers(1, 5))
def test_a_client_never_waits_for_more_requests_than_its_limit(scenario, max_unfinished):
    outcome = run_kernel(replace(scenario, max_unfinished=max_unfinished))
    for index in range(outcome.totals["NUM_SENT"]):
        unfinished = [
            earlier
            for earlier in range(index + 1)
            if outcome.finish_ns[earlier] == -1 or outcome.finish_ns[earlier] > outcome.sent_ns[index]
        ]
        assert len(unfinished) <= max_unfinished


# --- INV-6: nobody is overtaken without a reason.


def _has_no_gap_and_is_sorted(times_ns):
    answered = [time_ns for time_ns in times_ns if time_ns >= 0]
    return times_ns[: len(answered)] == answered == sorted(answered)


@property_of_the_engine
@given(scenarios())
def test_requests_of_one_adapter_get_their_first_tokens_in_order_of_arrival(scenario):
    outcome = run_kernel(scenario)
    for adapter in range(scenario.num_adapters):
        rows = [row for row, owner in enumerate(scenario.adapter_of) if owner == adapter]
        assert _has_no_gap_and_is_sorted([outcome.first_token_ns[row] for row in rows])


@property_of_the_engine
@given(scenarios())
def test_with_a_slot_for_each_adapter_all_first_tokens_come_in_order_of_arrival(scenario):
    count = scenario.num_adapters
    outcome = run_kernel(replace(scenario, max_loras=count, max_cpu_loras=count))
    assert _has_no_gap_and_is_sorted(outcome.first_token_ns)
    assert outcome.stop_ns["STOP_SLOTS"] == 0


@property_of_the_engine
@given(scenarios(loads=False))
def test_a_schedule_does_not_depend_on_how_adapters_are_numbered(scenario):
    mirrored = replace(
        scenario, adapter_of=tuple(scenario.num_adapters - 1 - owner for owner in scenario.adapter_of)
    )
    plain, other = run_kernel(scenario), run_kernel(mirrored)
    assert other.finish_ns == plain.finish_ns
    assert other.samples == plain.samples


# --- INV-7: preemption.

# Three blocks of 4 tokens. Request 1 lacks a block for its fifth token while request 0 holds two; its
# five tokens then need two blocks, which are free only once request 0 has finished in step 7.
SHORT_OF_BLOCKS = Scenario(
    arrival_ns=(0, 0, 0),
    adapter_of=(0, 0, 0),
    prompt_tokens=(4, 3, 4),
    output_tokens=(8, 8, 2),
    max_num_seqs=2,
    max_num_batched_tokens=32,
    block_size=4,
    num_blocks=3,
)


def test_the_last_admitted_request_is_the_one_preempted():
    contexts = [step.context_tokens for step in run_kernel(SHORT_OF_BLOCKS).samples]
    assert contexts[:8] == [0, 5 + 4, 6, 7, 8, 9, 10, 11]


def test_a_preempted_request_returns_to_the_front_of_the_queue():
    outcome = run_kernel(SHORT_OF_BLOCKS)
    # Request 2 fits into the block that is free from step 2 on, but stands behind request 1.
    assert outcome.first_token_ns[2] > outcome.finish_ns[0]


def test_a_preempted_request_stands_ahead_of_those_that_came_before_it():
    other_adapter_waits = replace(
        SHORT_OF_BLOCKS,
        adapter_of=(0, 1, 0),
        prompt_tokens=(4, 4, 3),
        output_tokens=(8, 2, 8),
        cpu_load_ns=(0, 0),
        disk_load_ns=(0, 0),
    )
    outcome = run_kernel(other_adapter_waits)
    assert outcome.totals["NUM_PREEMPTIONS"] == 1
    assert outcome.finish_ns[0] < outcome.finish_ns[2] < outcome.first_token_ns[1]


def test_a_preempted_request_computes_its_generated_tokens_as_prompt():
    outcome = run_kernel(SHORT_OF_BLOCKS)
    prefills = [step.prefill_tokens for step in outcome.samples if step.prefill_tokens > 0]
    assert prefills == [4 + 3, (3 + 2) + 4, 4 + 1]
    assert outcome.totals["NUM_PREEMPTIONS"] == 2


def test_nothing_is_admitted_in_a_step_that_preempts():
    outcome = run_kernel(SHORT_OF_BLOCKS)
    assert outcome.samples[2].num_scanned == 0
    assert outcome.stop_ns["STOP_PREEMPTED"] > 0


@property_of_the_engine
@given(scenarios())
def test_nothing_is_preempted_where_every_request_has_its_blocks(scenario):
    lengths = zip(scenario.prompt_tokens, scenario.output_tokens, strict=True)
    blocks = sum(-(-(prompt + output) // scenario.block_size) for prompt, output in lengths)
    outcome = run_kernel(replace(scenario, num_blocks=blocks))
    assert outcome.totals["NUM_PREEMPTIONS"] == 0
    assert outcome.stop_ns["STOP_KV"] == outcome.stop_ns["STOP_PREEMPTED"] == 0
    assert run_kernel(replace(scenario, num_blocks=3 * blocks)).finish_ns == outcome.finish_ns


# --- INV-8: nobody looks ahead at output lengths.


@property_of_the_engine
@given(scenarios(), st.integers(1, 500), st.data())
def test_an_output_length_shows_only_when_the_request_ends(scenario, more_tokens, data):
    outcome = run_kernel(scenario)
    unfinished = [index for index, finish_ns in enumerate(outcome.finish_ns) if finish_ns == -1]
    assume(unfinished)
    changed = data.draw(st.sampled_from(unfinished))
    output_tokens = list(scenario.output_tokens)
    output_tokens[changed] += more_tokens
    assert run_kernel(replace(scenario, output_tokens=tuple(output_tokens))) == outcome


@property_of_the_engine
@given(scenarios(), st.data())
def test_an_output_length_shows_only_beyond_the_tokens_generated(scenario, data):
    oracle = Oracle(scenario)
    oracle.run()
    longer = [r for r in oracle.requests if r.finish_ns == -1 and r.output_tokens > r.generated + 1]
    assume(longer)
    changed = data.draw(st.sampled_from(longer))
    output_tokens = list(scenario.output_tokens)
    output_tokens[changed.index] = changed.generated + 1
    assert run_kernel(replace(scenario, output_tokens=tuple(output_tokens))) == run_kernel(scenario)


# --- INV-9: a run is a function of its arguments, and of its past alone.


@property_of_the_engine
@given(scenarios())
def test_the_same_arguments_give_the_same_result(scenario):
    assert run_kernel(scenario) == run_kernel(scenario)


@property_of_the_engine
@given(drained, st.integers(1, 2 * 10**9))
def test_a_shorter_window_shows_the_beginning_of_the_longer_one(scenario, horizon_ns):
    assume(scenario.max_unfinished == 0)
    full, cut = run_kernel(scenario), run_kernel(replace(scenario, horizon_ns=horizon_ns))
    for name in ("sent_ns", "first_token_ns", "finish_ns"):
        pairs = zip(getattr(cut, name), getattr(full, name), strict=True)
        assert all(early == late or (early == -1 and late >= horizon_ns) for early, late in pairs)
    assert full.samples[: len(cut.samples)] == cut.samples


# --- INV-10: adapters are loaded when they must be.


@property_of_the_engine
@given(scenarios())
def test_each_adapter_is_loaded_once_where_there_is_a_slot_for_each(scenario):
    count = scenario.num_adapters
    outcome = run_kernel(replace(scenario, max_loras=count, max_cpu_loras=count))
    totals = outcome.totals
    served = {
        owner
        for owner, first_ns, sent_ns in zip(
            scenario.adapter_of, outcome.first_token_ns, outcome.sent_ns, strict=True
        )
        if first_ns >= 0 and sent_ns >= 0
    }
    num_loads = totals["NUM_LOADS_CPU"] + totals["NUM_LOADS_DISK"]
    assert len(served) <= num_loads <= count
    assert totals["NUM_LOADS_DISK" if scenario.starts_in_cpu else "NUM_LOADS_CPU"] == 0


def test_the_least_recently_used_idle_adapter_makes_room():
    far_apart = Scenario(
        arrival_ns=tuple(index * 10**9 for index in range(5)),
        adapter_of=(0, 1, 0, 2, 0),
        prompt_tokens=(1,) * 5,
        output_tokens=(1,) * 5,
        cpu_load_ns=(10, 10, 10),
        disk_load_ns=(1000, 1000, 1000),
        max_loras=2,
        max_cpu_loras=3,
    )
    assert run_kernel(far_apart).totals["NUM_LOADS_CPU"] == 3
    back_to_evicted = replace(far_apart, adapter_of=(0, 1, 0, 2, 1))
    assert run_kernel(back_to_evicted).totals["NUM_LOADS_CPU"] == 4
    from_disk = replace(far_apart, adapter_of=(0, 1, 2, 0, 1), max_cpu_loras=2)
    assert run_kernel(from_disk).totals["NUM_LOADS_CPU"] == 0
    assert run_kernel(from_disk).totals["NUM_LOADS_DISK"] == 5


def full_slots(newcomer, leaver):
    """Four slots held by long answers but for one; another adapter enters when that one's answer ends."""
    holders = [row for row in range(6) if row != newcomer][:4]
    holders = sorted({*holders[:3], leaver}) if leaver not in holders else holders
    return Scenario(
        arrival_ns=(0,) * 5,
        adapter_of=(*holders, newcomer),
        prompt_tokens=(1,) * 5,
        output_tokens=tuple(2 if row == leaver else 9 for row in (*holders, newcomer)),
        cpu_load_ns=(1000,) * 6,
        disk_load_ns=(0,) * 6,
        max_loras=4,
        max_cpu_loras=6,
    )


def test_with_all_slots_taken_a_newcomer_ahead_of_the_leaver_reloads_all_between():
    # Touched in order: 0 takes the slot of 1, 1 that of 2, 2 that of 3, 3 that of 4, which has left.
    assert run_kernel(full_slots(newcomer=0, leaver=4)).totals["NUM_LOADS_CPU"] == 4 + 4
    assert run_kernel(full_slots(newcomer=0, leaver=2)).totals["NUM_LOADS_CPU"] == 4 + 2


def test_a_newcomer_behind_the_leaver_takes_its_slot():
    assert run_kernel(full_slots(newcomer=4, leaver=0)).totals["NUM_LOADS_CPU"] == 4 + 1


def test_with_an_idle_adapter_in_a_slot_a_newcomer_reloads_nobody():
    scenario = full_slots(newcomer=0, leaver=4)
    later = replace(scenario, arrival_ns=(0, 0, 0, 0, 4 * 10**7))
    assert later.output_tokens[:4] == (9, 9, 9, 2)
    assert run_kernel(later).totals["NUM_LOADS_CPU"] == 4 + 1


def test_adapters_of_one_step_are_loaded_one_after_another():
    together = Scenario(
        arrival_ns=(0, 0),
        adapter_of=(0, 1),
        prompt_tokens=(1, 1),
        output_tokens=(1, 1),
        cpu_load_ns=(3_000_000, 4_000_000),
        disk_load_ns=(0, 0),
        max_loras=2,
        max_cpu_loras=2,
    )
    unloaded = run_kernel(replace(together, cpu_load_ns=(0, 0)))
    loaded = run_kernel(together)
    assert loaded.finish_ns[0] - unloaded.finish_ns[0] == 7_000_000
    assert loaded.totals["LOAD_NS"] == 7_000_000


# --- INV-11: the scan.


@property_of_the_engine
@given(scenarios())
def test_a_preempted_request_is_never_passed_over(scenario):
    oracle = Oracle(scenario)
    oracle.run()
    preempted = set()
    for step in oracle.steps:
        preempted = (preempted | set(step.preempted)) - set(step.admitted)
        adapters = {scenario.adapter_of[index] for index in preempted}
        assert len(step.adapters | adapters) <= scenario.max_loras


@property_of_the_engine
@given(drained)
def test_every_admission_was_scanned(scenario):
    outcome = run_kernel(scenario)
    num_admissions = scenario.num_requests + outcome.totals["NUM_PREEMPTIONS"]
    num_scanned = sum(step.num_scanned for step in outcome.samples)
    assert num_scanned >= num_admissions
    if scenario.max_loras >= scenario.num_adapters:
        assert num_scanned == num_admissions


def test_with_all_slots_taken_the_scan_walks_over_every_waiting_request():
    blocked = Scenario(
        arrival_ns=(0,) * 10,
        adapter_of=(0,) + (1,) * 9,
        prompt_tokens=(1,) * 10,
        output_tokens=(5,) + (1,) * 9,
        cpu_load_ns=(0, 0),
        disk_load_ns=(0, 0),
        max_num_seqs=20,
    )
    outcome = run_kernel(blocked)
    assert [step.num_scanned for step in outcome.samples] == [10, 9, 9, 9, 9, 9]
    assert outcome.totals["SCHEDULER_NS"] == sum(
        int(1e3 * (SCHEDULER.base_us + SCHEDULER.running_us * running + SCHEDULER.scanned_us * scanned))
        for running, scanned in [(1, 10), (1, 9), (1, 9), (1, 9), (1, 9), (9, 9)]
    )


# --- INV-12: the rules of a step, where the plain server shows what the kernel does not tell.


@property_of_the_engine
@given(scenarios())
def test_the_plain_server_keeps_its_own_books(scenario):
    oracle = Oracle(scenario)
    oracle.run()
    for before, after in pairwise(oracle.steps):
        assert before.end_ns <= after.start_ns
        assert not set(after.admitted) & set(after.preempted)
    for step in oracle.steps:
        held = sum(step.blocks_of.values())
        assert step.free_blocks >= 0
        assert held + step.free_blocks == scenario.num_blocks
        assert all(
            blocks == -(-step.computed_of[index] // scenario.block_size)
            for index, blocks in step.blocks_of.items()
            if index in step.running
        )
        assert step.adapters <= step.resident <= step.in_host_memory
        assert len(step.resident) <= scenario.max_loras
        assert len(step.in_host_memory) <= scenario.max_cpu_loras
        assert not (step.preempted and step.admitted)
        assert step.waiting[: len(step.preempted)] == tuple(reversed(step.preempted))
