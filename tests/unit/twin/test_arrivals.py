"""Arrivals: each law's gaps, stationarity, schedules, and requests that do not depend on the window."""

import math

import numpy as np
import pytest
from scipy import stats

from twin.domain import Adapter, Workload
from twin.errors import InvalidInputError
from twin.kernels.requests import weibull_shape
from twin.traffic import ARRIVAL_LAWS, LengthQuantiles, RateSchedule
from twin.workload import generate_requests

HORIZON_S = 1000.0


def one_adapter(**changes):
    values = {"adapter_id": "a", "rank": 8, "rate_rps": 20.0, "input_tokens_mean": 200.0}
    return Adapter(**(values | {"output_tokens_mean": 150.0} | changes))


def stream(*adapters, horizon_s=HORIZON_S, seed=0, **limits):
    workload = Workload.from_adapters(adapters)
    return generate_requests(workload, horizon_s=horizon_s, seed=seed, max_model_len=100_000, **limits)


def many(count, **changes):
    return [one_adapter(adapter_id=str(row), **changes) for row in range(count)]


def law_of_gaps(law, rate, cv):
    """The law by scipy: none of our formulae."""
    if law == "gamma":
        return stats.gamma(cv**-2, scale=cv**2 / rate)
    if law == "lognormal":
        return stats.lognorm(math.sqrt(math.log1p(cv**2)), scale=1 / rate / math.sqrt(1 + cv**2))
    shape = weibull_shape(cv)
    frozen = stats.weibull_min(shape, scale=1 / (rate * math.gamma(1 + 1 / shape)))
    assert frozen.std() / frozen.mean() == pytest.approx(cv, rel=1e-6)
    return frozen


@pytest.mark.parametrize("cv", [0.5, 2.0])
@pytest.mark.parametrize("law", ARRIVAL_LAWS)
def test_gaps_follow_the_law_asked_for(law, cv):
    requests = stream(one_adapter(arrival_cv=cv, arrival_law=law))
    gaps_s = np.diff(requests.arrival_ns) * 1e-9
    assert stats.kstest(gaps_s, law_of_gaps(law, 20.0, cv).cdf).pvalue > 1e-3


@pytest.mark.parametrize("law", ["gamma", "weibull"])
def test_a_variation_of_one_is_a_poisson_process(law):
    requests = stream(one_adapter(arrival_law=law))
    assert stats.kstest(np.diff(requests.arrival_ns) * 1e-9, stats.expon(scale=1 / 20).cdf).pvalue > 1e-3


def test_the_lognormal_law_of_variation_one_is_no_poisson_process():
    gaps_s = np.diff(stream(one_adapter(arrival_law="lognormal")).arrival_ns) * 1e-9
    assert stats.kstest(gaps_s, law_of_gaps("lognormal", 20.0, 1.0).cdf).pvalue > 1e-3
    assert stats.kstest(gaps_s, stats.expon(scale=1 / 20).cdf).pvalue < 1e-6


@pytest.mark.parametrize("cv", [0.0, 0.4, 2.0])
@pytest.mark.parametrize("law", ARRIVAL_LAWS)
def test_a_renewal_process_is_stationary_from_the_first_second(law, cv):
    arrival_s = (
        stream(*many(600, rate_rps=0.5, arrival_cv=cv, arrival_law=law), horizon_s=16.0).arrival_ns * 1e-9
    )
    counts = np.histogram(arrival_s, bins=8, range=(0, 16))[0]
    # 600 adapters, one expected in each bin; the variance of a bin is at most (1 + cv**2) a request.
    assert np.abs(counts - 600).max() < 5 * (600 * (1 + cv**2)) ** 0.5


@pytest.mark.parametrize("law", ARRIVAL_LAWS)
def test_the_wait_for_the_first_request_is_that_of_an_observer_who_comes_at_any_time(law):
    requests = stream(*many(1500, rate_rps=1.0, arrival_cv=1.7, arrival_law=law), horizon_s=60.0)
    _, first = np.unique(requests.adapter_of, return_index=True)
    gaps = law_of_gaps(law, 1.0, 1.7)
    grid = np.linspace(0.0, 60.0, 6001)
    survival = gaps.sf(grid)
    cdf = np.concatenate(([0.0], np.cumsum((survival[1:] + survival[:-1]) / 2) * 0.01))
    waits = requests.arrival_ns[first] * 1e-9
    assert stats.kstest(waits, lambda wait: np.interp(wait, grid, cdf / cdf[-1])).pvalue > 1e-3


