import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features import (
    FEATURE_NAMES,
    FEATURES,
    NUM_AGGREGATES,
    NUM_FEATURES,
    adapter_terms,
    aggregate,
    calibration_vector,
    features_of,
    total,
)
from models.kernels import features as kernel
from tests.support.feature_cases import a_calibration, adapter_numbers, equal_adapters, workload_of, workloads
from tests.support.feature_oracle import Oracle
from twin.domain import ServerConfig
from twin.lengths import sharegpt_lengths

CALIBRATION = a_calibration()
VECTOR = calibration_vector(CALIBRATION)

TOLERANCES = {
    "slots_over_hot": 0.15,
    "slots_over_stuck": 0.5,
    "served_by_slots": 0.1,
    "served_by_formula": 0.1,
    "load_share": 0.15,
}
"""Interpolated sums are within 1 %; their differences, and squares, vary faster between the points."""


def features(workload, max_loras, max_lora_rank=32):
    row, physics = features_of(aggregate(workload), max_loras, max_lora_rank, VECTOR)
    return dict(zip(FEATURE_NAMES, row.astype(float), strict=True)), physics


def test_the_table_is_in_the_order_of_the_kernels_indices():
    assert len(FEATURES) == NUM_FEATURES
    for place, name in enumerate(FEATURE_NAMES):
        assert getattr(kernel, name.upper()) == place
    assert all(feature.unit and feature.formula for feature in FEATURES)


def at_load(workload, rho, max_loras, max_lora_rank):
    """Return the workload with its rates scaled to about this load over capacity."""
    for _ in range(6):
        found, _ = features(workload, max_loras, max_lora_rank)
        workload = replace(workload, rate_rps=workload.rate_rps * rho / found["rho"])
    return workload


@settings(deadline=None, max_examples=60)
@given(workloads, st.integers(1, 200), st.sampled_from([8, 16, 32]), st.floats(1e-3, 4.0))
def test_every_feature_is_its_formula(workload, max_loras, max_lora_rank, rho):
    workload = at_load(workload, rho, max_loras, max_lora_rank)
    found, _ = features(workload, max_loras, max_lora_rank)
    expected = Oracle(workload, CALIBRATION, max_loras, max_lora_rank).features(batch=found["batch"])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = TOLERANCES.get(name, 0.02)
        assert found[name] == pytest.approx(value, rel=tolerance, abs=1e-4), name


@settings(deadline=None, max_examples=60)
@given(workloads, st.integers(1, 200))
def test_the_batch_is_near_that_of_littles_law(workload, max_loras):
    found, _ = features(workload, max_loras)
    expected = Oracle(workload, CALIBRATION, max_loras, 32).features()
    assert found["batch"] == pytest.approx(expected["batch"], rel=0.35)
    assert found["batch"] <= expected["batch"] * 1.02


@settings(deadline=None, max_examples=60)
@given(workloads, st.integers(1, 64))
def test_every_feature_is_finite(workload, max_loras):
    found, physics = features(workload, max_loras)
    assert all(math.isfinite(value) for value in found.values())
    assert all(math.isfinite(value) for value in physics)
    assert kernel.MIN_SERVED_FRACTION <= physics.served_fraction <= 1


@settings(deadline=None)
@given(st.lists(adapter_numbers, min_size=2, max_size=10), st.randoms(use_true_random=False))
def test_adding_adapters_one_by_one_in_any_order_gives_the_aggregates_of_all(numbers, random):
    whole = aggregate(workload_of(numbers))
    random.shuffle(numbers)
    one_by_one = np.zeros(NUM_AGGREGATES)
    for rank, rate, tokens_in, tokens_out, cv_in, cv_out, arrival_cv in numbers:
        nan = float("nan")
        kernel.add_adapter(
            one_by_one,
            rank,
            rate,
            tokens_in,
            tokens_out,
            nan if cv_in is None else cv_in,
            nan if cv_out is None else cv_out,
            arrival_cv,
        )
    np.testing.assert_allclose(one_by_one, whole, rtol=1e-12)


