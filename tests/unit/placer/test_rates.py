"""Rates that are known but for an error: what plans leave room for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artifact import load_shipped
from models.features import adapter_terms, total
from models.kernels.features import ACTIVE, NUM_ACTIVE, NUM_AGGREGATES
from placer import fleets
from placer.bench import CALIBRATION_ID
from placer.bounds import adapter_demands, best_case
from placer.families import family_workload
from placer.kernels.best_case import utilisation_of_each
from placer.kernels.rates import LOAD, LOAD_VARIANCE, NUM_STATE, at_planned_rates, rate_factor
from placer.packing import build_tables, place
from placer.problem import PlacementProblem
from placer.replicas import place_replicated
from placer.risk import rate_z
from placer.verify import verify
from placer.what_if import Change, consequence
from tests.support.packing_oracle import Oracle
from tests.support.packing_problems import make_problem, make_random_workload, make_workload
from twin.calibration import load_calibration


def with_errors(problem, share):
    """The problem with rates whose errors have this share of them as standard deviation."""
    workload = problem.workload
    return replace(problem, workload=replace(workload, rate_rps_std=share * workload.rate_rps))


@pytest.fixture(scope="module")
def shipped():
    calibration, surrogate = load_calibration(CALIBRATION_ID), load_shipped(CALIBRATION_ID)

    def problem_of(family, num_adapters, seed=0, **changes):
        workload = family_workload(family, seed, num_adapters, calibration)
        return PlacementProblem(workload=workload, calibration=calibration, surrogate=surrogate, **changes)

    return problem_of


def state_of(workload, load, load_std):
    """A GPU's state with all adapters of a workload."""
    state = np.zeros(NUM_STATE)
    state[:NUM_AGGREGATES] = total(adapter_terms(workload))
    state[LOAD], state[LOAD_VARIANCE] = np.sum(load), np.sum(np.square(load_std))
    return state


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 3.0), st.integers(1, 40))
def test_planned_rates_are_the_rates_times_one_factor(seed, z, count):
    workload = make_random_workload(count, seed)
    rng = np.random.default_rng(seed)
    load = rng.uniform(0.01, 0.1, count)
    load_std = load * rng.uniform(0, 1, count)
    state = state_of(workload, load, load_std)
    factor = 1 + z * np.sqrt(np.square(load_std).sum()) / load.sum()
    assert rate_factor(state, z) == pytest.approx(factor)
    raised = at_planned_rates(state, z)
    expected = total(adapter_terms(workload, workload.rate_rps * factor))
    is_active = np.zeros(NUM_AGGREGATES, dtype=bool)
    is_active[ACTIVE + 1 : ACTIVE + NUM_ACTIVE] = True
    is_sum = ~is_active
    is_sum[ACTIVE] = False  # the shortest tau, below any step: read as a straight line
    assert raised[:NUM_AGGREGATES][is_sum] == pytest.approx(expected[is_sum], rel=1e-9)
    assert raised[:NUM_AGGREGATES][is_active] == pytest.approx(expected[is_active], rel=0.01)


def test_without_errors_nothing_is_raised():
    workload = make_random_workload(5, 0)
    state = state_of(workload, np.ones(5), np.zeros(5))
    assert rate_factor(state, 3.0) == 1.0


@pytest.mark.parametrize("family", ["seed-paper", "zipf", "mixed-lengths", "all-hot"])
@pytest.mark.parametrize("num_trials", [0, 500])
def test_more_uncertainty_never_needs_fewer_gpus(shipped, family, num_trials):
    problem = shipped(family, 300, num_trials=num_trials)
    plans = [place(with_errors(problem, share)) for share in (0.0, 0.1, 0.3, 1.0)]
    sizes = [plan.num_gpus for plan in plans]
    assert sizes == sorted(sizes)
    assert all(plan.feasible for plan in plans)
    assert all(plan.lower_bound <= plans[0].lower_bound for plan in plans), "bounds are those of the means"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_what_carries_uncertain_rates_carries_surer_ones(seed, share, surer):
    problem = make_problem(make_random_workload(6, seed), starvation_risk=0.3)
    rows = list(range(6))
    unsure = Oracle(with_errors(problem, share))
    sure = Oracle(with_errors(problem, share * surer))
    if unsure.fits(rows):
        assert sure.load_factor(rows) <= unsure.load_factor(rows)
        assert sure.fits(rows)


def test_a_margin_for_many_is_smaller_than_the_margins_of_each():
    factors = [
        rate_factor(
            state_of(make_random_workload(count, 0), np.full(count, 0.01), np.full(count, 0.005)), 3.0
        )
        for count in (1, 4, 16, 64)
    ]
    margins = np.array(factors) - 1
    assert margins == pytest.approx(3.0 * 0.5 / np.sqrt([1, 4, 16, 64]))


