from dataclasses import replace

import numpy as np

from models.artifact import load_shipped
from placer.families import family_workload
from placer.margins import Margins
from placer.packing import place
from placer.problem import PlacementProblem
from placer.verify import replay, verify
from tests.support.packing_problems import (
    make_calibration,
    make_problem,
    make_random_workload,
    make_surrogate,
    make_workload,
    threshold_tree,
)
from twin.calibration import load_calibration

HORIZON_S = 30.0


def test_a_replay_has_one_report_for_each_gpu_in_the_plans_order():
    problem = make_problem(make_random_workload(60, 1), starvation_risk=0.05)
    placement = place(problem)
    reports = replay(placement, problem, horizon_s=HORIZON_S)
    assert len(reports) == placement.num_gpus
    for gpu, report in zip(placement.gpus, reports, strict=True):
        assert len(report.served_fraction) == len(gpu.rows)
        assert report.horizon_s == HORIZON_S


def test_a_replay_does_not_depend_on_the_number_of_threads():
    problem = make_problem(make_workload([8] * 30, 2.0))
    placement = place(problem)
    assert placement.num_gpus > 1
    alone = replay(placement, problem, seed=3, horizon_s=HORIZON_S, max_workers=1)
    together = replay(placement, problem, seed=3, horizon_s=HORIZON_S, max_workers=4)
    for one, other in zip(alone, together, strict=True):
        assert one.throughput_tok_s == other.throughput_tok_s
        assert np.array_equal(one.served_fraction, other.served_fraction)


def test_gpus_and_seeds_draw_their_own_arrivals():
    problem = make_problem(make_workload([8] * 30, 2.0))
    placement = place(problem)
    first = replay(placement, problem, seed=0, horizon_s=HORIZON_S)
    second = replay(placement, problem, seed=1, horizon_s=HORIZON_S)
    assert first[0].num_requests_sent != second[0].num_requests_sent
    assert [len(gpu.rows) for gpu in placement.gpus] == [15, 15]  # alike, but for what they draw
    assert first[0].num_requests_sent != first[1].num_requests_sent


def make_hopeful_problem(**changes):
    """A surrogate that sees no starvation, and margins for a quarter more than can be served."""
    calibration = make_calibration()
    optimist = make_surrogate(calibration, threshold_tree("rho", [100.0], [0.001, 0.9]))
    workload = make_workload([8] * 100, 1.0, 1000.0, 50.0)
    margins = Margins(max_rho=1.25, min_served_fraction=0.0, few_kv_requests=0.0)
    return make_problem(workload, optimist, calibration=calibration, margins=margins, **changes)


def test_a_plan_that_trusts_an_optimistic_surrogate_is_found_out():
    hopeful = make_hopeful_problem()
    sober = make_problem(
        hopeful.workload, make_surrogate(hopeful.calibration), calibration=hopeful.calibration
    )
    assert any(report.starved for report in replay(place(hopeful), hopeful, horizon_s=240.0))
    assert not any(report.starved for report in replay(place(sober), sober, horizon_s=240.0))


def test_a_plan_that_starves_is_mended_and_only_then_called_verified():
    problem = make_hopeful_problem()
    placement = place(problem)
    checked = verify(placement, problem, horizon_s=240.0)
    assert checked.status == "verified"
    assert checked.repairs
    assert len(checked.reports) == checked.placement.num_gpus
    again = replay(checked.placement, problem, horizon_s=240.0)
    assert [report.starved for report in again] == [False] * checked.placement.num_gpus
    rows = sorted(row for gpu in checked.placement.gpus for row in gpu.rows.tolist())
    assert rows == list(range(100))
    assert checked.placement.lower_bound == placement.lower_bound


def test_a_plan_that_cannot_be_mended_within_max_gpus_is_called_starved():
    problem = make_hopeful_problem(max_gpus=1)
    checked = verify(place(problem), problem, horizon_s=240.0)
    assert checked.placement.num_gpus == 1
    assert not checked.repairs
    assert checked.status == "starved"


def make_waiting_problem(**changes):
    """Many adapters of few requests, whose fewest GPUs have slots for a third of the active ones."""
    calibration_id = "h100-64gb/llama-3.1-8b-instruct/vllm-0.8.5"
    calibration = load_calibration(calibration_id)
    return PlacementProblem(
        workload=family_workload("zipf", 0, 1000, calibration),
        calibration=calibration,
        surrogate=load_shipped(calibration_id),
        num_trials=0,
        **changes,
    )


def slowest_ms(reports):
    return max(report.ttft.mean_ms for report in reports)


def test_requests_wait_for_minutes_on_the_fewest_gpus_and_hardly_where_ttft_is_limited():
    fewest, quick = make_waiting_problem(), make_waiting_problem(max_ttft_ms=1000.0)
    waiting = replay(place(fewest), fewest)
    assert slowest_ms(waiting) > 60_000
    checked = verify(place(quick), quick)
    assert checked.status == "verified"
    assert slowest_ms(checked.reports) <= 1000
    assert sum(report.adapters.starving.sum() for report in checked.reports) == 0
    assert checked.placement.num_gpus <= 2 * len(waiting)


def test_a_plan_is_verified_only_once_no_gpu_is_slow():
    hopeful = make_hopeful_problem(max_gpus=100)
    limit = 0.5 * slowest_ms(verify(place(hopeful), hopeful, horizon_s=240.0).reports)
    problem = replace(hopeful, max_ttft_ms=limit)
    kept = place(hopeful)
    assert slowest_ms(replay(kept, problem, horizon_s=240.0)) > limit
    checked = verify(kept, problem, horizon_s=240.0)
    assert checked.status == "verified"
    assert slowest_ms(checked.reports) <= limit


def test_a_plan_that_stays_slow_is_called_slow():
    problem = replace(make_problem(make_workload([8], 0.5, 3000.0)), max_ttft_ms=1.0)
    checked = verify(place(replace(problem, max_ttft_ms=None)), problem)
    assert not checked.reports[0].starved
    assert checked.status == "slow"


def test_a_plan_without_time_for_its_replay_is_called_incomplete():
    problem = make_problem(make_workload([8] * 30, 2.0))
    checked = verify(place(problem), problem, deadline_s=-1.0)
    assert checked.status == "incomplete"
    assert set(checked.reports) == {None}


def test_an_empty_plan_has_nothing_to_verify():
    problem = make_problem(make_workload([8], 0.1, 500_000.0))
    assert verify(place(problem), problem).status == "no_gpus"


def test_a_verification_does_not_depend_on_the_number_of_threads():
    problem = make_hopeful_problem()
    one, four = (verify(place(problem), problem, horizon_s=300.0, max_workers=n) for n in (1, 4))
    assert one.repairs == four.repairs
    assert [gpu.rows.tolist() for gpu in one.placement.gpus] == [
        gpu.rows.tolist() for gpu in four.placement.gpus
    ]
