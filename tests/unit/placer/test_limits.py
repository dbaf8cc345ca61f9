import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.features import FEATURE_NAMES
from placer import limits
from placer.ranks import ACCEPTED_MAX_LORA_RANKS, slot_rank, slot_rank_classes
from tests.support.packing_problems import make_calibration, make_problem, make_surrogate, make_workload
from twin.domain import MemoryLaw, ServerConfig
from twin.memory import fits_in_memory


@given(st.integers(1, 512))
def test_a_slot_holds_its_adapter_and_the_next_smaller_accepted_rank_would_not(rank):
    slot = slot_rank(rank)
    assert slot in ACCEPTED_MAX_LORA_RANKS
    assert slot >= rank
    assert all(smaller < rank for smaller in ACCEPTED_MAX_LORA_RANKS if smaller < slot)
    assert ACCEPTED_MAX_LORA_RANKS[slot_rank_classes(np.array([rank]))[0]] == slot


def test_no_slot_holds_a_rank_above_the_largest_accepted():
    assert slot_rank(513) == 0


@pytest.mark.parametrize("max_model_len", [None, 4096])
def test_a_ladder_ends_with_the_largest_value_that_starts(max_model_len):
    problem = make_problem(make_workload([8], 0.1), max_model_len=max_model_len)
    ladders = limits.max_loras_ladders(problem)
    assert len(ladders) == 3
    for rank, ladder in zip(limits.usable_slot_ranks(problem), ladders.tolist(), strict=True):
        feasible = [max_loras for max_loras in ladder if max_loras > 0]
        assert feasible == list(limits.MAX_LORAS_LADDER[: len(feasible)])
        for max_loras in limits.MAX_LORAS_LADDER:
            server = ServerConfig(max_loras=max_loras, max_lora_rank=rank, max_model_len=max_model_len)
            assert fits_in_memory(problem.calibration, server) == (max_loras in feasible)


def test_a_ladder_stays_inside_what_the_surrogate_was_trained_on():
    calibration = make_calibration()
    surrogate = make_surrogate(calibration)
    surrogate.ranges[FEATURE_NAMES.index("max_loras")] = [8, 64]
    problem = make_problem(make_workload([8], 0.1), make_surrogate(calibration, ranges=surrogate.ranges))
    assert limits.max_loras_ladders(problem)[0].tolist() == [
        m for m in limits.MAX_LORAS_LADDER if 8 <= m <= 64
    ]


def test_a_gpu_too_small_for_one_request_has_no_ladder():
    calibration = make_calibration(memory=MemoryLaw(pool_bytes=1e9))
    problem = make_problem(make_workload([8], 0.1), calibration=calibration)
    assert not limits.max_loras_ladders(problem).any()
