from dataclasses import replace

import numpy as np
import pytest

from models.features import FEATURE_NAMES, aggregate, calibration_vector, features_of
from models.scenarios import GROUP_SIZE, MAX_REQUESTS, MAX_RHO, ODDS, levels, scale_for_rho, scenario
from tests.support.feature_cases import a_calibration
from twin.memory import fits_in_memory

CALIBRATION = a_calibration()
DRAWN = [scenario(CALIBRATION, 3, row, max_adapters=30) for row in range(60)]


def test_the_same_seed_and_row_give_the_same_scenario():
    again = scenario(CALIBRATION, 3, 17, max_adapters=30)
    assert again.server == DRAWN[17].server
    assert again.simulation_seed == DRAWN[17].simulation_seed
    for name in ("rank", "rate_rps", "input_tokens_mean", "output_tokens_mean", "arrival_cv"):
        np.testing.assert_array_equal(getattr(again.workload, name), getattr(DRAWN[17].workload, name))


def test_each_row_has_random_numbers_of_its_own():
    assert len({drawn.simulation_seed for drawn in DRAWN}) == len(DRAWN)


def test_another_seed_gives_another_scenario():
    other = scenario(CALIBRATION, 4, 17, max_adapters=30)
    assert other.simulation_seed != DRAWN[17].simulation_seed


def test_rows_of_a_group_share_a_mix_of_adapters_and_differ_in_load_or_slots():
    first, *others = DRAWN[:GROUP_SIZE]
    assert {drawn.group for drawn in (first, *others)} == {0}
    for drawn in others:
        np.testing.assert_array_equal(drawn.workload.rank, first.workload.rank)
        ratio = drawn.workload.rate_rps / first.workload.rate_rps
        np.testing.assert_allclose(ratio, ratio[0])
        assert ratio[0] != pytest.approx(1) or drawn.server != first.server


def test_every_server_starts_and_takes_its_adapters():
    for drawn in DRAWN:
        assert fits_in_memory(CALIBRATION, drawn.server)
        assert drawn.server.max_lora_rank <= CALIBRATION.max_known_rank
        assert drawn.workload.rank.max() == drawn.server.max_lora_rank


def test_loads_stay_below_the_highest_and_reach_from_idle_to_overload():
    vector = calibration_vector(CALIBRATION)
    rho = []
    for drawn in DRAWN:
        row, _ = features_of(
            aggregate(drawn.workload), drawn.server.max_loras, drawn.server.max_lora_rank, vector
        )
        rho.append(row[FEATURE_NAMES.index("rho")])
    assert max(rho) < 1.02 * MAX_RHO
    assert min(rho) < 0.1
    assert np.mean([0.5 < value < 1.4 for value in rho]) > 0.15
    assert np.mean([value > 1.4 for value in rho]) > 0.1


@pytest.mark.parametrize("rho", [0.01, 0.5, 0.95, 2.5])
def test_rates_are_scaled_to_the_load_that_was_drawn(rho):
    vector = calibration_vector(CALIBRATION)
    for drawn in DRAWN[:12]:
        mix, server = drawn.workload, drawn.server
        scale = scale_for_rho(rho, mix, server, vector)
        scaled = replace(mix, rate_rps=mix.rate_rps * scale)
        row, _ = features_of(aggregate(scaled), server.max_loras, server.max_lora_rank, vector)
        assert row[FEATURE_NAMES.index("rho")] == pytest.approx(rho, rel=0.02)


def test_no_scenario_sends_more_than_a_second_or_so_of_simulation():
    assert all(drawn.workload.rate_rps.sum() * 3600 <= 1.0001 * MAX_REQUESTS for drawn in DRAWN)


def test_the_odds_of_every_trait_sum_to_one():
    for odds in ODDS.values():
        assert sum(odds.values()) == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_levels_leave_no_part_of_their_range_empty(count):
    points = np.array([levels(3, index, count) for index in range(256)])
    assert ((points >= 0) & (points < 1)).all()
    for axis in points.T:
        assert np.diff(np.sort(axis)).max() < 12 / 256


def test_the_design_reaches_the_ends_of_what_it_covers():
    drawn = [scenario(CALIBRATION, 3, row) for row in range(0, 1200, GROUP_SIZE)]
    counts = np.array([one.workload.num_adapters for one in drawn])
    assert counts.min() == 1
    assert counts.max() > 1800
    lengths = np.concatenate([one.workload.input_tokens_mean for one in drawn])
    assert lengths.min() == pytest.approx(16)
    assert lengths.max() == pytest.approx(8000)
    assert any(np.ptp(one.workload.input_tokens_mean) > 0 for one in drawn)
    assert any(np.ptp(one.workload.arrival_cv) > 0 for one in drawn)
    assert {one.server.max_lora_rank for one in drawn} >= {8, 16, 32}
