"""The report: conservation, definitions, and refusals."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twin_cases import HAS_JIT, calibration, num_examples, report_as_dict, server
from twin.client import ClientConditions
from twin.domain import Adapter, FrontEndLaw, LatencySummary, MemoryLaw, Workload
from twin.errors import InvalidInputError
from twin.memory import kv_tokens
from twin.simulate import simulate, simulate_requests
from twin.workload import RequestStream, generate_requests

HORIZON_S = 20.0 if HAS_JIT else 4.0


def workload(num_adapters=6, rate_rps=2.0, **changes):
    values = {"rank": 8, "input_tokens_mean": 60.0, "output_tokens_mean": 30.0} | changes
    return Workload.from_adapters(
        Adapter(adapter_id=str(row), rate_rps=rate_rps * (1 + row % 3), **values)
        for row in range(num_adapters)
    )


def report(load=None, flags=None, known=None, **keywords):
    return simulate(
        load or workload(), flags or server(), known or calibration(), horizon_s=HORIZON_S, **keywords
    )


loads = st.builds(
    workload,
    num_adapters=st.integers(1, 10),
    rate_rps=st.sampled_from([0.01, 0.3, 3.0, 20.0]),
    input_tokens_mean=st.floats(1, 300),
    output_tokens_mean=st.floats(1, 60),
    input_tokens_cv=st.none() | st.floats(0, 2),
    arrival_cv=st.just(1.0) | st.floats(0, 3),
)
servers = st.builds(
    server,
    max_loras=st.integers(1, 6),
    max_num_seqs=st.sampled_from([2, 16, 64]),
    max_num_batched_tokens=st.sampled_from([64, 2048]),
    max_model_len=st.sampled_from([None, 400]),
)


# --- INV-16: the report's books balance.


@settings(max_examples=num_examples(40), deadline=None)
@given(loads, servers, st.integers(0, 9), st.none() | st.integers(1, 50))
def test_a_reports_books_balance(load, flags, seed, limit):
    made = report(load, flags, seed=seed, client=ClientConditions(max_unfinished_requests=limit))
    assert 0 <= made.num_requests_completed <= made.num_requests_sent
    assert made.throughput_tok_s == made.throughput_in_tok_s + made.throughput_out_tok_s
    assert 0 <= made.throughput_tok_s <= made.offered_tok_s * (1 + 1e-12)
    assert made.starved == (made.throughput_tok_s < 0.9 * made.offered_tok_s)
    assert made.served_fraction.shape == (load.num_adapters,)
    assert ((made.served_fraction >= 0) & (made.served_fraction <= 1)).all()
    assert 0 <= made.mean_num_requests_running <= flags.max_num_seqs
    assert 0 <= made.mean_num_requests_waiting <= made.max_num_requests_waiting + flags.max_num_seqs
    assert 0 <= made.mean_adapters_in_batch <= min(flags.max_loras, load.num_adapters)
    assert 0 <= made.mean_kv_usage <= made.max_kv_usage <= 1
    assert made.kv_tokens == kv_tokens(calibration(), flags.max_loras, flags.max_lora_rank)
    if limit is not None:
        assert made.max_num_requests_waiting <= limit


@settings(max_examples=num_examples(40), deadline=None)
@given(loads, servers, st.integers(0, 9))
def test_latencies_are_ordered_and_add_up(load, flags, seed):
    made = report(load, flags, seed=seed)
    if made.num_requests_completed == 0:
        assert all(np.isnan(getattr(made.ttft, name)) for name in LatencySummary.__slots__)
        return
    for summary in (made.ttft, made.e2e):
        assert 0 < summary.p50_ms <= summary.p95_ms <= summary.p99_ms <= HORIZON_S * 1e3
    assert made.ttft.mean_ms <= made.e2e.mean_ms
    assert made.ttft_incl_unfinished_ms >= made.ttft.mean_ms * (1 - 1e-12)


def test_served_fractions_weighted_by_tokens_give_the_throughput():
    load, flags = workload(rate_rps=8.0), server(max_loras=2)
    made = report(load, flags)
    requests = generate_requests(load, horizon_s=HORIZON_S, seed=0, max_model_len=2048)
    tokens = (requests.prompt_tokens + requests.output_tokens).astype(float)
    sent_tokens = np.bincount(requests.adapter_of, weights=tokens, minlength=load.num_adapters)
    assert made.num_requests_sent == requests.num_requests
    assert made.offered_tok_s == pytest.approx(sent_tokens.sum() / HORIZON_S)
    assert made.throughput_tok_s == pytest.approx((made.served_fraction * sent_tokens).sum() / HORIZON_S)
    assert made.served_fraction.min() < 1


def test_an_adapter_without_requests_counts_as_served():
    requests = RequestStream(
        arrival_ns=np.array([0, 1]),
        adapter_of=np.array([0, 0], np.int32),
        prompt_tokens=np.array([5, 5], np.int32),
        output_tokens=np.array([2, 2000], np.int32),
    )
    made = simulate_requests(requests, np.array([8, 8], np.int32), server(), calibration(), horizon_s=1.0)
    assert made.served_fraction.tolist() == [7 / 2012, 1.0]
    assert made.num_requests_completed == 1
    assert made.starved


def test_a_request_that_ends_after_the_window_is_not_completed():
    requests = RequestStream(
        arrival_ns=np.array([0]),
        adapter_of=np.array([0], np.int32),
        prompt_tokens=np.array([100], np.int32),
        output_tokens=np.array([3], np.int32),
    )
    rank = np.array([8], np.int32)

    def run(horizon_s):
        return simulate_requests(requests, rank, server(), calibration(), horizon_s=horizon_s)

    whole = run(10.0)
    end_s = whole.e2e.mean_ms * 1e-3
    assert whole.num_requests_completed == 1
    assert run(end_s + 1e-6).num_requests_completed == 1
    cut = run(end_s - 1e-6)
    assert cut.num_requests_completed == 0
    assert cut.ttft_incl_unfinished_ms == pytest.approx((end_s - 1e-6) * 1e3)
    assert cut.mean_num_requests_running == pytest.approx(1)


def test_itl_is_the_mean_gap_and_tpot_the_mean_over_requests():
    requests = RequestStream(
        arrival_ns=np.array([0, 10**9]),
        adapter_of=np.array([0, 0], np.int32),
        prompt_tokens=np.array([10, 10], np.int32),
        output_tokens=np.array([3, 11], np.int32),
    )
    made = simulate_requests(requests, np.array([8], np.int32), server(), calibration(), horizon_s=10.0)
    decode_ms = 2 * (made.e2e.mean_ms - made.ttft.mean_ms)
    assert made.itl.mean_ms == pytest.approx(decode_ms / 12)
    assert made.tpot.mean_ms == pytest.approx(made.itl.mean_ms, rel=0.05)
    assert made.itl.p50_ms == pytest.approx(made.itl.mean_ms, rel=0.05)


def test_an_empty_window_has_nothing_to_report():
    made = report(workload(1, rate_rps=1e-9))
    assert made.num_requests_sent == made.num_steps == 0
    assert not made.starved
    assert made.served_fraction.tolist() == [1.0]
    assert np.isnan(made.ttft_incl_unfinished_ms)


def test_the_same_seed_gives_the_same_report():
    assert str(report_as_dict(report(seed=3))) == str(report_as_dict(report(seed=3)))
    assert str(report_as_dict(report(seed=3))) != str(report_as_dict(report(seed=4)))


def test_more_load_offers_more_and_serves_a_smaller_share():
    reports = [report(workload(rate_rps=rate, output_tokens_mean=10.0)) for rate in (0.5, 4.0, 30.0, 120.0)]
    offered = [made.offered_tok_s for made in reports]
    shares = [made.throughput_tok_s / made.offered_tok_s for made in reports]
    assert offered == sorted(offered)
    assert shares == sorted(shares, reverse=True)
    assert [made.starved for made in reports][0::3] == [False, True]


NOISE = 0.98
"""One window is one sample: a larger server may complete this share of a smaller one's tokens."""


