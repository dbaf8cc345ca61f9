import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is of the train extra")

from models.active import choose, design_features, weights
from models.features import (
    FEATURE_NAMES,
    NUM_FEATURES,
    aggregate,
    calibration_vector,
    features_of,
)
from models.scenarios import scenario
from models.training import Examples
from tests.support.feature_cases import a_calibration

CALIBRATION = a_calibration()
RHO = FEATURE_NAMES.index("rho")


def runs(num_rows=600):
    """Return runs that starve above a rho of 1, now and then also below."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(0.0, 2.0, size=(num_rows, NUM_FEATURES)).astype(np.float32)
    chance = np.clip((rows[:, RHO] - 0.8) / 0.4, 0.0, 1.0)
    starved = (rng.uniform(size=num_rows) < chance).astype(float)
    return Examples(
        rows=rows,
        physics=np.tile([1.0, 20.0, 50.0, 1000.0], (num_rows, 1)),
        targets={"throughput": np.where(starved > 0, np.log(0.6), 0.0), "starvation": starved},
        group=np.arange(num_rows) // 4,
    )


def candidates(**features):
    """Return candidates that differ in these features alone."""
    count = len(next(iter(features.values())))
    rows = np.ones((count, NUM_FEATURES), dtype=np.float32)
    for name, values in features.items():
        rows[:, FEATURE_NAMES.index(name)] = values
    return rows, np.tile([1.0, 20.0, 50.0, 1000.0], (count, 1))


def test_doubtful_answers_weigh_more_than_sure_ones():
    safe, doubtful, lost = weights(runs(), *candidates(rho=[0.2, 1.0, 1.9]), seed=0)
    assert doubtful > 5 * safe
    assert doubtful > 5 * lost
    assert min(safe, lost) > 0


def test_rows_are_drawn_once_each_and_the_weighty_ones_first():
    weight = np.where(np.arange(400) < 40, 100.0, 0.1)
    chosen = choose(weight, 50, seed=1)
    assert len(set(chosen)) == 50
    assert (np.diff(chosen) > 0).all()
    assert (chosen < 40).sum() > 35
    np.testing.assert_array_equal(chosen, choose(weight, 50, seed=1))


def test_features_of_a_design_are_those_of_its_scenarios():
    rows, physics = design_features(CALIBRATION, 3, 5, range(7, 12))
    for place, number in enumerate(range(7, 12)):
        drawn = scenario(CALIBRATION, 3, number, max_adapters=5)
        flags = drawn.server
        row, estimate = features_of(
            aggregate(drawn.workload), flags.max_loras, flags.max_lora_rank, calibration_vector(CALIBRATION)
        )
        np.testing.assert_array_equal(rows[place], row)
        np.testing.assert_array_equal(physics[place], estimate)
