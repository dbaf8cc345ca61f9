import numpy as np
import pytest

from placer.packing import place
from tests.support.packing_problems import make_problem, make_random_workload, make_workload
from tests.unit.placer.test_packing import check_laws


def slowest_ms(placement, problem):
    workload = problem.workload
    tokens = np.average(workload.output_tokens_mean, weights=workload.rate_rps)
    return max(gpu.predicted.ttft_ms + gpu.predicted.itl_ms * tokens for gpu in placement.gpus)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_more_gpus_make_the_slowest_gpu_faster(seed):
    workload = make_random_workload(60, seed)
    times = []
    for count in (2, 4, 8):
        problem = make_problem(workload, objective="min_latency", max_gpus=count)
        placement = place(problem)
        check_laws(problem, placement)
        assert placement.feasible
        times.append(slowest_ms(placement, problem))
    assert times == sorted(times, reverse=True)
    assert times[-1] < times[0]


def test_latency_is_no_worse_than_that_of_the_fewest_gpus():
    workload = make_random_workload(120, 4)
    fewest = place(make_problem(workload))
    problem = make_problem(workload, objective="min_latency", max_gpus=fewest.num_gpus + 1)
    assert slowest_ms(place(problem), problem) <= slowest_ms(fewest, problem)


def test_what_does_not_fit_on_the_gpus_that_are_given_is_named():
    problem = make_problem(make_workload([8] * 40, 6.0), objective="min_latency", max_gpus=2)
    placement = place(problem)
    check_laws(problem, placement)
    assert placement.num_gpus == 2
    assert {adapter.code for adapter in placement.unplaced} == {"max_gpus"}