@pytest.mark.parametrize("max_loras", [1, 3, 6])
@pytest.mark.parametrize("pool_mb", [40, 60, 250])
def test_throughput_and_waiting_do_not_fall_as_rates_rise(max_loras, pool_mb):
    known, flags = calibration(memory=MemoryLaw(pool_bytes=pool_mb * 1e6)), server(max_loras=max_loras)
    made = [report(workload(rate_rps=rate), flags, known) for rate in (0.25, 1.0, 4.0, 16.0, 64.0)]
    for slower, faster in pairwise(made):
        assert faster.throughput_tok_s >= NOISE * slower.throughput_tok_s
        assert faster.mean_num_requests_waiting >= NOISE * slower.mean_num_requests_waiting


@pytest.mark.parametrize("rate_rps", [0.5, 4.0, 32.0])
def test_throughput_does_not_fall_as_memory_grows(rate_rps):
    load = workload(rate_rps=rate_rps, input_tokens_mean=200.0, output_tokens_mean=60.0)
    made = [
        report(load, server(), calibration(memory=MemoryLaw(pool_bytes=pool_mb * 1e6)))
        for pool_mb in (40, 50, 70, 110, 250)
    ]
    assert [one.kv_tokens for one in made] == sorted({one.kv_tokens for one in made})
    for smaller, larger in pairwise(made):
        assert larger.throughput_tok_s >= NOISE * smaller.throughput_tok_s


# --- A benchmark's client.


