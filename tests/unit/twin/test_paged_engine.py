"""The paged engine: equal to the plain server to the nanosecond, and lawful by itself."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.support.paged_cases import (
    DRAINED_NS,
    paged_scenarios,
    random_paged_scenario,
    run_paged_kernel,
)
from tests.support.paged_oracle import PagedOracle, largest_need, run_paged_oracle
from tests.support.twin_cases import HAS_JIT, num_examples
from twin.kernels.paged import peak_tokens

SOME = settings(max_examples=num_examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])


def drained(scenario):
    return replace(scenario, horizon_ns=DRAINED_NS)


@pytest.mark.timeout(0)  # LOADMASTER_TWIN_EXAMPLES may ask for any number of examples
@settings(max_examples=num_examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(paged_scenarios())
def test_the_paged_kernel_equals_the_oracle_on_any_small_server(scenario):
    expected = run_paged_oracle(scenario)
    event(f"waits: {expected.totals['WAITING_NS'] > 0}")
    event(f"loads: {expected.totals['NUM_LOADS_CPU'] > len(scenario.rank)}")
    assert run_paged_kernel(scenario) == expected


@pytest.mark.parametrize("seed", range(3 if HAS_JIT else 1))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pool_tokens": 400},
        {"running_max_req_size": 5},
        {"batch_max_tokens": 90},
        {"max_wait_tokens": 1},
        {"horizon_ns": 10**9},
    ],
    ids=["full pool", "small pool", "few requests", "small prefills", "eager", "cut early"],
)
def test_the_paged_kernel_equals_the_oracle_under_a_long_overload(seed, changes):
    scenario = random_paged_scenario(seed, num_requests=150, num_adapters=8, **changes)
    assert run_paged_kernel(scenario) == run_paged_oracle(scenario)


@SOME
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=9)
)
def test_the_peak_by_formula_is_the_peak_of_the_batch_played_to_its_end(batch):
    prompt = np.array([row[0] for row in batch], np.int32)
    declared = np.array([row[1] for row in batch], np.int32)
    generated = np.array([min(row[1] - 1, row[2]) for row in batch], np.int32)
    candidate = len(batch) - 1
    generated[candidate] = 0
    left = declared - generated - 1
    order = sorted(range(candidate), key=lambda row: -left[row])
    running = np.array([*order, -1], np.int32)
    held = prompt + np.maximum(generated, 1)
    need = largest_need(list(zip(held.tolist(), left.tolist(), strict=True)))
    assert peak_tokens(running, candidate, prompt, declared, generated, candidate) == need


@SOME
@given(paged_scenarios())
def test_a_drained_paged_server_has_finished_every_request_and_emptied_its_pool(scenario):
    outcome = run_paged_kernel(drained(scenario))
    assert min(outcome.finish_ns) > 0
    gaps = sum(outcome.gap_counts.values())
    assert gaps == sum(scenario.output_tokens) - len(scenario.output_tokens)


@SOME
@given(paged_scenarios())
def test_a_paged_request_is_sent_then_answered_then_finished(scenario):
    outcome = run_paged_kernel(drained(scenario))
    for due, sent, first, finish in zip(
        scenario.arrival_ns, outcome.sent_ns, outcome.first_token_ns, outcome.finish_ns, strict=True
    ):
        assert due == sent < first <= finish


@SOME
@given(paged_scenarios())
def test_the_pool_is_never_exceeded_though_nobody_is_preempted(scenario):
    outcome = run_paged_kernel(scenario)
    assert outcome.totals["MAX_KV_BLOCKS"] < scenario.pool_tokens


@SOME
@given(paged_scenarios())
def test_first_tokens_come_in_order_of_arrival(scenario):
    first = run_paged_kernel(drained(scenario)).first_token_ns
    assert first == sorted(first)


@SOME
@given(paged_scenarios())
def test_no_paged_step_exceeds_its_prompt_tokens_or_its_requests(scenario):
    for decodes, prompt_tokens, _, _, admitted, *_ in run_paged_kernel(scenario).samples:
        assert (decodes == 0) == (prompt_tokens > 0) == (admitted > 0)
        assert prompt_tokens <= scenario.batch_max_tokens
        assert decodes <= scenario.running_max_req_size


@SOME
@given(paged_scenarios())
def test_between_two_prefills_of_a_busy_server_lie_enough_decodes(scenario):
    oracle = PagedOracle(drained(scenario))
    oracle.run()
    decodes = scenario.max_wait_tokens
    for step in oracle.steps:
        if step.is_prefill:
            joined_others = len(step.running) > len(step.admitted)
            assert not joined_others or decodes >= scenario.max_wait_tokens
            decodes = 0
        else:
            decodes += 1


@SOME
@given(paged_scenarios(), st.integers(1, 8))
def test_an_output_length_within_the_declared_one_shows_only_when_the_request_ends(scenario, longer):
    shorter = drained(scenario)
    index = int(np.argmax(np.array(shorter.declared_tokens) - np.array(shorter.output_tokens)))
    grown = list(shorter.output_tokens)
    grown[index] = min(grown[index] + longer, shorter.declared_tokens[index])
    before, after = run_paged_kernel(shorter), run_paged_kernel(replace(shorter, output_tokens=tuple(grown)))
    end_ns = before.finish_ns[index]
    for ours, theirs in zip(before.first_token_ns, after.first_token_ns, strict=True):
        assert ours == theirs or min(ours, theirs) > end_ns


@SOME
@given(paged_scenarios())
def test_an_adapter_is_loaded_when_none_of_its_requests_ran(scenario):
    oracle = PagedOracle(drained(scenario))
    oracle.run()
    before = set()
    for step in oracle.steps:
        running = {scenario.adapter_of[index] for index in step.running}
        admitted = {scenario.adapter_of[index] for index in step.admitted}
        assert set(step.loaded) == {adapter for adapter in admitted if adapter not in before}
        finished = {index for index in step.running if oracle.requests[index].finish_ns == step.end_ns}
        before = {scenario.adapter_of[index] for index in step.running if index not in finished}
        assert before <= running


@SOME
@given(paged_scenarios())
def test_littles_law_holds_on_a_drained_paged_server(scenario):
    instant = replace(drained(scenario), arrival_ns=(0,) * len(scenario.arrival_ns))
    outcome = run_paged_kernel(instant)
    in_server_ns = outcome.totals["RUNNING_NS"] + outcome.totals["WAITING_NS"]
    assert in_server_ns == sum(outcome.finish_ns)


def test_a_lone_paged_request_takes_its_load_its_prefill_and_its_decodes():
    scenario = replace(
        random_paged_scenario(0, num_requests=1, num_adapters=1),
        arrival_ns=(0,),
        prompt_tokens=(40,),
        output_tokens=(5,),
        declared_tokens=(5,),
        rank=(16,),
    )
    outcome = run_paged_kernel(scenario)
    prefill_ns = int(1e6 * (25.0 + 0.05 * 40 + 0.02 * 16)) + 16 * 1000
    assert outcome.first_token_ns == [prefill_ns]
    assert outcome.finish_ns == [prefill_ns + 4 * int(1e6 * (14.0 + 0.25 + 0.3e-3 + 0.01 * 16))]


def test_an_idle_router_sees_a_request_at_its_next_look():
    scenario = replace(
        random_paged_scenario(0, num_requests=1, num_adapters=1), arrival_ns=(12_345_678,), idle_poll_ns=10**7
    )
    at_once = replace(scenario, arrival_ns=(0,))
    assert (
        run_paged_kernel(scenario).first_token_ns[0]
        == 2 * 10**7 + run_paged_kernel(at_once).first_token_ns[0]
    )


@SOME
@given(paged_scenarios())
def test_a_shorter_window_of_the_paged_server_shows_the_beginning_of_the_longer_one(scenario):
    whole = run_paged_kernel(drained(scenario))
    horizon_ns = max(whole.finish_ns) // 2 + 1
    part = run_paged_kernel(replace(scenario, horizon_ns=horizon_ns))
    for ours, theirs in zip(part.finish_ns, whole.finish_ns, strict=True):
        assert ours in {-1, theirs}
        assert ours == theirs or theirs > horizon_ns


def test_the_same_paged_arguments_give_the_same_result():
    scenario = random_paged_scenario(3, num_requests=80, num_adapters=6)
    assert run_paged_kernel(scenario) == run_paged_kernel(scenario)
