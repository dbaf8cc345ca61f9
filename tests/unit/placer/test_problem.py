import math
from dataclasses import replace

import pytest

from placer.errors import InvalidProblemError, PlacerError
from tests.support.packing_problems import make_calibration, make_problem, make_surrogate, make_workload


def test_a_problem_with_every_default_is_accepted():
    problem = make_problem(make_workload([8, 32], 0.1))
    assert problem.max_gpus is None
    assert problem.longest_request_tokens == problem.calibration.model.max_model_len


@pytest.mark.parametrize("name", ["base_model", "gpu_type"])
def test_a_workload_for_another_server_is_refused_by_name(name):
    workload = make_workload([8], 0.1, **{name: "another"})
    with pytest.raises(InvalidProblemError, match="got 'another'") as caught:
        make_problem(workload)
    assert caught.value.field == name
    assert isinstance(caught.value, PlacerError)


def test_a_surrogate_of_another_calibration_is_refused():
    calibration = make_calibration()
    slower = replace(calibration.scheduler, running_us=calibration.scheduler.running_us + 1)
    with pytest.raises(InvalidProblemError, match="must be trained on calibration") as caught:
        make_problem(make_workload([8], 0.1), make_surrogate(make_calibration(scheduler=slower)))
    assert caught.value.field == "surrogate"


def test_a_rank_above_what_the_calibration_knows_is_refused_by_its_row():
    with pytest.raises(InvalidProblemError, match="must be <= 32") as caught:
        make_problem(make_workload([8, 33, 64], 0.1))
    assert caught.value.field == "adapters[1].rank"


def test_a_rank_whose_slot_would_be_larger_than_the_calibration_knows_is_refused():
    calibration = make_calibration(max_known_rank=24)
    with pytest.raises(InvalidProblemError, match="must be <= 16") as caught:
        make_problem(make_workload([16, 20], 0.1), calibration=calibration)
    assert caught.value.field == "adapters[1].rank"


def test_an_objective_of_a_later_release_is_refused_by_its_name():
    with pytest.raises(InvalidProblemError, match="max_gpus must be given with objective 'min_latency'"):
        make_problem(make_workload([8], 0.1), objective="min_latency")


def test_an_unknown_objective_names_those_known():
    with pytest.raises(InvalidProblemError, match="one of min_gpus, min_latency, got 'cheap'"):
        make_problem(make_workload([8], 0.1), objective="cheap")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_gpus", 0),
        ("max_gpus", -1),
        ("max_gpus", 1.5),
        ("max_gpus", True),
        ("max_gpus", 10**9),
        ("starvation_risk", 0.0),
        ("starvation_risk", 1.0),
        ("starvation_risk", math.nan),
        ("starvation_risk", -0.1),
        ("max_model_len", 0),
        ("max_model_len", 131073),
    ],
)
def test_an_option_out_of_range_is_refused_by_its_name(name, value):
    with pytest.raises(InvalidProblemError) as caught:
        make_problem(make_workload([8], 0.1), **{name: value})
    assert caught.value.field == name
