"""Per adapter: who was served, who waited, who starves, and for what."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twin_cases import HAS_JIT, calibration, num_examples, server
from twin.domain import CONSTRAINTS, Adapter, Workload
from twin.simulate import simulate, simulate_requests
from twin.workload import RequestStream

HORIZON_S = 20.0 if HAS_JIT else 8.0
TIGHT_MEMORY = replace(calibration().memory, pool_bytes=30e6)


def workload(rates_rps, *, input_tokens=60.0, output_tokens=30.0):
    return Workload.from_adapters(
        Adapter(
            adapter_id=str(row),
            rank=8,
            rate_rps=rate_rps,
            input_tokens_mean=input_tokens,
            output_tokens_mean=output_tokens,
        )
        for row, rate_rps in enumerate(rates_rps)
    )


def report(load, flags, known=None, **keywords):
    return simulate(load, flags, known or calibration(), horizon_s=HORIZON_S, **keywords)


def causes(made):
    return {CONSTRAINTS[cause] for cause in made.adapters.cause[made.adapters.starving]}


# --- Why an adapter starves.


def test_an_adapter_that_others_keep_out_of_the_slots_starves_for_slots():
    made = report(workload([30.0, 4.0, 4.0]), server(max_loras=1))
    assert made.binding_constraint == "slots"
    assert made.adapters.starving.tolist() == [False, True, True]
    assert causes(made) == {"slots"}
    assert made.adapters.mean_wait_ms[0] < 0.25 * made.adapters.mean_wait_ms[1:].min()
    assert made.adapters.slots_wait_share[1:].min() > 0.9


def test_with_a_slot_for_each_adapter_nobody_waits_for_one():
    made = report(workload([40.0, 20.0, 20.0]), server(max_loras=3))
    assert made.adapters.slots_wait_share.tolist() == [0.0, 0.0, 0.0]
    assert "slots" not in causes(made)


@pytest.mark.parametrize(
    ("load", "flags", "known", "cause", "binding"),
    [
        (
            workload([40.0] * 3, input_tokens=400.0, output_tokens=400.0),
            server(max_loras=3, max_model_len=1500),
            calibration(memory=TIGHT_MEMORY),
            "kv_memory",
            "kv_memory",
        ),
        (
            workload([30.0] * 3, input_tokens=100.0),
            server(max_loras=3, max_num_batched_tokens=64),
            calibration(),
            "token_budget",
            "throughput",
        ),
        (workload([30.0] * 3), server(max_loras=3, max_num_seqs=2), calibration(), "sequences", "sequences"),
    ],
    ids=["little KV", "little budget", "few sequences"],
)
def test_what_holds_all_adapters_back_is_named_where_slots_do_not(load, flags, known, cause, binding):
    made = report(load, flags, known)
    assert made.binding_constraint == binding
    assert made.adapters.starving.all()
    assert causes(made) == {cause}


def test_at_light_load_nothing_binds_and_nobody_starves():
    made = report(workload([1.5] * 3), server())
    assert made.binding_constraint == "none"
    assert not made.adapters.starving.any()
    assert made.adapters.cause.tolist() == [0, 0, 0]
    assert made.constraint_shares["none"] > 0.9
    assert made.fairness > 0.98


@pytest.mark.parametrize(("num_requests", "starves"), [(19, False), (20, True)])
def test_an_adapter_of_few_requests_is_not_said_to_starve(num_requests, starves):
    kept_out = RequestStream(
        arrival_ns=np.arange(1 + num_requests),
        adapter_of=np.array([0] + [1] * num_requests, np.int32),
        prompt_tokens=np.full(1 + num_requests, 10, np.int32),
        output_tokens=np.array([1000] + [1] * num_requests, np.int32),
    )
    flags = server(max_loras=1)
    made = simulate_requests(kept_out, np.array([8, 8], np.int32), flags, calibration(), horizon_s=1.0)
    assert made.served_fraction.tolist() == [0.0, 0.0]
    assert made.adapters.starving.tolist() == [False, starves]
    assert causes(made) == ({"slots"} if starves else set())


# --- Waiting, by hand.


def test_a_wait_ends_at_the_first_admission_or_with_the_window():
    requests = RequestStream(
        arrival_ns=np.array([0, 10**6, 2 * 10**6]),
        adapter_of=np.array([0, 1, 1], np.int32),
        prompt_tokens=np.array([10, 10, 10], np.int32),
        output_tokens=np.array([3, 2000, 1], np.int32),
    )
    flags = server(max_loras=1, max_num_seqs=1)
    made = simulate_requests(requests, np.array([8, 8], np.int32), flags, calibration(), horizon_s=1.0)
    first, second = made.adapters.mean_wait_ms, made.adapters.max_wait_ms
    end_of_first_ms = made.e2e.mean_ms  # the only request completed
    assert first[0] == second[0] == 0.0
    assert second[1] == pytest.approx(1000 - 2)
    assert first[1] == pytest.approx((end_of_first_ms - 1 + 1000 - 2) / 2)
    assert made.adapters.num_requests_sent.tolist() == [1, 2]
    assert made.adapters.num_requests_completed.tolist() == [1, 0]


def test_waiting_for_a_slot_begins_with_the_scan_that_passes_over_and_ends_in_the_batch():
    requests = RequestStream(
        arrival_ns=np.array([0, 1]),
        adapter_of=np.array([0, 1], np.int32),
        prompt_tokens=np.array([10, 10], np.int32),
        output_tokens=np.array([50, 1], np.int32),
    )
    made = simulate_requests(
        requests, np.array([8, 8], np.int32), server(max_loras=1), calibration(), horizon_s=10.0
    )
    # It arrives one nanosecond into the first step and is passed over when the second starts.
    first_step_ms = made.ttft.p50_ms
    wait_ms, share = made.adapters.mean_wait_ms[1], made.adapters.slots_wait_share[1]
    assert wait_ms * (1 - share) == pytest.approx(first_step_ms - 1e-6)
    assert wait_ms > 30 * first_step_ms


# --- Books.

loads = st.builds(
    workload,
    st.lists(st.sampled_from([0.1, 2.0, 20.0]), min_size=1, max_size=6),
    output_tokens=st.sampled_from([5.0, 60.0]),
)
servers = st.builds(server, max_loras=st.integers(1, 4), max_num_seqs=st.sampled_from([2, 64]))


@settings(max_examples=num_examples(40), deadline=None)
@given(loads, servers, st.integers(0, 5), st.sampled_from([0.0, 5.0]))
def test_the_adapters_books_add_up_to_the_servers(load, flags, seed, warmup_s):
    made = report(load, flags, seed=seed, warmup_s=warmup_s)
    outcomes = made.adapters
    assert outcomes.num_requests_sent.sum() == made.num_requests_sent
    assert outcomes.num_requests_completed.sum() == made.num_requests_completed
    assert (outcomes.mean_wait_ms <= outcomes.max_wait_ms * (1 + 1e-12)).all()
    assert (outcomes.max_wait_ms <= HORIZON_S * 1e3).all()
    assert ((outcomes.slots_wait_share >= 0) & (outcomes.slots_wait_share <= 1)).all()
    assert (outcomes.cause[~outcomes.starving] == 0).all()
    assert sum(made.constraint_shares.values()) == pytest.approx(1.0 if made.num_steps else 0.0)
    if load.num_adapters <= flags.max_loras:
        assert not outcomes.slots_wait_share.any()


@settings(max_examples=num_examples(40), deadline=None)
@given(loads, servers)
def test_fairness_is_jains_index_of_the_served_fractions(load, flags):
    made = report(load, flags)
    shares = made.served_fraction[made.adapters.num_requests_sent > 0]
    if shares.any():
        assert made.fairness == pytest.approx(shares.sum() ** 2 / (len(shares) * (shares**2).sum()))
        assert 1 / len(shares) - 1e-12 <= made.fairness <= 1 + 1e-12
    else:
        assert np.isnan(made.fairness)


# --- A window after a warm-up.


def test_a_window_and_the_one_after_it_make_the_whole():
    load, flags, half_s = workload([6.0, 12.0, 9.0, 1.0, 3.0]), server(max_loras=2), HORIZON_S / 2

    def run(**window):
        return simulate_requests(stream, load.rank, flags, calibration(), **window)

    stream = _stream(load)
    first, second = run(horizon_s=half_s), run(horizon_s=half_s, warmup_s=half_s)
    whole = run(horizon_s=2 * half_s)
    for name in ("num_requests_sent", "num_requests_completed", "num_steps", "num_preemptions", "num_loads"):
        assert getattr(first, name) + getattr(second, name) == getattr(whole, name)
    for name in (
        "throughput_tok_s",
        "offered_tok_s",
        "mean_num_requests_running",
        "mean_num_requests_waiting",
        "mean_kv_usage",
        "mean_adapters_in_batch",
    ):
        assert getattr(first, name) + getattr(second, name) == pytest.approx(2 * getattr(whole, name))
    assert first.num_requests_carried_over == whole.num_requests_carried_over == 0
    assert second.num_requests_carried_over == first.num_requests_sent - first.num_requests_completed
    assert max(first.max_num_requests_waiting, second.max_num_requests_waiting) == (
        whole.max_num_requests_waiting
    )


def _stream(load):
    rng = np.random.default_rng(5)
    count = int(load.rate_rps.sum() * HORIZON_S)
    return RequestStream(
        arrival_ns=np.sort(rng.integers(0, int(HORIZON_S * 1e9), count)),
        adapter_of=rng.choice(load.num_adapters, count, p=load.rate_rps / load.rate_rps.sum()).astype(
            np.int32
        ),
        prompt_tokens=rng.integers(1, 200, count).astype(np.int32),
        output_tokens=rng.integers(1, 60, count).astype(np.int32),
    )


def test_a_warm_server_completes_what_was_sent_before_its_window():
    load, flags = workload([8.0] * 3, output_tokens=200.0), server(max_num_seqs=64)
    cold, warm = report(load, flags), report(load, flags, warmup_s=HORIZON_S)
    assert cold.num_requests_carried_over == 0 < warm.num_requests_carried_over
    assert warm.throughput_tok_s > cold.throughput_tok_s
    assert warm.warmup_s == HORIZON_S
    assert warm.horizon_s == cold.horizon_s == HORIZON_S


def test_a_window_after_the_last_request_is_empty():
    load = workload([1.0])
    stream = RequestStream(
        arrival_ns=np.array([0]),
        adapter_of=np.array([0], np.int32),
        prompt_tokens=np.array([5], np.int32),
        output_tokens=np.array([5], np.int32),
    )
    made = simulate_requests(stream, load.rank, server(), calibration(), horizon_s=1.0, warmup_s=10.0)
    assert made.num_requests_sent == made.num_requests_completed == made.num_steps == made.num_loads == 0
    assert made.max_num_requests_waiting == 0
    assert np.isnan(made.itl.p50_ms)
