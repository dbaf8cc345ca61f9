from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ArtefactError
from models.features import FEATURE_NAMES, NUM_FEATURES, aggregate, features_of
from models.kernels.surrogate import STARVED_AT_MOST, STARVED_BELOW, agreed, evaluate, evaluate_all
from models.tree import predict, tree_arrays
from tests.support.feature_cases import a_calibration, equal_adapters, workloads
from tests.support.tree_cases import small_surrogate
from twin import report
from twin.domain import ServerConfig

CALIBRATION = a_calibration()
SURROGATE = small_surrogate(CALIBRATION)
SERVER = ServerConfig(max_loras=8, max_lora_rank=32)


@settings(deadline=None, max_examples=50)
@given(workloads, st.integers(1, 100))
def test_a_prediction_is_the_physics_times_the_trees(workload, max_loras):
    server = ServerConfig(max_loras=max_loras, max_lora_rank=32)
    prediction = SURROGATE.predict(workload, server)
    row, physics = features_of(aggregate(workload), max_loras, 32, SURROGATE.calibration)
    factor = {
        name: predict(getattr(SURROGATE, name), row[None, :])[0]
        for name in ("throughput", "starvation", "itl", "ttft")
    }
    served = min(physics.served_fraction * factor["throughput"], 1.0)
    served = min(served, STARVED_AT_MOST) if factor["starvation"] > 0.5 else max(served, 0.9)
    assert prediction.served_fraction == pytest.approx(served)
    assert prediction.throughput_tok_s == pytest.approx(served * physics.offered_tok_s)
    assert prediction.starvation_probability == factor["starvation"]
    assert prediction.itl_ms == pytest.approx(physics.itl_ms * factor["itl"])
    assert prediction.ttft_ms == pytest.approx(physics.ttft_ms * factor["ttft"])


@settings(deadline=None, max_examples=30)
@given(workloads, st.integers(1, 100))
def test_what_a_packer_asks_is_what_a_prediction_says(workload, max_loras):
    scratch = np.empty(NUM_FEATURES, dtype=np.float32)
    aggregates = aggregate(workload)
    served, starvation = evaluate(SURROGATE.kernel_args(), aggregates, max_loras, 32, scratch)
    everything = evaluate_all(SURROGATE.kernel_args(), aggregates, max_loras, 32, scratch)
    assert (served, starvation) == everything[:2]
    prediction = SURROGATE.predict(workload, ServerConfig(max_loras=max_loras, max_lora_rank=32))
    assert served == prediction.served_fraction
    assert starvation == prediction.starvation_probability


def test_offered_tokens_are_those_of_the_workload():
    workload = equal_adapters(3, 0.5)
    assert SURROGATE.predict(workload, SERVER).offered_tok_s == pytest.approx(workload.offered_tok_s)


def test_a_feature_outside_the_trained_range_is_named():
    workload = equal_adapters(3, 0.5)
    assert SURROGATE.predict(workload, SERVER).out_of_range == ()
    ranges = SURROGATE.ranges.copy()
    ranges[FEATURE_NAMES.index("num_adapters")] = [10, 20]
    narrow = with_changes(ranges=ranges)
    assert narrow.predict(workload, SERVER).out_of_range == ("num_adapters",)


def with_changes(**changes):
    fields = ("calibration_id", "calibration", "ranges", "throughput", "starvation", "itl", "ttft")
    return type(SURROGATE)(**({name: getattr(SURROGATE, name) for name in fields} | changes))


def test_flags_that_training_held_fixed_are_named_when_they_differ():
    server = ServerConfig(max_loras=8, max_lora_rank=32, max_num_seqs=128, block_size=32)
    assert SURROGATE.predict(equal_adapters(3, 0.5), server).out_of_range == ("max_num_seqs", "block_size")


def test_the_version_changes_with_any_array():
    versions = {SURROGATE.version, small_surrogate(CALIBRATION, seed=1).version}
    versions.add(with_changes(ranges=SURROGATE.ranges * np.float32(2)).version)
    versions.add(with_changes(calibration_id="another/one/yet").version)
    assert len(versions) == 4
    assert small_surrogate(CALIBRATION).version == SURROGATE.version


def test_a_surrogate_knows_the_calibration_it_was_trained_with():
    law = replace(CALIBRATION.step, base_ms=9.0)
    assert SURROGATE.agrees_with(CALIBRATION)
    assert not SURROGATE.agrees_with(a_calibration(step=law))
    assert not SURROGATE.agrees_with(CALIBRATION, ServerConfig(max_loras=1, max_lora_rank=8, max_num_seqs=4))


def test_a_surrogate_refuses_a_tree_that_a_kernel_could_leave():
    broken = tree_arrays([99, -2, -2], [0.0, 0, 0], [1, -1, -1], [2, -1, -1], [1, 1, 1])
    with pytest.raises(ArtefactError, match="throughput"):
        with_changes(throughput=broken)


def test_what_starves_is_served_less_than_the_share_that_starvation_is_defined_by():
    assert STARVED_AT_MOST < STARVED_BELOW == report.STARVED_BELOW


@pytest.mark.parametrize(
    ("served", "chance", "expected"),
    [(0.95, 0.1, 0.95), (0.85, 0.1, 0.9), (1.7, 0.0, 1.0), (0.95, 0.9, STARVED_AT_MOST), (0.4, 0.9, 0.4)],
)
def test_served_fraction_and_starvation_never_contradict_each_other(served, chance, expected):
    assert agreed(served, chance) == expected