@settings(deadline=None)
@given(workloads, workloads)
def test_joining_two_gpus_aggregates_leaves_them_as_they_are(left, right):
    first, second = aggregate(left), aggregate(right)
    before = first.copy()
    out = np.empty(NUM_AGGREGATES)
    kernel.joined_terms(out, first, second)
    np.testing.assert_array_equal(first, before)
    kernel.add_terms(first, second)
    np.testing.assert_array_equal(first, out)
    np.testing.assert_allclose(out, total(np.concatenate([adapter_terms(left), adapter_terms(right)])), 1e-12)


@settings(deadline=None)
@given(workloads, st.floats(-3.6, 2.0))
def test_expected_active_adapters_are_within_two_percent_of_the_exact_sum(workload, log_tau):
    tau_s = 10.0**log_tau
    exact = Oracle(workload, CALIBRATION, 8, 32).active(tau_s)
    assert kernel.expected_active(aggregate(workload), tau_s) == pytest.approx(exact, rel=0.02)


def test_below_the_shortest_stored_tau_active_adapters_are_proportional_to_it():
    aggregates = aggregate(equal_adapters(7, 0.5))
    shortest = 2 * kernel.ACTIVE_TAU_0
    most = kernel.expected_active(aggregates, shortest)
    assert kernel.expected_active(aggregates, shortest / 100) == pytest.approx(most / 100)


def test_an_endless_token_makes_every_adapter_active():
    workload = equal_adapters(7, 0.5)
    assert kernel.expected_active(aggregate(workload), 1e9) == pytest.approx(7)


def test_load_doubles_when_every_rate_doubles_on_a_full_server():
    one, _ = features(equal_adapters(20, 20.0), 20)
    two, _ = features(equal_adapters(20, 40.0), 20)
    assert two["rho"] == pytest.approx(2 * one["rho"], rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(workloads, st.integers(1, 64), st.floats(1.05, 10.0))
def test_more_of_every_rate_never_lowers_load_nor_raises_the_served_fraction(workload, max_loras, factor):
    terms = adapter_terms(workload), adapter_terms(workload, workload.rate_rps * factor)
    (low, served), (high, served_less) = (features_of(total(part), max_loras, 32, VECTOR) for part in terms)
    assert high[kernel.RHO] > low[kernel.RHO]
    assert served_less.served_fraction <= served.served_fraction * (1 + 2e-3)


def test_above_capacity_the_served_fraction_is_capacity_over_load_less_what_is_unfinished():
    found, physics = features(equal_adapters(20, 40.0), 20)
    assert found["rho"] > 1
    assert physics.served_fraction == pytest.approx(1 / found["rho"] - found["residence_share"], rel=1e-5)


def test_longer_answers_take_more_of_the_server():
    short, _ = features(equal_adapters(4, 1.0, tokens=(200.0, 50.0)), 4)
    long, _ = features(equal_adapters(4, 1.0, tokens=(200.0, 400.0)), 4)
    assert long["rho"] > 4 * short["rho"]


def test_more_slots_than_memory_leaves_room_for_one_request_only():
    found, _ = features(equal_adapters(4, 1.0), 100_000)
    assert found["kv_requests"] == 1


def test_a_rate_of_once_in_an_age_is_finite():
    found, physics = features(equal_adapters(1, 1e-300), 1)
    assert all(math.isfinite(value) for value in found.values())
    assert physics.served_fraction == pytest.approx(1, abs=1e-3)


def test_the_defaults_of_lengths_are_the_moments_of_the_twins_lengths():
    prompt, output = sharegpt_lengths()
    assert prompt.std() == pytest.approx(kernel.DEFAULT_INPUT_CV, rel=0.02)
    assert output.std() == pytest.approx(kernel.DEFAULT_OUTPUT_CV, rel=0.02)
    assert (prompt * output).mean() == pytest.approx(kernel.SHAREGPT_MEAN_PRODUCT, rel=0.02)


def test_the_calibration_vector_holds_the_servers_flags():
    server = ServerConfig(max_loras=1, max_lora_rank=8, max_num_seqs=64, max_num_batched_tokens=512)
    vector = calibration_vector(CALIBRATION, server, horizon_s=60.0)
    assert vector[kernel.MAX_NUM_SEQS] == 64
    assert vector[kernel.MAX_NUM_BATCHED_TOKENS] == 512
    assert vector[kernel.HORIZON_S] == 60
    assert vector[kernel.LOAD_MS] == CALIBRATION.load.cpu_ms
