import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artifact import load_shipped
from placer import bounds
from placer.families import family_workload
from placer.kernels.best_case import best_case_utilisation
from placer.problem import PlacementProblem
from tests.support.packing_oracle import Oracle, fewest_gpus
from tests.support.packing_problems import (
    make_calibration,
    make_problem,
    make_random_workload,
    make_surrogate,
    make_workload,
)
from tests.support.twin_cases import num_examples
from twin.calibration import load_calibration
from twin.domain import MemoryLaw, ServerConfig
from twin.simulate import simulate

demands = st.tuples(*(st.floats(1e-3, 1e5) for _ in range(4))).map(np.array)


def _utilisation(demand):
    return best_case_utilisation(*bounds.best_case(make_problem(make_workload([8], 0.1))), demand)


@settings(max_examples=num_examples(200), deadline=None)
@given(demands, demands)
def test_two_gpus_need_no_less_time_apart_than_one_needs_for_both(first, second):
    assert _utilisation(first + second) <= (_utilisation(first) + _utilisation(second)) * (1 + 1e-9)


@settings(max_examples=num_examples(100), deadline=None)
@given(demands, st.floats(0.1, 10))
def test_twice_the_demand_needs_twice_the_time(demand, scale):
    assert _utilisation(scale * demand) == pytest.approx(scale * _utilisation(demand), rel=1e-9)


def test_a_demand_of_the_smallest_numbers_needs_no_time():
    assert _utilisation(np.full(4, 5e-324)) == 0.0


@settings(max_examples=num_examples(25), deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([8, 16, 32]), st.floats(0.5, 40), st.floats(20, 800), st.floats(20, 400)),
        min_size=1,
        max_size=6,
    )
)
def test_the_lower_bound_is_at_most_the_fewest_gpus_of_any_partition(rows):
    rank, rate, prompt, output = (np.array(column) for column in zip(*rows, strict=True))
    surrogate = make_surrogate(make_calibration(), max_adapters=3)
    problem = make_problem(make_workload(rank, rate, prompt, output), surrogate)
    fewest = fewest_gpus(Oracle(problem))
    if fewest:
        assert bounds.lower_bound(problem) <= fewest


def test_the_count_bound_divides_by_twice_the_adapters_that_the_surrogate_knows():
    surrogate = make_surrogate(make_calibration(), max_adapters=4)
    problem = make_problem(make_workload([8] * 9, 1e-6), surrogate)
    assert bounds.lower_bounds(problem) == bounds.LowerBounds(load=1, share=1, count=2)
    assert bounds.lower_bounds(problem).rests_on == "count"
    assert bounds.lower_bound(problem) == 2


@pytest.mark.parametrize(
    ("prompt", "output", "pool_bytes", "horizon_s"),
    [
        (20, 20, 40e9, 60),
        (400, 40, 40e9, 60),
        (40, 400, 40e9, 60),
        (1000, 1, 40e9, 60),
        (3000, 900, 40e9, 60),
        (500, 1500, 17.5e9, 300),
    ],
    ids=str,
)
@pytest.mark.parametrize("max_loras", [1, 4])
def test_an_overloaded_server_in_the_twin_serves_no_more_than_its_best_case(
    prompt, output, pool_bytes, horizon_s, max_loras
):
    calibration = make_calibration(memory=MemoryLaw(pool_bytes=pool_bytes))
    alone = make_problem(make_workload([8], 1.0, prompt, output), calibration=calibration)
    rate = 1.5 / bounds.workload_utilisation(alone)
    workload = make_workload(
        [8] * 4, rate / 4, prompt, output, input_tokens_cv=np.zeros(4), output_tokens_cv=np.zeros(4)
    )
    problem = make_problem(workload, calibration=calibration)
    utilisation = bounds.workload_utilisation(problem)
    assert utilisation == pytest.approx(1.5)
    server = ServerConfig(max_loras=max_loras, max_lora_rank=8)
    report = simulate(workload, server, calibration, horizon_s=horizon_s, seed=1)
    assert report.throughput_tok_s <= workload.offered_tok_s / utilisation * (1 + 1e-3)


def test_the_bound_grows_with_the_rates():
    slow = make_random_workload(50, seed=3)
    fast = make_workload(slow.rank, 20 * slow.rate_rps, slow.input_tokens_mean, slow.output_tokens_mean)
    assert bounds.lower_bound(make_problem(fast)) > bounds.lower_bound(make_problem(slow)) >= 1


def test_a_bound_is_cut_finer_only_where_that_may_prove_the_plan_of_a_small_fleet():
    calibration_id = "h100-64gb/llama-3.1-8b-instruct/vllm-0.8.5"
    calibration = load_calibration(calibration_id)
    problem = PlacementProblem(
        workload=family_workload("zipf", 0, 1000, calibration),
        calibration=calibration,
        surrogate=load_shipped(calibration_id),
    )
    found = bounds.lower_bounds(problem)
    once = bounds.tightened(problem, found, num_gpus=found.best)
    assert bounds.tightened(problem, found, num_gpus=bounds.SMALL_FLEET + 1) == once
    assert bounds.tightened(problem, found, num_gpus=once.best + 1).best == once.best + 1
