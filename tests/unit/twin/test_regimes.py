"""Unpredictable traffic: what the reference does, and a regime of ours that keeps the mean."""

import numpy as np
import pytest

from twin.domain import Adapter, Workload
from twin.errors import InvalidInputError
from twin.regimes import rate_ladder, reference_unpredictable, unpredictable
from twin.traffic import ARRIVAL_LAWS, REFERENCE_LOGNORMAL
from twin.workload import generate_requests


def workload_of(count, rate_rps):
    return Workload.from_adapters(
        Adapter(adapter_id=str(row), rank=8, rate_rps=rate_rps, input_tokens_mean=200, output_tokens_mean=200)
        for row in range(count)
    )


def columns(workload):
    return [
        [getattr(schedule, name).tobytes() for name in schedule.__slots__]
        for schedule in workload.rate_schedules
    ]


@pytest.mark.parametrize("regime", [reference_unpredictable, unpredictable])
def test_every_adapter_changes_about_every_300_seconds_and_not_all_at_once(regime):
    schedules = regime(workload_of(200, 1.0), horizon_s=3600.0, seed=1).rate_schedules
    gaps_s = np.concatenate([np.diff(schedule.start_s) for schedule in schedules])
    assert gaps_s.mean() == pytest.approx(300, rel=0.02)
    assert 240 <= gaps_s.min() < gaps_s.max() <= 360
    assert len({schedule.start_s[1] for schedule in schedules}) == 200
    assert all(schedule.start_s[-1] >= 3600 for schedule in schedules)


@pytest.mark.parametrize("regime", [reference_unpredictable, unpredictable])
def test_the_same_seed_gives_the_same_changes(regime):
    workload = workload_of(5, 0.5)
    first, again = (regime(workload, horizon_s=3600.0, seed=1) for _ in range(2))
    assert columns(first) == columns(again)
    assert columns(first) != columns(regime(workload, horizon_s=3600.0, seed=2))


@pytest.mark.parametrize("rate_rps", [0.2, 1.0, 7.0])
def test_the_reference_starts_poisson_then_steps_by_half_as_much_again_within_its_bounds(rate_rps):
    schedules = reference_unpredictable(workload_of(50, rate_rps), horizon_s=36_000.0, seed=1).rate_schedules
    for schedule in schedules:
        rates = schedule.rate_rps
        assert rates[0] == rate_rps
        assert schedule.arrival_law[0] == ARRIVAL_LAWS.index("gamma")
        assert rates.min() >= 1 / 7.5
        assert rates.max() <= 7.5
        inside = (rates[1:] > 1 / 7.5) & (rates[1:] < 7.5)
        steps = np.abs(np.log(rates[1:] / rates[:-1]))
        assert steps[inside] == pytest.approx(np.log(1.5))
    laws = np.concatenate([schedule.arrival_law[1:] for schedule in schedules])
    assert set(laws.tolist()) == {ARRIVAL_LAWS.index("gamma"), REFERENCE_LOGNORMAL}
    assert (laws == REFERENCE_LOGNORMAL).mean() == pytest.approx(0.5, abs=0.05)


def test_the_references_lognormal_gaps_turn_a_small_rate_into_about_one_a_second():
    chosen = reference_unpredictable(workload_of(60, 0.15), horizon_s=3600.0, seed=1)
    requests = generate_requests(chosen, horizon_s=3600.0, seed=1, max_model_len=4096)
    assert requests.num_requests / 60 / 3600 > 3 * 0.15


def test_our_ladder_has_mean_one_and_stays_within_the_bounds():
    factors = rate_ladder()
    assert factors.mean() == pytest.approx(1)
    assert factors[1:] / factors[:-1] == pytest.approx(1.5)
    assert 1 / 7.5 <= factors[0] < factors[-1] <= 7.5
    longer = 1.5 ** np.arange(factors.shape[0] + 2.0)  # the next ladder of an odd number of rungs
    longer /= longer.mean()
    assert longer[0] < 1 / 7.5 or longer[-1] > 7.5


def test_our_regime_keeps_the_mean_rate_at_every_moment():
    schedules = unpredictable(workload_of(4000, 2.0), horizon_s=3600.0, seed=3).rate_schedules
    spread = 2.0 * rate_ladder().std() / 4000**0.5
    for piece in (0, 1, 5, 12):
        rates = np.array([schedule.rate_rps[piece] for schedule in schedules])
        assert abs(rates.mean() - 2.0) < 5 * spread


def test_our_regime_sends_as_many_requests_as_the_rates_say():
    chosen = unpredictable(workload_of(300, 0.3), horizon_s=3600.0, seed=3, bursty_cv=3.0)
    expected = sum(schedule.mean_rate_rps(3600.0) for schedule in chosen.rate_schedules) * 3600
    sent = generate_requests(chosen, horizon_s=3600.0, seed=1, max_model_len=4096).num_requests
    assert abs(sent - expected) < 5 * 3 * expected**0.5


def test_a_regime_without_a_window_is_refused():
    with pytest.raises(InvalidInputError) as refusal:
        unpredictable(workload_of(1, 1.0), horizon_s=0.0, seed=0)
    assert refusal.value.field == "horizon_s"
