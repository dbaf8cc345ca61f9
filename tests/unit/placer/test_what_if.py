from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.kernels.features import MAX_LORAS
from placer.delta import re_place, running_of
from placer.errors import InvalidProblemError
from placer.packing import place
from placer.what_if import Change, consequence
from tests.support.packing_problems import make_problem, make_random_workload, make_workload
from tests.support.twin_cases import num_examples


def hot_problem(num_adapters=60, **changes):
    return make_problem(make_workload([8] * num_adapters, 2.0), **changes)


def plan_of(placement):
    return [(gpu.rows.tolist(), gpu.max_loras, gpu.max_lora_rank) for gpu in placement.gpus]


@settings(max_examples=num_examples(25), deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.5, 1.0, 1.7]),
    st.sampled_from([None, 8]),
    st.sampled_from([None, 0.01]),
)
def test_a_consequence_is_the_plan_and_the_way_of_the_problem_as_changed(seed, factor, max_loras, risk):
    workload = replace(make_random_workload(40, seed), rate_rps=make_random_workload(40, seed).rate_rps * 5)
    problem = make_problem(workload, num_trials=0)
    current = running_of(place(problem))
    found = consequence(
        problem, current, Change(scale_rates=factor, max_loras=max_loras, starvation_risk=risk)
    )
    changed = replace(
        problem,
        workload=replace(workload, rate_rps=workload.rate_rps * factor),
        max_loras=max_loras,
        starvation_risk=risk or problem.starvation_risk,
    )
    assert plan_of(found.placement) == plan_of(place(changed))
    delta = re_place(changed, current)
    assert (found.delta.moves, found.delta.restarts) == (delta.moves, delta.restarts)
    assert found.num_loads == 0
    assert all(gpu.max_loras == max_loras or max_loras is None for gpu in found.placement.gpus)


def test_only_the_adapters_that_are_named_are_scaled():
    problem = hot_problem(10)
    rows = np.array([1, 4])
    changed = consequence(problem, (), Change(scale_rates=3.0, scaled_rows=rows)).problem
    expected = np.full(10, 2.0)
    expected[rows] = 6.0
    np.testing.assert_array_equal(changed.workload.rate_rps, expected)


def test_added_adapters_come_after_the_others_and_are_loads_not_moves():
    problem = make_problem(make_workload([8] * 20, 0.01))
    added = make_workload([16] * 3, 0.01, adapter_ids=("x", "y", "z"))
    found = consequence(problem, running_of(place(problem)), Change(added=added))
    assert found.problem.workload.adapter_ids[-3:] == ("x", "y", "z")
    assert found.problem.workload.rank.tolist() == [8] * 20 + [16] * 3
    assert found.placement.feasible
    assert (found.num_loads, len(found.delta.moves)) == (3, 0)


def test_the_gpus_that_fail_are_those_with_the_most_traffic_and_none_is_opened_for_them():
    problem = hot_problem()
    placement = place(problem)
    offered = {gpu.gpu: problem.workload.rate_rps[gpu.rows].sum() for gpu in placement.gpus}
    found = consequence(problem, running_of(placement), Change(lose_gpus=1))
    (lost,) = found.lost
    assert offered[lost] == max(offered.values())
    assert found.problem.max_gpus == placement.num_gpus - 1
    assert found.delta.opened == ()
    assert lost not in {gpu.gpu for gpu in found.delta.placement.gpus}
    assert not found.placement.feasible
    assert {row.code for row in found.placement.unplaced} == {"max_gpus"}
    on_lost = set(placement.gpus[lost].rows.tolist())
    placed = {row for gpu in found.delta.placement.gpus for row in gpu.rows.tolist()}
    assert found.num_loads == len(on_lost & placed)


def test_not_every_gpu_can_fail():
    problem = hot_problem()
    current = running_of(place(problem))
    with pytest.raises(InvalidProblemError, match="lose_gpus must leave one of the"):
        consequence(problem, current, Change(lose_gpus=len(current)))


def test_no_gpu_comes_back_by_failing():
    with pytest.raises(InvalidProblemError, match="lose_gpus must be >= 0, got -1"):
        Change(lose_gpus=-1)


@pytest.mark.parametrize("max_loras", [0, 2.5, True])
def test_slots_that_are_no_number_of_slots_are_refused(max_loras):
    with pytest.raises(InvalidProblemError, match="max_loras must be an integer"):
        hot_problem(3, max_loras=max_loras)


def test_slots_that_the_surrogate_was_not_trained_for_are_refused():
    problem = hot_problem(3)
    problem.surrogate.ranges[MAX_LORAS] = [8, 64]
    for max_loras in (7, 65):
        with pytest.raises(InvalidProblemError, match="max_loras must be"):
            replace(problem, max_loras=max_loras)


def test_every_server_has_the_slots_that_are_asked_for_or_none_starts():
    placement = place(hot_problem(40, max_loras=12))
    assert {gpu.max_loras for gpu in placement.gpus} == {12}
    too_many = place(hot_problem(3, max_loras=100_000))
    assert {row.code for row in too_many.unplaced} == {"memory"}
