import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features import NUM_FEATURES, adapter_terms, aggregate
from models.kernels.features import RATE_OUT, expected_active
from placer import bounds
from placer.kernels.acceptance import starvation_risk_of
from placer.kernels.shares import ACTIVITY_SLACK
from placer.packing import build_tables
from placer.problem import PlacementProblem
from tests.support.packing_problems import constant_tree, make_calibration, make_surrogate, make_workload
from tests.support.twin_cases import num_examples
from twin.calibration import load_calibration

CALIBRATIONS = {
    "by hand": make_calibration(),
    "llama": load_calibration("h100-64gb/llama-3.1-8b-instruct/vllm-0.8.5"),
    "qwen": load_calibration("h100-64gb/qwen-2.5-7b-instruct/vllm-0.8.5"),
}
YES = {
    name: make_surrogate(calibration, constant_tree(0.0), max_adapters=100_000)
    for name, calibration in CALIBRATIONS.items()
}
"""Trees that always say yes: physics alone decide, the most that any trees can accept."""


def problem_of(name, rank, rate, prompt, output, max_loras=None):
    calibration = CALIBRATIONS[name]
    workload = make_workload(
        rank, rate, prompt, output, base_model=calibration.base_model, gpu_type=calibration.gpu_type
    )
    return PlacementProblem(
        workload=workload, calibration=calibration, surrogate=YES[name], max_loras=max_loras
    )


def accepted_slots(problem, rows):
    """Every `max_loras` of the ladder with which one GPU may hold these adapters."""
    tables = build_tables(problem)
    aggregates = aggregate(problem.workload.subset(rows))
    rank_class = int(tables.items.rank_class[rows].max())
    scratch = np.empty(NUM_FEATURES, dtype=np.float32)
    rank = tables.oracle.slot_ranks[rank_class]
    return [
        int(max_loras)
        for max_loras in tables.oracle.ladders[rank_class]
        if max_loras and starvation_risk_of(tables.oracle, aggregates, max_loras, rank, scratch) < 1
    ]


@st.composite
def fleets(draw):
    """A fleet, a GPU's part of it, and how its rates are spread; the scale is found by the test."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.sampled_from([1, 2, 5, 20, 60, 250, 800]))
    spread = draw(st.sampled_from([0.0, 0.5, 2.0, 4.0]))
    lengths = draw(st.sampled_from([0.0, 0.3, 1.0]))
    prompt = 10 ** (draw(st.floats(1, 3.3)) + lengths * rng.normal(0, 1, count))
    output = 10 ** (draw(st.floats(0.5, 2.8)) + lengths * rng.normal(0, 1, count))
    ranks = draw(st.sampled_from([[8], [32], [8, 16, 32]]))
    columns = (
        rng.choice(ranks, count),
        10 ** rng.uniform(-spread, 0, count),
        np.clip(prompt, 1, 20_000),
        np.clip(output, 1, 5_000),
    )
    part = (
        np.arange(count)
        if count == 800
        else np.flatnonzero(rng.uniform(size=count) < draw(st.sampled_from([0.2, 0.6, 1.1])))
    )
    return draw(st.sampled_from(list(CALIBRATIONS))), columns, part


@settings(max_examples=num_examples(120), deadline=None)
@given(fleets(), st.sampled_from([bounds.COARSE, *bounds.PROOFS]), st.sampled_from([None, 4, 24, 96]))
def test_the_shares_on_an_accepted_gpu_are_at_most_one_gpu(fleet, precision, max_loras):
    name, (rank, rate, prompt, output), part = fleet
    if len(part) == 0:
        return
    low, high = 1e-6, 1e4  # the largest rates that one GPU may still serve, where it is fullest
    for _ in range(14):
        scale = math.sqrt(low * high)
        problem = problem_of(name, rank, scale * rate, prompt, output, max_loras)
        low, high = (scale, high) if accepted_slots(problem, part) else (low, scale)
    problem = problem_of(name, rank, low * rate, prompt, output, max_loras)
    if accepted_slots(problem, part):
        assert bounds.least_shares(problem, precision)[part].sum() <= 1


@settings(max_examples=num_examples(200), deadline=None)
@given(st.floats(1e-4, 1e4), st.floats(1e-3, 5.0))
def test_interpolated_activity_is_hardly_below_the_truth(tokens_per_s, tau_s):
    terms = adapter_terms(make_workload([8], tokens_per_s / 100.0, 100.0, 100.0))[0]
    assert terms[RATE_OUT] == pytest.approx(tokens_per_s)
    truth = 1 - math.exp(-tokens_per_s * tau_s)
    assert expected_active(terms, tau_s) >= truth * (1 - ACTIVITY_SLACK)


def fewest_bins(sizes):
    """The fewest bins of 1 over all assignments."""
    for count in range(1, len(sizes) + 1):
        for bins in itertools.product(range(count), repeat=len(sizes)):
            if np.bincount(bins, sizes, count).max() <= 1:
                return count
    return len(sizes)


@settings(max_examples=num_examples(150), deadline=None)
@given(
    st.lists(
        st.sampled_from([0.05, 0.2, 0.26, 0.34, 0.4, 0.5, 0.51, 0.6, 0.74, 0.9, 1.0]), min_size=1, max_size=6
    )
)
def test_the_bound_of_martello_and_toth_is_at_most_the_fewest_bins_and_at_least_the_sum(sizes):
    bound = bounds.martello_toth(np.array(sizes))
    assert math.ceil(sum(sizes) - 1e-6) <= bound <= fewest_bins(sizes)


def test_items_above_half_a_gpu_each_need_their_own():
    assert bounds.martello_toth(np.full(7, 0.51)) == 7
    assert bounds.martello_toth(np.array([0.6, 0.6, 0.45, 0.45])) == 3


def test_an_adapter_that_no_gpu_can_hold_counts_as_one():
    assert bounds.martello_toth(np.array([np.inf, 0.1])) == 2


@pytest.mark.parametrize(("name", "within"), [("llama", 0.02), ("qwen", 0.03)])
def test_the_bound_is_tight_for_gpus_full_of_like_adapters(name, within):
    rate = 0.5
    while True:
        problem = problem_of(name, [16] * 20, np.full(20, rate * 1.005), 223.0, 197.0)
        if not accepted_slots(problem, np.arange(20)):
            break
        rate *= 1.005
    problem = problem_of(name, [16] * 20, np.full(20, rate), 223.0, 197.0)
    assert 1 - within <= bounds.least_shares(problem, bounds.PROOFS[0]).sum() <= 1


@pytest.mark.parametrize("name", ["llama", "qwen"])
def test_the_bound_is_nearly_tight_where_slots_are_short(name):
    count = 40
    while True:
        more = count + 1
        problem = problem_of(name, [16] * more, np.full(more, 0.3), 223.0, 197.0, max_loras=32)
        if not accepted_slots(problem, np.arange(more)):
            break
        count = more
    assert count > 64
    problem = problem_of(name, [16] * count, np.full(count, 0.3), 223.0, 197.0, max_loras=32)
    assert 0.9 <= bounds.least_shares(problem, bounds.PROOFS[0]).sum() <= 1
