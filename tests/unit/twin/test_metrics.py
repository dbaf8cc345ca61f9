"""Metrics: equal to their definitions, silent where there is nothing to compare."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.metrics import accuracy, f1, mape_pct, smape_half_pct

values = st.lists(st.floats(0.1, 1e6), min_size=1, max_size=20)


@given(values)
def test_what_is_predicted_exactly_has_no_error(measured):
    assert smape_half_pct(measured, measured) == 0
    assert mape_pct(measured, measured) == 0


@given(values, st.floats(1.01, 100))
def test_smape_half_does_not_tell_over_from_under_prediction(measured, factor):
    over = smape_half_pct(np.array(measured) * factor, measured)
    under = smape_half_pct(np.array(measured) / factor, measured)
    assert over == pytest.approx(under)
    assert over == pytest.approx(100 * (factor - 1) / (factor + 1))


def test_mape_is_relative_to_the_measurement():
    assert mape_pct([110.0, 50.0], [100.0, 100.0]) == pytest.approx(30.0)


def test_pairs_that_were_not_measured_are_left_out():
    assert smape_half_pct([1.0, math.nan, 3.0], [1.0, 2.0, math.nan]) == 0


def test_nothing_to_compare_gives_no_figure():
    assert smape_half_pct([], []) is None
    assert mape_pct([1.0], [0.0]) is None
    assert accuracy([], []) is None
    assert f1([False], [False]) is None


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    predicted = [True, True, True, False, False]
    measured = [True, True, False, True, False]
    precision, recall = 2 / 3, 2 / 3
    assert f1(predicted, measured) == pytest.approx(2 * precision * recall / (precision + recall))
    assert accuracy(predicted, measured) == pytest.approx(3 / 5)