def test_fixed_gaps_are_equal_and_their_phase_is_uniform():
    requests = stream(*many(500, rate_rps=0.5, arrival_cv=0.0), horizon_s=20.0)
    phases = []
    for row in range(500):
        mine = requests.arrival_ns[requests.adapter_of == row]
        assert np.diff(mine) == pytest.approx(2e9, abs=2)
        phases.append(mine[0] * 1e-9)
    assert stats.kstest(phases, stats.uniform(0, 2).cdf).pvalue > 1e-3


def test_adapters_of_different_laws_superpose_to_the_sum_of_their_rates():
    adapters = [
        one_adapter(adapter_id=f"{law}{cv}", arrival_law=law, arrival_cv=cv)
        for law in ARRIVAL_LAWS
        for cv in (0.0, 0.5, 1.0, 1.5)
    ]
    requests = stream(*adapters)
    counts = np.bincount(requests.adapter_of, minlength=len(adapters))
    for count, adapter in zip(counts, adapters, strict=True):
        assert abs(count - 20_000) <= 5 * adapter.arrival_cv * 20_000**0.5 + 1
    assert (np.diff(requests.arrival_ns) >= 0).all()


def test_a_limit_on_requests_keeps_the_first_ones():
    for adapters in (
        [one_adapter()],
        [one_adapter(input_tokens_cv=1.0), one_adapter(adapter_id="b", arrival_cv=2)],
    ):
        whole, cut = stream(*adapters), stream(*adapters, max_requests=700)
        assert cut.num_requests == 700
        for name in ("arrival_ns", "adapter_of", "prompt_tokens", "output_tokens"):
            assert (getattr(cut, name) == getattr(whole, name)[:700]).all()


def test_a_longer_poisson_window_begins_with_the_shorter_one():
    short, whole = stream(one_adapter(), horizon_s=200.0), stream(one_adapter())
    for name in ("arrival_ns", "prompt_tokens", "output_tokens"):
        assert (getattr(short, name) == getattr(whole, name)[: short.num_requests]).all()


@pytest.mark.parametrize("changes", [{}, {"arrival_cv": 2.0}, {"arrival_law": "lognormal"}])
def test_a_rate_of_too_many_requests_is_refused_whatever_the_law(changes):
    with pytest.raises(InvalidInputError, match="2e7"):
        stream(one_adapter(rate_rps=1e6, **changes))


# --- Schedules.


def schedule(*pieces):
    start_s, rate_rps, cv, law = zip(*pieces, strict=True)
    return RateSchedule(start_s=start_s, rate_rps=rate_rps, arrival_cv=cv, arrival_law=law)


def test_each_window_of_a_schedule_has_its_own_rate_and_law():
    pieces = ((0, 10, 1.0, 0), (200, 0, 1.0, 0), (400, 40, 0.5, 1), (500, 5, 2.0, 2))
    adapters = [
        one_adapter(adapter_id=str(row), rate_rps=9.0, rate_schedule=schedule(*pieces)) for row in range(20)
    ]
    arrival_s = stream(*adapters).arrival_ns * 1e-9
    counts = np.histogram(arrival_s, bins=[0, 200, 400, 500, 1000])[0]
    expected = 20 * np.array([2000, 0, 4000, 2500])
    spread = 5 * np.array([1.0, 0.0, 0.5, 2.0]) * expected**0.5
    assert (np.abs(counts - expected) <= spread).all()


def test_the_last_piece_of_a_schedule_holds_to_the_end():
    adapter = one_adapter(rate_schedule=schedule((0, 0, 1, 0), (10, 20, 1, 0)))
    arrival_s = stream(adapter).arrival_ns * 1e-9
    assert arrival_s.min() >= 10
    assert abs((arrival_s > 900).sum() - 2000) < 5 * 2000**0.5


def test_pieces_after_the_window_send_nothing_into_it():
    adapter = one_adapter(rate_schedule=schedule((0, 1, 0.0, 0), (50, 1000, 1, 0)))
    requests = stream(adapter, horizon_s=20.0)
    assert requests.num_requests == 20
    assert adapter.rate_schedule.mean_rate_rps(20.0) == 1.0
    assert adapter.rate_schedule.mean_rate_rps(100.0) == pytest.approx((50 + 50_000) / 100)


def test_a_day_of_hourly_rates_is_followed_hour_by_hour():
    rates = 3 + 2 * np.sin(np.arange(24) / 24 * 2 * np.pi)
    adapter = one_adapter(rate_schedule=RateSchedule.from_rates(rates, window_s=3600.0, arrival_cv=1.5))
    arrival_s = stream(adapter, horizon_s=86_400.0).arrival_ns * 1e-9
    counts = np.histogram(arrival_s, bins=24, range=(0, 86_400))[0]
    assert np.abs(counts - rates * 3600).max() < 5 * 1.5 * (5 * 3600) ** 0.5


