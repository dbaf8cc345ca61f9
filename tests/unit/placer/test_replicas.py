from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placer.delta import RunningGpu, running_of
from placer.errors import InvalidProblemError
from placer.packing import place
from placer.replicas import place_replicated, re_place_replicated, replicas_needed, replicated
from placer.verify import verify
from placer.what_if import Change, consequence
from tests.support.packing_problems import (
    constant_tree,
    make_calibration,
    make_problem,
    make_surrogate,
    make_workload,
)

GIANT = 90.0
"""Requests a second of an adapter that no single hand-made GPU carries."""


def problem_of(rates, **changes):
    return make_problem(make_workload([8] * len(rates), rates), **changes)


def shares_of(replicas, placement):
    """What share of each adapter's traffic is placed."""
    placed = np.concatenate([gpu.rows for gpu in placement.gpus])
    return np.bincount(replicas.origin[placed], replicas.share[placed], replicas.origin[-1] + 1)


def unplaced_adapters(placement, replicas):
    """The adapters that lack a GPU for some of their traffic."""
    rows = [lack.row for lack in placement.unplaced]
    return {row if replicas is None else int(replicas.origin[row]) for row in rows}


def told_whole_or_unplaced(placement, replicas, num_adapters):
    """Assert that each adapter has all its traffic on GPUs, or none of it and is in `unplaced`."""
    placed = np.concatenate([gpu.rows for gpu in placement.gpus]) if placement.gpus else np.empty(0, np.int64)
    origin = np.arange(num_adapters) if replicas is None else replicas.origin
    share = np.ones(num_adapters) if replicas is None else replicas.share
    served = np.bincount(origin[placed], share[placed], num_adapters)
    unplaced = unplaced_adapters(placement, replicas)
    assert served == pytest.approx([0.0 if row in unplaced else 1.0 for row in range(num_adapters)])


few_hot_rates = st.lists(
    st.one_of(st.floats(0.5, 20.0), st.floats(GIANT / 3, 5 * GIANT), st.sampled_from([GIANT, 3 * GIANT])),
    min_size=1,
    max_size=8,
)
plans_asked_for = st.sampled_from(
    [
        {"num_trials": 0},
        {"num_trials": 100},
        {"objective": "min_latency"},
        {"max_replicas": 1},
        {"max_replicas": 3},
        {"starvation_risk": 0.2},
    ]
)


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


@settings(max_examples=60, deadline=None)
@given(rates=few_hot_rates, max_gpus=st.integers(1, 12), asked=plans_asked_for)
def test_with_few_gpus_an_adapter_is_served_whole_or_not_at_all(rates, max_gpus, asked):
    problem = problem_of(rates, max_gpus=max_gpus, **asked)
    placement, replicas = place_replicated(problem)
    assert placement.num_gpus <= max_gpus
    told_whole_or_unplaced(placement, replicas, len(rates))


@settings(max_examples=40, deadline=None)
@given(
    rates=few_hot_rates,
    max_gpus=st.integers(1, 8),
    growth=st.floats(0.3, 5.0),
    added=few_hot_rates.map(lambda rates: sorted(set(rates))),
    max_moves=st.sampled_from([None, 0, 3]),
)
def test_after_a_change_an_adapter_is_served_whole_or_not_at_all(rates, max_gpus, growth, added, max_moves):
    before = problem_of(rates, max_gpus=max_gpus, num_trials=0)
    placement, replicas = place_replicated(before)
    current = running_of(placement, None if replicas is None else replicas.origin)
    change = Change(
        scale_rates=growth,
        added=make_workload(
            [8] * len(added), added, adapter_ids=tuple(f"b{row}" for row in range(len(added)))
        ),
        lose_gpus=1 if len(current) > 1 else 0,
    )
    found = consequence(before, current, change, max_moves)
    count = len(rates) + len(added)
    again, parts = place_replicated(found.problem)
    told_whole_or_unplaced(again, parts, count)
    assert {lack.row for lack in found.unplaced} == unplaced_adapters(again, parts)
    left = tuple(gpu for gpu in current if gpu.gpu not in found.lost)
    delta, parts = re_place_replicated(found.problem, left, max_moves)
    told_whole_or_unplaced(delta.placement, parts, count)
    running = {row for gpu in left for row in gpu.rows}
    lacking = {
        lack.row if parts is None else int(parts.origin[lack.row]) for lack in delta.placement.unplaced
    }
    assert not lacking & running, "what runs stays, mended or not"


def test_a_replay_and_its_repairs_leave_no_adapter_half_served():
    workload = make_workload([8] * 5, [GIANT, 2.0, 3 * GIANT, 0.5, GIANT])
    calm = make_surrogate(make_calibration(), constant_tree(0.0))  # sees no GPU starve: the twin does
    problem = make_problem(workload, calm, max_gpus=3, num_trials=0)
    placement, replicas = place_replicated(problem)
    assert placement.unplaced
    checked = verify(placement, replicas.problem, horizon_s=5.0)
    told_whole_or_unplaced(checked.placement, replicas, 5)


def test_what_has_no_room_for_all_its_replicas_is_told_so():
    placement, _ = place_replicated(problem_of([0.5, 4 * GIANT], max_gpus=2))
    assert {row.code for row in placement.unplaced} == {"max_gpus"}
    reasons = {row.reason for row in placement.unplaced}
    assert len(reasons) == 1
    assert "2 GPUs have no room for all its" in reasons.pop()


def test_room_that_a_left_out_adapter_would_take_goes_to_the_others():
    rates = [4 * GIANT, *[2.0] * 4]
    placement, replicas = place_replicated(problem_of(rates, max_gpus=2))
    assert unplaced_adapters(placement, replicas) == {0}


def test_a_running_adapter_without_room_for_more_replicas_stays_and_its_gpu_is_told_unmended():
    problem = problem_of([0.5, 5.0], max_gpus=1)
    current = running_of(place(problem))
    grown = replace(problem, workload=replace(problem.workload, rate_rps=np.array([0.5, GIANT])))
    delta, replicas = re_place_replicated(grown, current)
    assert replicas is None
    assert delta.placement.feasible
    assert [gpu.gpu for gpu in delta.unmended] == [0]
