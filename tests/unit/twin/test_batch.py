"""Many simulations at once."""

from functools import partial

import pytest

from tests.support.twin_cases import HAS_JIT, calibration, report_as_dict, server
from twin.batch import RefusedScenario, Scenario, map_tasks, simulate_many
from twin.domain import Adapter, SimulationReport, Workload
from twin.simulate import simulate

HORIZON_S = 5.0 if HAS_JIT else 1.0
WORKLOAD = Workload.from_adapters(
    Adapter(adapter_id=str(row), rank=8, rate_rps=2.0, input_tokens_mean=50.0, output_tokens_mean=20.0)
    for row in range(6)
)


def scenario(number, **changes):
    values = {"server": server(max_loras=1 + number % 4), "calibration": calibration(), "seed": number}
    return Scenario(name=f"run {number}", workload=WORKLOAD, horizon_s=HORIZON_S, **(values | changes))


def comparable(results):
    return [
        str(report_as_dict(result)) if isinstance(result, SimulationReport) else result for result in results
    ]


def test_a_batch_gives_what_each_simulation_gives_alone():
    batch = [scenario(number) for number in range(10)]
    alone = [
        simulate(one.workload, one.server, one.calibration, horizon_s=HORIZON_S, seed=one.seed)
        for one in batch
    ]
    assert comparable(simulate_many(batch, num_workers=1)) == comparable(alone)


@pytest.mark.skipif(not HAS_JIT, reason="worker processes are slow to start without compiled kernels")
def test_processes_change_neither_results_nor_their_order():
    batch = [scenario(number) for number in range(20)]
    batch[11] = scenario(11, server=server(max_loras=4000))
    assert comparable(simulate_many(batch, num_workers=2)) == comparable(simulate_many(batch, num_workers=1))


def test_a_refused_scenario_is_named_and_leaves_the_others_alone():
    batch = [scenario(0), scenario(1, server=server(max_lora_rank=128)), scenario(2)]
    first, refused, last = simulate_many(batch, num_workers=1)
    assert isinstance(first, SimulationReport)
    assert isinstance(last, SimulationReport)
    assert refused == RefusedScenario(
        name="run 1",
        field="max_lora_rank",
        message="must be <= 64, the largest that toy-gpu/toy-model/toy-1 was measured with, got 128",
    )


def test_an_empty_batch_has_no_results():
    assert simulate_many([]) == []


def test_tasks_in_this_process_are_done_in_order():
    assert list(map_tasks(list, [range(2), range(2, 3)], 1)) == [[0, 1], [2]]


@pytest.mark.skipif(not HAS_JIT, reason="worker processes are slow to start without compiled kernels")
def test_tasks_over_processes_are_done_in_order():
    tasks = [range(number) for number in range(6)]
    assert list(map_tasks(partial(sorted, reverse=True), tasks, 2)) == [
        sorted(task, reverse=True) for task in tasks
    ]
