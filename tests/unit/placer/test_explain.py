import numpy as np
import pytest

from models.features import FEATURE_NAMES
from placer.explain import binding_constraint, head_room, pressures, server_config, vllm_args
from placer.packing import place
from tests.support.packing_problems import (
    make_calibration,
    make_problem,
    make_random_workload,
    make_surrogate,
    make_workload,
    threshold_tree,
)
from twin.domain import MemoryLaw


def features(**values):
    row = np.zeros(len(FEATURE_NAMES), dtype=np.float32)
    row[FEATURE_NAMES.index("slots_over_active")] = row[FEATURE_NAMES.index("slots_over_hot")] = 1e6
    for name, value in values.items():
        row[FEATURE_NAMES.index(name)] = value
    return row


@pytest.mark.parametrize(
    ("row", "constraint"),
    [
        (features(rho=0.3, kv_pressure=0.2, budget_pressure=0.3), "none"),
        (features(rho=0.8, kv_pressure=0.5, budget_pressure=0.8), "throughput"),
        (features(rho=0.7, kv_pressure=0.5, seqs_pressure=0.9), "throughput"),
        (features(rho=0.8, kv_pressure=0.8, budget_pressure=0.6), "kv_memory"),
        (features(rho=0.8, slots_over_active=0.32, slots_over_count=0.5), "slots"),
        (features(rho=0.8, slots_over_hot=1.1, slots_over_count=0.5), "slots"),
        (features(rho=0.8, slots_over_hot=1.1, slots_over_count=1.0), "throughput"),
    ],
)
def test_the_limit_that_is_used_most_binds(row, constraint):
    assert binding_constraint(row) == constraint


def test_pressures_are_shares_of_each_limit():
    row = features(rho=0.6, kv_pressure=0.2, slots_over_active=4.0, slots_over_count=0.5)
    assert pressures(row) == pytest.approx({"kv_memory": 0.2, "slots": 0.075, "throughput": 0.6})
    assert head_room(row) == pytest.approx({"kv_memory": 0.8, "slots": 0.925, "throughput": 0.4})


def test_long_answers_on_a_small_gpu_are_bound_by_kv_memory():
    calibration = make_calibration(memory=MemoryLaw(pool_bytes=18e9))
    surrogate = make_surrogate(calibration, threshold_tree("rho", [0.85], [0.01, 0.9]))
    problem = make_problem(make_workload([8], 4.0, 100.0, 900.0), surrogate, calibration=calibration)
    assert place(problem).gpus[0].binding_constraint == "kv_memory"


def test_a_single_idle_adapter_is_bound_by_nothing():
    (gpu,) = place(make_problem(make_workload([8], 0.01))).gpus
    assert gpu.binding_constraint == "none"


def test_the_arguments_of_vllm_start_the_server_that_was_planned():
    problem = make_problem(make_random_workload(60, 2, ranks=(8, 16)), max_model_len=8192)
    (gpu, *_) = place(problem).gpus
    arguments = vllm_args(gpu, problem)
    assert arguments[0] == "--enable-lora"
    given = dict(zip(arguments[1::2], map(int, arguments[2::2]), strict=True))
    server = server_config(gpu, problem)
    assert given == {
        "--max-loras": gpu.max_loras,
        "--max-lora-rank": gpu.max_lora_rank,
        "--max-cpu-loras": max(len(gpu.rows), gpu.max_loras),
        "--max-num-seqs": server.max_num_seqs,
        "--max-num-batched-tokens": server.max_num_batched_tokens,
        "--max-model-len": 8192,
    }


def test_the_model_decides_its_own_length_where_none_is_asked_for():
    problem = make_problem(make_workload([8], 0.1))
    (gpu,) = place(problem).gpus
    assert "--max-model-len" not in vllm_args(gpu, problem)
    assert server_config(gpu, problem).max_model_len is None
