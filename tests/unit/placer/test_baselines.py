import numpy as np
import pytest

from placer.baselines import (
    BASELINES,
    TESTING_POINTS,
    USUAL_MAX_LORAS,
    dlora_proactive,
    loraserve,
    max_base,
    max_base_half,
    round_robin,
    seed_greedy,
    seed_latency,
    sum_of_rates,
)
from placer.bounds import load_bound, workload_utilisation
from placer.errors import InvalidProblemError
from placer.families import FAMILIES, family_workload
from placer.packing import place
from tests.support.packing_problems import (
    constant_tree,
    make_calibration,
    make_problem,
    make_random_workload,
    make_surrogate,
    make_workload,
)
from twin.domain import MemoryLaw


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_puts_each_adapter_on_one_gpu_that_starts(name):
    problem = make_problem(make_random_workload(90, 4))
    plan = BASELINES[name](problem)
    assert plan is not None
    assert plan.lower_bound == load_bound(problem) <= plan.num_gpus
    placed = np.concatenate([gpu.rows for gpu in plan.gpus])
    assert sorted(placed.tolist()) == list(range(90))
    for gpu in plan.gpus:
        assert gpu.max_lora_rank >= problem.workload.rank[gpu.rows].max()


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_without_memory_for_a_slot_finds_no_plan(name):
    calibration = make_calibration(memory=MemoryLaw(pool_bytes=1e9))
    assert BASELINES[name](make_problem(make_workload([8], 0.1), calibration=calibration)) is None


def test_round_robin_deals_in_the_order_given():
    problem = make_problem(make_workload([8] * 40, 2.0))
    plan = round_robin(problem)
    assert plan is not None
    assert plan.num_gpus > 1
    for gpu in plan.gpus:
        assert gpu.rows.tolist() == list(range(gpu.gpu, 40, plan.num_gpus))
        assert gpu.max_loras == min(USUAL_MAX_LORAS, len(gpu.rows))
        assert gpu.predicted.starvation_probability <= problem.starvation_risk


def test_round_robin_gives_up_where_the_surrogate_trusts_no_gpu():
    calibration = make_calibration()
    pessimist = make_surrogate(calibration, constant_tree(0.9))
    assert round_robin(make_problem(make_workload([8] * 5, 0.1), pessimist)) is None


def test_max_base_fills_gpus_to_the_base_models_maximum_in_the_order_given():
    problem = make_problem(make_workload([8] * 40, 2.0))
    plan = max_base(problem)
    assert plan is not None
    share = workload_utilisation(problem) / 40
    assert [len(gpu.rows) for gpu in plan.gpus[:-1]] == [int(1 / share)] * (plan.num_gpus - 1)
    assert np.concatenate([gpu.rows for gpu in plan.gpus]).tolist() == list(range(40))


def test_max_base_half_has_the_same_groups_with_slots_for_half_of_them():
    problem = make_problem(make_workload([8] * 40, 2.0))
    whole, half = max_base(problem), max_base_half(problem)
    assert whole is not None
    assert half is not None
    assert [gpu.rows.tolist() for gpu in half.gpus] == [gpu.rows.tolist() for gpu in whole.gpus]
    assert [gpu.max_loras for gpu in whole.gpus] == [len(gpu.rows) for gpu in whole.gpus]
    assert [gpu.max_loras for gpu in half.gpus] == [max(len(gpu.rows) // 2, 1) for gpu in whole.gpus]


def test_sums_of_rates_fill_one_gpu_after_the_other_each_to_the_same_sum():
    problem = make_problem(make_workload([8] * 60, np.linspace(1.0, 2.0, 60)))
    plan = sum_of_rates(problem)
    assert plan is not None
    assert np.concatenate([gpu.rows for gpu in plan.gpus]).tolist() == list(range(60))
    rates = problem.workload.rate_rps
    held = [rates[gpu.rows].sum() for gpu in plan.gpus]
    refused = [rates[gpu.rows].sum() + rates[gpu.rows[-1] + 1] for gpu in plan.gpus[:-1]]
    assert len(held) > 2
    assert max(held) < min(refused)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_the_same_workload_for_the_same_seed_and_can_be_placed(family):
    calibration = make_calibration()
    first, second = (family_workload(family, 3, 40, calibration) for _ in range(2))
    other = family_workload(family, 4, 40, calibration)
    assert np.array_equal(first.rate_rps, second.rate_rps)
    assert not np.array_equal(first.rate_rps, other.rate_rps)
    assert place(make_problem(first)).feasible


def test_an_unknown_family_is_refused_by_name():
    with pytest.raises(InvalidProblemError, match=r"zipf, all-hot, all-cold, .*got 'x'"):
        family_workload("x", 0, 10, make_calibration())


def test_the_references_greedy_stops_a_gpu_at_its_testing_points():
    problem = make_problem(make_workload([8] * 60, 0.5))
    plan = seed_greedy(problem)
    assert plan is not None
    assert all(len(gpu.rows) in TESTING_POINTS for gpu in plan.gpus[:-1])
    assert all(gpu.predicted.starvation_probability <= problem.starvation_risk for gpu in plan.gpus)


def test_the_references_greedy_takes_high_ranks_first_and_high_and_low_rates_in_turn():
    problem = make_problem(make_workload([8, 8, 8, 8, 8, 16], np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.1])))
    plan = seed_greedy(problem)
    assert plan is not None
    assert np.concatenate([gpu.rows for gpu in plan.gpus]).tolist() == [5, 4, 0, 3, 1, 2]


def test_balancing_rules_leave_no_gpu_with_twice_the_load_of_another():
    problem = make_problem(make_workload([8] * 60, np.linspace(1.0, 2.0, 60)))
    for rule in (seed_latency, dlora_proactive):
        plan = rule(problem)
        assert plan is not None
        loads = [problem.workload.rate_rps[gpu.rows].sum() for gpu in plan.gpus]
        assert max(loads) <= 2 * min(loads)


def test_operating_points_keep_like_ranks_together():
    problem = make_problem(make_random_workload(120, 2))
    plan = loraserve(problem)
    assert plan is not None
    most = [problem.workload.rank[gpu.rows].max() for gpu in plan.gpus]
    assert most == sorted(most, reverse=True)
