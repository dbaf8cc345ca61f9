from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placer.delta import RunningGpu, re_place
from placer.errors import InvalidProblemError
from placer.packing import place
from tests.support.packing_oracle import Oracle
from tests.support.packing_problems import make_problem, make_random_workload, make_workload
from tests.support.twin_cases import num_examples
from twin.domain import ServerConfig


def running(placement):
    return tuple(
        RunningGpu(
            gpu=gpu.gpu,
            max_loras=gpu.max_loras,
            max_lora_rank=gpu.max_lora_rank,
            rows=tuple(gpu.rows.tolist()),
        )
        for gpu in placement.gpus
    )


def with_rates(workload, factor):
    return replace(workload, rate_rps=workload.rate_rps * factor)


def home_of(current):
    return {row: gpu.gpu for gpu in current for row in gpu.rows}


def check_delta(problem, current, delta, max_moves=None):
    """What every answer obeys."""
    home = home_of(current)
    placed = {row: gpu.gpu for gpu in delta.placement.gpus for row in gpu.rows.tolist()}
    unplaced = {adapter.row for adapter in delta.placement.unplaced}
    assert sorted([*placed, *unplaced]) == list(range(problem.workload.num_adapters))
    assert max_moves is None or len(delta.moves) <= max_moves
    expected = {(row, home[row], gpu) for row, gpu in placed.items() if row in home and home[row] != gpu}
    assert {(move.row, move.source, move.target) for move in delta.moves} == expected
    flags = {gpu.gpu: (gpu.max_loras, gpu.max_lora_rank) for gpu in delta.placement.gpus}
    changed = {
        gpu.gpu
        for gpu in current
        if gpu.gpu in flags and flags[gpu.gpu] != (gpu.max_loras, gpu.max_lora_rank)
    }
    assert set(delta.restarts) == changed
    assert set(delta.closed) == {gpu.gpu for gpu in current} - set(flags)
    assert set(delta.opened) == set(flags) - {gpu.gpu for gpu in current}
    oracle = Oracle(problem)
    unmended = {gpu.gpu for gpu in delta.unmended}
    for gpu in delta.placement.gpus:
        if gpu.gpu not in unmended:
            assert gpu.predicted.starvation_probability <= oracle.risk_limit


def test_a_plan_that_still_holds_stays_as_it_is():
    problem = make_problem(make_random_workload(120, 1))
    placement = place(problem)
    delta = re_place(problem, running(placement))
    check_delta(problem, running(placement), delta)
    assert delta.restarts == delta.opened == delta.unmended == ()
    assert len(delta.moves) <= 6


@settings(max_examples=num_examples(40), deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.8, 1.0, 1.2, 1.6]), st.sampled_from([None, 0, 2, 10]))
def test_every_answer_obeys_the_laws_of_a_re_placement(seed, growth, max_moves):
    rng = np.random.default_rng(seed)
    workload = with_rates(make_random_workload(40, seed), 6.0)
    current = running(place(make_problem(workload)))
    dropped = set(rng.choice(40, 5, replace=False).tolist())
    current = tuple(
        replace(gpu, rows=tuple(row for row in gpu.rows if row not in dropped)) for gpu in current
    )
    noisy = make_problem(with_rates(workload, growth * rng.uniform(0.8, 1.25, 40)))
    delta = re_place(noisy, current, max_moves)
    check_delta(noisy, current, delta, max_moves)


def test_noise_in_the_rates_moves_few_adapters_and_restarts_nothing():
    shares = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        workload = with_rates(make_random_workload(200, seed), 2.0)
        current = running(place(make_problem(workload)))
        noisy = make_problem(with_rates(workload, rng.uniform(0.8, 1.2, 200)))
        delta = re_place(noisy, current)
        check_delta(noisy, current, delta)
        shares.append(len(delta.moves) / 200)
    assert np.median(shares) <= 0.05


def test_a_broken_gpu_that_no_other_flags_mend_and_no_move_may_is_named():
    workload = make_workload([8] * 30, 2.0)
    current = running(place(make_problem(workload)))
    grown = make_problem(with_rates(workload, 1.5))
    delta = re_place(grown, current, max_moves=0)
    assert delta.moves == ()
    assert delta.unmended
    assert "0 moves are left" in delta.unmended[0].reason


def test_a_new_adapter_goes_where_there_is_room_and_moves_nobody():
    workload = make_workload([8] * 20, 0.01)
    current = running(place(make_problem(workload)))
    bigger = make_problem(make_workload([8] * 21, 0.01))
    delta = re_place(bigger, current, max_moves=0)
    check_delta(bigger, current, delta, 0)
    assert delta.placement.feasible
    assert delta.restarts == delta.opened == ()


def test_a_gpu_that_breaks_a_margin_has_the_chance_that_the_tree_gives_it():
    workload = make_workload([8] * 20, 1.0)
    problem = make_problem(with_rates(workload, 3.0))
    delta = re_place(problem, running(place(make_problem(workload))), max_moves=0)
    (gpu,) = delta.placement.gpus
    asked_again = problem.surrogate.predict(
        problem.workload.subset(gpu.rows),
        ServerConfig(max_loras=gpu.max_loras, max_lora_rank=gpu.max_lora_rank),
    )
    assert [row.gpu for row in delta.unmended] == [gpu.gpu]
    assert gpu.predicted.starvation_probability == asked_again.starvation_probability > 0.5


def test_an_adapter_of_a_higher_rank_is_moved_or_its_server_restarted():
    workload = make_workload([8] * 20, 0.1)
    current = running(place(make_problem(workload)))
    changed = make_problem(make_workload([8] * 19 + [32], 0.1))
    delta = re_place(changed, current)
    check_delta(changed, current, delta)
    assert delta.restarts or delta.moves


def test_a_fleet_that_shrank_gives_back_a_gpu_within_the_moves_allowed():
    workload = make_workload([8] * 60, 2.0)
    current = running(place(make_problem(workload)))
    quiet = make_problem(with_rates(workload, 0.25))
    delta = re_place(quiet, current, max_moves=60)
    check_delta(quiet, current, delta, 60)
    assert len(delta.closed) == 1


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ([(0, 8, 8, (0,)), (0, 8, 8, (1,))], "each gpu once"),
        ([(0, 8, 8, (0,)), (1, 8, 8, (0,))], "each adapter on one gpu"),
    ],
)
def test_a_current_plan_that_contradicts_itself_is_refused(gpus, words):
    current = tuple(RunningGpu(gpu=g, max_loras=m, max_lora_rank=r, rows=rows) for g, m, r, rows in gpus)
    with pytest.raises(InvalidProblemError, match=words):
        re_place(make_problem(make_workload([8] * 3, 0.1)), current)


@pytest.mark.parametrize("row", [-1, 3])
def test_a_current_plan_with_rows_that_the_workload_has_not_is_refused(row):
    current = (RunningGpu(gpu=0, max_loras=8, max_lora_rank=8, rows=(0, row)),)
    with pytest.raises(InvalidProblemError, match=rf"rows must be in 0\.\.2, got {row}"):
        re_place(make_problem(make_workload([8] * 3, 0.1)), current)