def test_a_limited_client_sends_what_the_server_finishes():
    limited = report(workload(rate_rps=100.0), client=ClientConditions(max_unfinished_requests=5))
    assert 0 <= limited.num_requests_sent - limited.num_requests_completed <= 5
    assert limited.max_num_requests_waiting <= 5
    assert limited.num_requests_sent < report(workload(rate_rps=100.0)).num_requests_sent


def test_a_limit_that_is_never_reached_changes_nothing():
    free = report(workload(rate_rps=0.1), seed=1)
    limited = report(workload(rate_rps=0.1), seed=1, client=ClientConditions(max_unfinished_requests=100_000))
    assert str(report_as_dict(limited)) == str(report_as_dict(free))


def test_a_cold_start_delays_the_first_request_of_an_adapter_and_those_behind_it():
    requests = RequestStream(
        arrival_ns=np.array([0, 1, 5 * 10**9]),
        adapter_of=np.array([0, 0, 0], np.int32),
        prompt_tokens=np.array([10, 10, 10], np.int32),
        output_tokens=np.array([1, 1, 1], np.int32),
    )
    slow_first_use = calibration(front_end=FrontEndLaw(first_use_ms=100.0))

    def ttft(client):
        return simulate_requests(
            requests, np.array([8], np.int32), server(), slow_first_use, horizon_s=10.0, client=client
        ).ttft

    warm, cold = ttft(ClientConditions()), ttft(ClientConditions(cold_start=True))
    assert cold.p50_ms > 100 > warm.p99_ms
    assert cold.mean_ms * 3 < 100 * 2 + warm.mean_ms * 3 + warm.p99_ms


def test_requests_behind_the_front_end_count_as_sent():
    slow_first_use = calibration(front_end=FrontEndLaw(first_use_ms=60_000.0))
    reports = [
        simulate(workload(), server(), slow_first_use, horizon_s=HORIZON_S, client=client)
        for client in (ClientConditions(), ClientConditions(cold_start=True))
    ]
    assert reports[0].num_requests_sent == reports[1].num_requests_sent
    assert reports[1].num_requests_completed == 0
    assert reports[1].starved


# --- Refusals.


@pytest.mark.parametrize("limit", [0, -1])
def test_a_client_that_may_send_nothing_is_refused(limit):
    with pytest.raises(InvalidInputError) as refusal:
        ClientConditions(max_unfinished_requests=limit)
    assert refusal.value.field == "max_unfinished_requests"


@pytest.mark.parametrize("horizon_s", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_window_out_of_range_is_refused(horizon_s):
    with pytest.raises(InvalidInputError) as refusal:
        simulate(workload(), server(), calibration(), horizon_s=horizon_s)
    assert refusal.value.field == "horizon_s"


@pytest.mark.parametrize("warmup_s", [-1.0, float("nan"), float("inf"), 1e9])
def test_a_warm_up_out_of_range_is_refused(warmup_s):
    with pytest.raises(InvalidInputError) as refusal:
        simulate(workload(), server(), calibration(), horizon_s=1.0, warmup_s=warmup_s)
    assert refusal.value.field == "warmup_s"


@pytest.mark.parametrize(
    ("load", "flags", "field"),
    [
        (workload(rank=32), server(), "adapters[0].rank"),
        (workload(), server(max_lora_rank=128), "max_lora_rank"),
        (workload(), server(max_loras=4000), "max_loras"),
        (workload(), server(max_model_len=10**6), "max_loras"),
    ],
)
def test_a_server_that_would_not_start_is_refused(load, flags, field):
    with pytest.raises(InvalidInputError) as refusal:
        report(load, flags)
    assert refusal.value.field == field


def test_given_requests_must_fit_the_server_and_the_adapters():
    requests = RequestStream(
        arrival_ns=np.array([0]),
        adapter_of=np.array([3], np.int32),
        prompt_tokens=np.array([10**6], np.int32),
        output_tokens=np.array([1], np.int32),
    )
    with pytest.raises(InvalidInputError) as refusal:
        simulate_requests(requests, np.array([8], np.int32), server(), calibration(), horizon_s=1.0)
    assert refusal.value.field == "adapter_of"
    with pytest.raises(InvalidInputError) as refusal:
        simulate_requests(
            replace_column(requests), np.array([8], np.int32), server(), calibration(), horizon_s=1.0
        )
    assert refusal.value.field == "prompt_tokens"


def replace_column(requests):
    return replace(requests, adapter_of=np.array([0], np.int32))


def test_a_server_without_kv_blocks_is_refused():
    with pytest.raises(InvalidInputError) as refusal:
        report(known=calibration(memory=MemoryLaw(pool_bytes=0.0)))
    assert refusal.value.field == "max_loras"
    assert "leaves no memory for a KV cache" in refusal.value.message
