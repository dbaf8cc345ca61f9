"""INV-13 to INV-15 of `twin/README.md`: the engine where theory says what must come out."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings

from tests.support.twin_cases import HAS_JIT, SCHEDULER, STEP, Scenario, num_examples, run_kernel, scenarios
from tests.support.twin_oracle import Oracle

PROMPT_TOKENS = 100


def one_at_a_time(arrival_ns):
    """One slot, one sequence, one step a request: a single server with a constant service time."""
    count = len(arrival_ns)
    scenario = Scenario(
        arrival_ns=tuple(int(due_ns) for due_ns in arrival_ns),
        adapter_of=(0,) * count,
        prompt_tokens=(PROMPT_TOKENS,) * count,
        output_tokens=(1,) * count,
        max_num_seqs=1,
        max_num_batched_tokens=PROMPT_TOKENS,
        horizon_ns=10**15,
    )
    return np.array(run_kernel(scenario).finish_ns) - np.array(arrival_ns)


SERVICE_NS = int(one_at_a_time([0])[0])


def poisson_arrivals(load, count, seed):
    gaps = np.random.default_rng(seed).standard_exponential(count) * (SERVICE_NS / load)
    return np.cumsum(gaps).astype(np.int64)


@pytest.mark.parametrize("load", [0.3, 0.8, 0.95, 1.2])
def test_waiting_follows_lindleys_recursion_to_the_nanosecond(load):
    arrival_ns = poisson_arrivals(load, 3000 if HAS_JIT else 500, seed=1)
    waiting_ns = one_at_a_time(arrival_ns) - SERVICE_NS
    expected_ns = [0]
    for gap_ns in np.diff(arrival_ns).tolist():
        expected_ns.append(max(0, expected_ns[-1] + SERVICE_NS - gap_ns))
    assert waiting_ns.tolist() == expected_ns


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
def test_mean_waiting_is_that_of_an_md1_queue(load):
    count, num_batches = (160_000 if HAS_JIT else 8_000), 40
    waiting_ns = one_at_a_time(poisson_arrivals(load, count, seed=2)) - SERVICE_NS
    batches = waiting_ns.reshape(num_batches, -1).mean(axis=1) / SERVICE_NS
    standard_error = batches.std(ddof=1) / num_batches**0.5
    expected = load / (2 * (1 - load))
    assert abs(batches.mean() - expected) < 4 * standard_error
    assert standard_error < (0.03 if HAS_JIT else 0.15) * max(expected, 1)


def test_nobody_is_served_sooner_when_arrivals_come_closer():
    arrival_ns = poisson_arrivals(0.5, 500, seed=3)
    waits = [one_at_a_time((arrival_ns * share).astype(np.int64)) for share in (2.0, 1.0, 0.6, 0.3)]
    for slower, faster in pairwise(waits):
        assert (faster >= slower).all()
        assert faster.sum() > slower.sum()


def in_window_ns(scenario, begin_ns, end_ns):
    """Return how much of a stay lies in the window; a stay without an end lasts."""
    until_ns = min(end_ns, scenario.horizon_ns) if end_ns >= 0 else scenario.horizon_ns
    return max(until_ns - max(begin_ns, scenario.warmup_ns), 0)


def enqueued_ns(scenario):
    """Return when each request sent stood in WAITING first, the step boundary at or after its arrival."""
    oracle = Oracle(scenario)
    oracle.run()
    return [request.enqueued_ns for request in oracle.requests if request.enqueued_ns >= 0]


@settings(max_examples=num_examples(60), deadline=None)
@given(scenarios(warmup=True))
def test_littles_law_holds_exactly_over_any_window(scenario):
    outcome = run_kernel(scenario)
    sojourn_ns = sum(
        in_window_ns(scenario, begin_ns, finish_ns)
        for begin_ns, finish_ns in zip(enqueued_ns(scenario), outcome.finish_ns, strict=False)
    )
    assert outcome.totals["RUNNING_NS"] + outcome.totals["WAITING_NS"] == sojourn_ns


@settings(max_examples=num_examples(60), deadline=None)
@given(scenarios(warmup=True))
def test_littles_law_holds_exactly_for_waiting_alone(scenario):
    roomy = replace(scenario, num_blocks=10_000)  # who is preempted waits again
    outcome = run_kernel(roomy)
    waited_ns = sum(
        in_window_ns(roomy, begin_ns, admitted_ns)
        for begin_ns, admitted_ns in zip(enqueued_ns(roomy), outcome.admitted_ns, strict=False)
    )
    assert outcome.totals["WAITING_NS"] == waited_ns


@settings(max_examples=num_examples(60), deadline=None)
@given(scenarios(horizon=False))
def test_littles_law_holds_from_the_clients_side_when_all_requests_come_at_once(scenario):
    at_once = replace(scenario, arrival_ns=(0,) * scenario.num_requests, max_unfinished=0)
    outcome = run_kernel(at_once)
    assert outcome.totals["RUNNING_NS"] + outcome.totals["WAITING_NS"] == sum(outcome.finish_ns)


def test_a_lone_request_takes_the_sum_of_its_steps():
    alone = Scenario(
        arrival_ns=(5,), adapter_of=(0,), prompt_tokens=(70,), output_tokens=(4,), max_num_batched_tokens=32
    )
    lora_ms = STEP.adapter_ms + STEP.slot_ms

    def step_ns(prefill_tokens, context_tokens, num_scanned):
        decodes = 0 if prefill_tokens else 1
        num_tokens = decodes + prefill_tokens
        model_ms = STEP.base_ms + decodes * STEP.decode_ms + prefill_tokens * STEP.prefill_ms
        model_ms += STEP.context_ms * context_tokens / 1000 + lora_ms
        model_ms += (STEP.adapter_prefill_ms * prefill_tokens + STEP.slot_token_ms * num_tokens) / 1000
        return 1e6 * model_ms + 1e3 * (
            SCHEDULER.base_us + SCHEDULER.running_us + SCHEDULER.scanned_us * num_scanned
        )

    prefill_ns = step_ns(32, 0, 1) + step_ns(32, 0, 0) + step_ns(6, 0, 0)
    decode_ns = sum(step_ns(0, context_tokens, 0) for context_tokens in (71, 72, 73))
    outcome = run_kernel(alone)
    assert outcome.first_token_ns[0] == pytest.approx(5 + prefill_ns, abs=6)
    assert outcome.finish_ns[0] == pytest.approx(5 + prefill_ns + decode_ns, abs=12)
