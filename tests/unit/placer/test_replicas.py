from dataclasses import replace

import numpy as np
import pytest

from placer.delta import RunningGpu, running_of
from placer.errors import InvalidProblemError
from placer.packing import place
from placer.replicas import place_replicated, re_place_replicated, replicas_needed, replicated
from tests.support.packing_problems import make_problem, make_workload

GIANT = 90.0
"""Requests a second of an adapter that no single hand-made GPU carries."""


def problem_of(rates, **changes):
    return make_problem(make_workload([8] * len(rates), rates), **changes)


def shares_of(replicas, placement):
    """What share of each adapter's traffic is placed."""
    placed = np.concatenate([gpu.rows for gpu in placement.gpus])
    return np.bincount(replicas.origin[placed], replicas.share[placed], replicas.origin[-1] + 1)


def test_without_heavy_adapters_the_plan_is_that_of_place():
    problem = problem_of([0.5] * 12)
    placement, replicas = place_replicated(problem)
    assert replicas is None
    assert [gpu.rows.tolist() for gpu in placement.gpus] == [gpu.rows.tolist() for gpu in place(problem).gpus]


def test_an_adapter_that_no_gpu_carries_is_split_and_all_of_it_is_placed():
    problem = problem_of([0.5, GIANT, 0.5, 2 * GIANT])
    assert {row.row for row in place(problem).unplaced} == {1, 3}
    placement, replicas = place_replicated(problem)
    assert placement.feasible
    assert shares_of(replicas, placement) == pytest.approx(np.ones(4))
    first, second = (np.sum(replicas.origin == row) for row in (1, 3))
    assert 2 <= first < second <= 2 * first


def test_one_replica_fewer_would_be_too_heavy():
    problem = problem_of([GIANT], starvation_risk=0.01)
    (count,) = replicas_needed(problem, place(problem).unplaced)
    assert place(replicated(problem, np.array([count])).problem).feasible
    assert not place(replicated(problem, np.array([count - 1])).problem).feasible


def test_replicas_can_be_switched_off_and_limited():
    for most in (1, 2):
        placement, replicas = place_replicated(problem_of([0.5, 20 * GIANT], max_replicas=most))
        assert replicas is None
        assert [row.row for row in placement.unplaced] == [1]


def test_what_no_number_of_replicas_helps_stays_unplaced():
    workload = make_workload([8, 8], [0.5, 1.0], input_tokens=[200.0, 300_000.0])
    placement, replicas = place_replicated(make_problem(workload))
    assert replicas is None
    assert [row.code for row in placement.unplaced] == ["request_too_long"]


def test_replicas_that_run_stay_where_they_are():
    problem = problem_of([0.5, GIANT, 0.5])
    placement, replicas = place_replicated(problem)
    current = running_of(placement, replicas.origin)
    delta, again = re_place_replicated(problem, current)
    assert (delta.moves, delta.restarts, delta.opened, delta.closed) == ((), (), (), ())
    assert shares_of(again, delta.placement) == pytest.approx(np.ones(3))
    assert {gpu.gpu: set(again.origin[gpu.rows]) for gpu in delta.placement.gpus} == {
        gpu.gpu: set(gpu.rows) for gpu in current
    }


def test_an_adapter_that_grew_too_heavy_for_its_gpu_gets_replicas():
    problem = problem_of([0.5, 5.0, 0.5])
    current = running_of(place(problem))
    grown = replace(problem, workload=replace(problem.workload, rate_rps=np.array([0.5, GIANT, 0.5])))
    delta, replicas = re_place_replicated(grown, current)
    assert delta.placement.feasible
    assert shares_of(replicas, delta.placement) == pytest.approx(np.ones(3))
    assert (delta.unmended, delta.closed) == ((), ())


def test_one_gpu_may_not_name_an_adapter_twice():
    current = (RunningGpu(gpu=0, max_loras=8, max_lora_rank=8, rows=(0, 0)),)
    with pytest.raises(InvalidProblemError, match="each adapter on one gpu"):
        re_place_replicated(problem_of([0.5, 0.5]), current)


def test_with_replicas_switched_off_an_adapter_may_run_on_one_gpu_only():
    current = tuple(RunningGpu(gpu=gpu, max_loras=8, max_lora_rank=8, rows=(0,)) for gpu in range(2))
    with pytest.raises(InvalidProblemError, match="each adapter on one gpu"):
        re_place_replicated(problem_of([0.5, 0.5], max_replicas=1), current)