@pytest.mark.parametrize("family", ["seed-paper", "mixed-lengths", "all-hot"])
def test_loads_exceed_what_they_are_planned_for_no_more_often_than_the_risk(shipped, family):
    """Rates drawn from the normal law that was stated: fleets with any GPU above its planned load."""
    risk = 0.2
    problem = with_errors(shipped(family, 300, starvation_risk=risk), 0.3)
    plan, workload = place(problem), problem.workload
    load = utilisation_of_each(*best_case(problem), adapter_demands(problem))
    planned = np.array([load[gpu.rows].sum() * (1 + gpu.load_margin) for gpu in plan.gpus])
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(20_000, workload.num_adapters)) * workload.rate_rps_std / workload.rate_rps
    drawn = np.stack([(load * (1 + errors))[:, gpu.rows].sum(axis=1) for gpu in plan.gpus], axis=1)
    above = drawn > planned
    assert 0 < above.any(axis=1).mean() <= risk
    per_gpu = 1 - (1 - risk / 2) ** (1 / (2 * place(replace(problem, num_trials=0)).lower_bound))
    assert above.mean() <= 1.5 * per_gpu


def test_every_gpu_is_accepted_at_its_mean_and_at_its_planned_rates(shipped):
    problem = with_errors(shipped("zipf", 200), 0.5)
    tables, plan = build_tables(problem), place(problem)
    assert plan.rate_z == rate_z(problem, 2 * tables.bounds.best) > 0
    certain = replace(problem, workload=replace(problem.workload, rate_rps_std=np.zeros(200)))
    for gpu in plan.gpus:
        assert gpu.load_margin > 0
        for factor in (1.0, 1.0 + gpu.load_margin):
            raised = replace(
                certain, workload=replace(certain.workload, rate_rps=factor * problem.workload.rate_rps)
            )
            again = build_tables(raised)
            fleet = fleets.fleet_of(again, [gpu.rows], 1)
            fleet.choice[0] = fleets.choice_of(again, int(fleet.rank_class[0]), gpu.max_loras)
            assert fleets.risk_of(again, fleet, 0) <= tables.oracle.starvation_risk * 1.001


def test_rates_that_are_certain_get_the_plans_they_had():
    problem = make_problem(make_random_workload(80, 1))
    absent, zeros = place(problem), place(with_errors(problem, 0.0))
    assert absent.rate_z == zeros.rate_z == 0
    for one, other in zip(absent.gpus, zeros.gpus, strict=True):
        assert np.array_equal(one.rows, other.rows)
        assert (one.max_loras, one.predicted, one.head_room) == (
            other.max_loras,
            other.predicted,
            other.head_room,
        )
        assert one.load_margin == 0


def test_an_adapter_too_uncertain_for_one_gpu_is_split_and_all_of_it_is_placed():
    sure = make_problem(make_workload([8, 8], [0.5, 8.0]))
    unsure = replace(sure, workload=replace(sure.workload, rate_rps_std=np.array([0.0, 20.0])))
    assert place_replicated(sure)[1] is None
    plan, replicas = place_replicated(unsure)
    assert plan.feasible
    assert replicas.problem.workload.rate_rps_std.sum() == pytest.approx(20.0)
    assert (replicas.origin == 1).sum() > 1


def test_a_tiny_rate_with_a_large_error_is_planned_for_its_error():
    workload = make_workload([8, 8], [1e-300, 1.0])
    tiny = replace(workload, rate_rps_std=np.array([1.0, 0.0]))
    plan = place(make_problem(tiny))
    assert plan.feasible
    (gpu,) = plan.gpus if plan.num_gpus == 1 else plan.gpus[:1]
    assert np.isfinite(gpu.load_margin)
    assert place(make_problem(replace(tiny, rate_rps_std=np.array([400.0, 0.0])))).unplaced


def test_a_change_of_the_rates_scales_their_errors_too():
    problem = with_errors(make_problem(make_random_workload(10, 3)), 0.2)
    found = consequence(problem, (), Change(scale_rates=2.0))
    assert found.problem.workload.rate_rps_std == pytest.approx(2 * problem.workload.rate_rps_std)


@pytest.mark.parametrize("risk", [5e-324, 1e-30, 1e-9, 0.05, 0.999])
@pytest.mark.parametrize("num_gpus", [1, 1000, 10**9])
def test_a_smaller_risk_spread_over_more_gpus_wants_more_standard_deviations(risk, num_gpus):
    problem = with_errors(make_problem(make_random_workload(3, 0), starvation_risk=risk), 0.2)
    z = rate_z(problem, num_gpus)
    assert 0 < z < 40
    assert z <= rate_z(problem, 2 * num_gpus)
    assert z <= rate_z(replace(problem, starvation_risk=risk / 2 or risk), num_gpus)


def test_a_replay_serves_the_mean_rates():
    problem = make_problem(make_random_workload(10, 3))
    plain, unsure = (
        verify(place(problem), each, horizon_s=20.0) for each in (problem, with_errors(problem, 0.2))
    )
    assert [report.throughput_tok_s for report in plain.reports] == [
        report.throughput_tok_s for report in unsure.reports
    ]
