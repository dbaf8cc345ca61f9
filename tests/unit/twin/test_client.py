"""What a benchmark's client sees: its own pauses, and the server's behind them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twin_cases import calibration, num_examples, server
from twin.client import OUTPUT_CHUNK, SERIES_OVERHEAD_NAMES, STEADY_SERVICE, ClientConditions, client_view
from twin.domain import Adapter, FrontEndLaw, Workload
from twin.errors import InvalidInputError
from twin.simulate import simulate

SCRAPED = ClientConditions(scrape_interval_s=2.0)
SLOW = FrontEndLaw(label_us=200.0)


@pytest.fixture(scope="module")
def served():
    """Six adapters that come and go on a server that keeps up."""
    workload = Workload.from_adapters(
        Adapter(adapter_id=str(row), rank=8, rate_rps=2.0, input_tokens_mean=40, output_tokens_mean=20)
        for row in range(6)
    )
    return simulate(workload, server(max_loras=6), calibration(), horizon_s=30.0)


def test_without_scrapes_a_client_sees_the_engines_latencies(served):
    seen = client_view(served, SLOW, STEADY_SERVICE)
    assert (seen.itl_ms, seen.ttft_ms) == (served.itl.mean_ms, served.ttft.mean_ms)
    assert seen == client_view(served, FrontEndLaw(), SCRAPED)


@settings(max_examples=num_examples(50), deadline=None)
@given(st.floats(0.0, 500.0), st.floats(0.0, 500.0), st.floats(0.1, 60.0))
def test_longer_pauses_merge_more_chunks_and_delay_more_requests(served, one_us, other_us, interval_s):
    client = ClientConditions(scrape_interval_s=interval_s)
    less, more = (
        client_view(served, FrontEndLaw(label_us=label_us), client) for label_us in sorted((one_us, other_us))
    )
    assert served.itl.mean_ms <= less.itl_ms <= more.itl_ms
    assert served.ttft.mean_ms <= less.ttft_ms <= more.ttft_ms


def test_rarer_scrapes_are_seen_less(served):
    often, seldom = (
        client_view(served, SLOW, ClientConditions(scrape_interval_s=interval_s))
        for interval_s in (1.0, 60.0)
    )
    assert served.itl.mean_ms < seldom.itl_ms < often.itl_ms


def test_tokens_of_steps_with_more_answers_than_a_chunk_do_not_merge(served):
    crowded = served.state_samples.copy()
    crowded[:, 0] = OUTPUT_CHUNK + 1
    seen = client_view(replace(served, state_samples=crowded), SLOW, SCRAPED)
    assert seen.itl_ms == served.itl.mean_ms
    assert seen.ttft_ms > served.ttft.mean_ms


def test_a_scrape_loses_all_chunks_of_its_pause_but_one_and_holds_back_who_comes_in_it(served):
    """Counted cycle by cycle: the batch never changes, so pauses grow to a known length."""
    label_us, num_series = 40_000.0, served.num_arrival_steps + served.num_adapter_set_changes
    last_pause_ms = 1e-3 * label_us * num_series / (num_series + 1) * (6 + SERIES_OVERHEAD_NAMES)
    pauses_ms = last_pause_ms * (np.arange(10_000) + 0.5) / 10_000
    cycles_ms = 2000.0 + pauses_ms
    step_ms = served.itl.mean_ms
    chunks = cycles_ms / step_ms - np.maximum(pauses_ms / step_ms - 1, 0)
    held_back_ms = pauses_ms / cycles_ms * (pauses_ms / 2 + pauses_ms / 2)
    always = replace(served, mean_adapters_in_batch=6.0)
    seen = client_view(always, FrontEndLaw(label_us=label_us), SCRAPED)
    assert seen.itl_ms == pytest.approx(step_ms / np.mean(chunks * step_ms / cycles_ms), rel=1e-3)
    assert seen.ttft_ms - served.ttft.mean_ms == pytest.approx(held_back_ms.mean(), rel=1e-3)


def test_a_full_chunk_of_answers_still_merges(served):
    full = served.state_samples.copy()
    full[:, 0] = OUTPUT_CHUNK
    assert client_view(replace(served, state_samples=full), SLOW, SCRAPED).itl_ms > served.itl.mean_ms


def test_no_latency_is_longer_than_the_window_where_the_trend_exceeds_what_was_sent(served):
    flooded = replace(served, num_unfinished_trend=2.0 * served.num_requests_sent)
    assert client_view(flooded, FrontEndLaw(), STEADY_SERVICE).ttft_incl_unfinished_ms == 30_000.0


def test_a_server_that_only_prefills_has_no_gap_to_lengthen(served):
    silent = replace(
        served, itl=replace(served.itl, mean_ms=math.nan), state_samples=served.state_samples[:0]
    )
    seen = client_view(silent, SLOW, SCRAPED)
    assert math.isnan(seen.itl_ms)
    assert seen.ttft_ms > served.ttft.mean_ms


def test_a_set_of_adapters_that_never_changes_has_one_series(served):
    always = replace(served, mean_adapters_in_batch=6.0)
    often = replace(served, mean_adapters_in_batch=3.0)
    itl_ms = [client_view(report, SLOW, SCRAPED).itl_ms for report in (always, often)]
    assert itl_ms[0] < itl_ms[1]


def test_unfinished_requests_count_the_whole_window(served):
    seen = client_view(replace(served, num_unfinished_trend=3.0), FrontEndLaw(), STEADY_SERVICE)
    sent = served.num_requests_sent
    expected = (3.0 * 30_000.0 + (sent - 3.0) * served.ttft.mean_ms) / sent
    assert seen.ttft_incl_unfinished_ms == pytest.approx(expected)


def test_a_server_that_nothing_was_sent_to_has_no_latency(served):
    idle = replace(served, num_requests_sent=0, num_requests_completed=0, num_unfinished_trend=0.0)
    assert math.isnan(client_view(idle, FrontEndLaw(), STEADY_SERVICE).ttft_incl_unfinished_ms)


@pytest.mark.parametrize("interval_s", [0.0, -1.0, math.nan, math.inf])
def test_a_pause_between_scrapes_is_positive(interval_s):
    with pytest.raises(InvalidInputError) as refusal:
        ClientConditions(scrape_interval_s=interval_s)
    assert refusal.value.field == "scrape_interval_s"


def test_the_trend_of_unfinished_requests_is_their_number_where_it_grows_evenly():
    slow = replace(calibration(), step=replace(calibration().step, base_ms=400.0))
    workload = Workload.from_adapters(
        [Adapter(adapter_id="a", rank=8, rate_rps=50.0, input_tokens_mean=40, output_tokens_mean=20)]
    )
    flooded = simulate(workload, server(max_loras=1, max_num_seqs=4), slow, horizon_s=60.0)
    unfinished = flooded.num_requests_sent - flooded.num_requests_completed
    assert flooded.num_unfinished_trend == pytest.approx(unfinished, rel=0.03)
    assert np.isfinite(flooded.num_unfinished_trend)
