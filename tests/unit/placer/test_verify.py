import numpy as np

from placer.packing import place
from placer.verify import replay
from tests.support.packing_problems import (
    make_calibration,
    make_problem,
    make_random_workload,
    make_surrogate,
    make_workload,
    threshold_tree,
)

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
    same_size = [
        report.num_requests_sent
        for gpu, report in zip(placement.gpus, first, strict=True)
        if len(gpu.rows) == len(placement.gpus[0].rows)
    ]
    assert len(same_size) == 1 or len(set(same_size)) > 1


def test_a_plan_that_trusts_an_optimistic_surrogate_is_found_out():
    calibration = make_calibration()
    optimist = make_surrogate(calibration, threshold_tree("rho", [100.0], [0.01, 0.9]))
    workload = make_workload([8] * 100, 1.5, 100.0, 200.0)
    problem = make_problem(workload, optimist, calibration=calibration)
    sober = make_problem(workload, make_surrogate(calibration), calibration=calibration)
    assert any(report.starved for report in replay(place(problem), problem, horizon_s=180.0))
    assert not any(report.starved for report in replay(place(sober), sober, horizon_s=180.0))
