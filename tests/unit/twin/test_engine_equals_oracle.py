"""The kernel and the plain server agree to the nanosecond."""

import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.support.twin_cases import (
    DRAINED_NS,
    HAS_JIT,
    crowded_slots,
    num_examples,
    random_scenario,
    run_kernel,
    scenarios,
)
from tests.support.twin_oracle import gap_bin, run_oracle
from twin.kernels import engine


@pytest.mark.timeout(0)  # LOADMASTER_TWIN_EXAMPLES may ask for any number of examples
@settings(max_examples=num_examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios(warmup=True))
def test_the_kernel_equals_the_oracle_on_any_small_server(scenario):
    expected = run_oracle(scenario)
    event(f"preempts: {expected.totals['NUM_PREEMPTIONS'] > 0}")
    for stop, stopped_ns in expected.stop_ns.items():
        event(f"{stop}: {stopped_ns > 0}")
    event(f"loads from disk: {expected.totals['NUM_LOADS_DISK'] > 0}")
    event(f"waits for a slot: {any(expected.slots_wait_ns)}")
    assert run_kernel(scenario) == expected


@pytest.mark.timeout(0)
@settings(max_examples=num_examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(crowded_slots())
def test_the_kernel_equals_the_oracle_where_newcomers_reload_the_batch(scenario):
    expected = run_oracle(scenario)
    event(f"loads a request: {expected.totals['NUM_LOADS_CPU'] // scenario.num_requests}")
    assert run_kernel(scenario) == expected


@pytest.mark.parametrize("seed", range(3 if HAS_JIT else 1))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_num_seqs": 96, "num_blocks": 400},
        {"max_loras": 12, "max_cpu_loras": 12},
        {"max_unfinished": 50},
        {"starts_in_cpu": False, "horizon_ns": 2 * 10**9},
        {"warmup_ns": 10**9},
    ],
    ids=["little KV", "token budget", "a slot for each adapter", "limited client", "cut early", "warmed up"],
)
def test_the_kernel_equals_the_oracle_under_a_long_overload(seed, changes):
    scenario = random_scenario(seed, num_requests=400, num_adapters=12, **changes)
    assert run_kernel(scenario) == run_oracle(scenario)


def test_the_kernel_equals_the_oracle_at_every_horizon():
    scenario = random_scenario(7, num_requests=25, num_adapters=5, num_blocks=12)
    for horizon_ns in (1, 2, *range(10_000_000, 400_000_000, 7_654_321), DRAINED_NS):
        cut = replace(scenario, horizon_ns=horizon_ns)
        assert run_kernel(cut) == run_oracle(cut)


@settings(max_examples=num_examples(300), deadline=None)
@given(st.floats(2, 31), st.integers(-2, 2))
def test_a_gap_falls_into_the_bin_of_its_logarithm(magnitude, step):
    index = gap_bin(int(math.exp(magnitude)))
    edge_ns = int(1e3 * math.exp(index / 100)) + step
    for gap_ns in (int(math.exp(magnitude)), edge_ns, int(math.exp(magnitude)) >> 17 << 17):
        assert engine.gap_bin(gap_ns) == gap_bin(gap_ns)
