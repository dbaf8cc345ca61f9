"""Speed of the kernels that answers wait for. Run: ``pytest tests/benchmarks --benchmark-enable``.

Without that option each case runs once, to see that it runs; nothing here asserts a time.
"""

import pytest

from models.artifact import load_shipped
from placer.families import family_workload
from placer.packing import place
from placer.problem import PlacementProblem
from tests.support.twin_cases import HAS_JIT
from twin.bench import REGIMES, regime_workload
from twin.calibration import load_calibration, shipped_calibration_ids
from twin.domain import ServerConfig
from twin.simulate import simulate

pytestmark = pytest.mark.skipif(not HAS_JIT, reason="speed is that of compiled kernels")


@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_an_hour_of_one_server(benchmark, regime):
    calibration = load_calibration(shipped_calibration_ids()[0])
    server = ServerConfig(max_loras=regime.max_loras, max_lora_rank=8)
    workload = regime_workload(regime)
    report = benchmark(simulate, workload, server, calibration)
    assert report.num_steps > 0


@pytest.mark.parametrize("num_adapters", [192, 1000, 10_000])
def test_a_plan(benchmark, num_adapters):
    calibration_id = shipped_calibration_ids()[0]
    calibration = load_calibration(calibration_id)
    problem = PlacementProblem(
        workload=family_workload("zipf", 0, num_adapters, calibration),
        calibration=calibration,
        surrogate=load_shipped(calibration_id),
    )
    placement = benchmark(place, problem)
    assert placement.num_gpus >= placement.lower_bound