@pytest.mark.parametrize(
    ("pieces", "field"),
    [
        ([(1, 1, 1, 0)], "rate_schedule[0].start_s"),
        ([(0, 1, 1, 0), (0, 1, 1, 0)], "rate_schedule[1].start_s"),
        ([(0, -1, 1, 0)], "rate_schedule[0].rate_rps"),
        ([(0, float("nan"), 1, 0)], "rate_schedule[0].rate_rps"),
        ([(0, 1, 101, 0)], "rate_schedule[0].arrival_cv"),
        ([(0, 1, 1, 0), (1, 1, 1, 9)], "rate_schedule[1].arrival_law"),
        ([(0, 1, 1, 256)], "rate_schedule[0].arrival_law"),
    ],
)
def test_a_schedule_names_the_piece_that_is_wrong(pieces, field):
    with pytest.raises(InvalidInputError) as refusal:
        schedule(*pieces)
    assert refusal.value.field == field


def test_an_unknown_law_is_refused_by_adapter():
    with pytest.raises(InvalidInputError) as refusal:
        one_adapter(arrival_law="cauchy")
    assert refusal.value.field == "adapters[0].arrival_law"


def test_a_subset_keeps_laws_schedules_and_lengths():
    lengths = LengthQuantiles(levels=(0.0, 1.0), tokens=(100.0, 300.0))
    rows = [
        one_adapter(),
        one_adapter(adapter_id="b", arrival_law="weibull", rate_schedule=schedule((0, 2, 1, 0))),
        one_adapter(adapter_id="c", input_tokens_quantiles=lengths),
    ]
    chosen = Workload.from_adapters(rows).subset(np.array([2, 1]))
    assert chosen.arrival_law.tolist() == [0, 1]
    assert chosen.rate_schedules == (None, rows[1].rate_schedule)
    assert chosen.input_tokens_quantiles == (lengths, None)
    assert chosen.output_tokens_quantiles == ()


# --- Lengths by quantiles.


def test_lengths_by_quantiles_follow_them():
    law = LengthQuantiles(levels=(0.0, 0.5, 0.9, 1.0), tokens=(10.0, 100.0, 1000.0, 9000.0))
    adapter = one_adapter(
        rate_rps=50.0, input_tokens_mean=law.mean_tokens, input_tokens_quantiles=law, output_tokens_cv=0.0
    )
    tokens = stream(adapter).prompt_tokens
    uniform = np.interp(tokens, law.tokens, law.levels)
    assert stats.kstest(uniform, stats.uniform.cdf).statistic < 0.01
    assert law.mean_tokens == pytest.approx(0.5 * 55 + 0.4 * 550 + 0.1 * 5000)
    assert tokens.mean() == pytest.approx(law.mean_tokens, rel=0.03)


def test_lengths_by_quantiles_may_stand_beside_sharegpts():
    law = LengthQuantiles(levels=(0.0, 1.0), tokens=(1000.0, 1000.0))
    requests = stream(
        one_adapter(input_tokens_mean=1000.0, input_tokens_quantiles=law), one_adapter(adapter_id="b")
    )
    assert set(requests.prompt_tokens[requests.adapter_of == 0].tolist()) == {1000}
    others = requests.prompt_tokens[requests.adapter_of == 1]
    assert others.mean() == pytest.approx(200, rel=0.05)
    assert requests.output_tokens.mean() == pytest.approx(150, rel=0.05)


@pytest.mark.parametrize(
    ("levels", "tokens", "field"),
    [
        ((0.1, 1.0), (1.0, 2.0), "levels"),
        ((0.0, 0.9), (1.0, 2.0), "levels"),
        ((0.0,), (1.0,), "levels"),
        ((0.0, 0.6, 0.5, 1.0), (1.0, 2.0, 3.0, 4.0), "levels"),
        ((0.0, 1.0), (1.0,), "tokens"),
        ((0.0, 1.0), (2.0, 1.0), "tokens"),
        ((0.0, 1.0), (0.0, 1.0), "tokens"),
        ((0.0, 1.0), (1.0, 2e6), "tokens"),
        ((0.0, 0.5, 1.0), (1.0, float("nan"), 2.0), "tokens"),
    ],
)
def test_quantiles_name_what_is_wrong(levels, tokens, field):
    with pytest.raises(InvalidInputError) as refusal:
        LengthQuantiles(levels=levels, tokens=tokens)
    assert refusal.value.field == field


def test_a_mean_that_is_not_that_of_the_quantiles_is_refused():
    with pytest.raises(InvalidInputError) as refusal:
        one_adapter(input_tokens_quantiles=LengthQuantiles(levels=(0.0, 1.0), tokens=(100.0, 500.0)))
    assert refusal.value.field == "adapters[0].input_tokens_mean"
