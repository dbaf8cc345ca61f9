"""The calibration plan: what it holds, when it is enough, and how the memory border is bracketed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.agent.border import next_launch
from service.agent.design import Knowledge, expected_state, next_state, uncertain_states
from service.agent.plan import expected_minutes, fits, plan_lines, stages_of
from service.agent.settings import AgentSettings
from tests.support.agent_sets import KNOWN, step_point

SETTINGS = AgentSettings(
    slots=(2, 4, 8), ranks=(8, 16), batches=(1, 12, 40), prompt_tokens=(24, 96), answer_tokens=64
)
STAGES = stages_of(SETTINGS)


def knowledge():
    terms = [expected_state(state, stage.launch) for stage in STAGES for state in stage.states]
    return Knowledge(np.max(terms, axis=0))


def measured(state, launch):
    share = 1 / state.output_tokens
    decodes = state.concurrency * (1 - share)
    row = (
        decodes,
        state.concurrency * share * state.input_tokens,
        decodes * (state.input_tokens + state.output_tokens / 2),
        float(state.adapters),
    )
    return step_point(KNOWN.step, 0.0, row, slots=launch.max_loras, rank=launch.max_lora_rank).row


def test_every_slot_count_and_rank_is_launched_and_the_middle_one_first():
    flags = [(stage.launch.max_loras, stage.launch.max_lora_rank) for stage in STAGES]
    assert flags == [(4, 8), (2, 8), (8, 8), (2, 16)]


def test_points_of_a_plan_have_names_of_their_own():
    keys = [one.key(stage.launch) for stage in STAGES for one in (*stage.states, *stage.loads, *stage.checks)]
    assert len(set(keys)) == len(keys)


def test_no_state_holds_more_adapters_than_there_are_slots():
    assert all(state.adapters <= stage.launch.max_loras for stage in STAGES for state in stage.states)


def test_loads_are_timed_of_full_and_of_smaller_rank_from_host_memory_and_from_disk():
    kinds = {
        (load.adapter_rank < stage.launch.max_lora_rank, load.source)
        for stage in STAGES
        for load in stage.loads
    }
    assert kinds == {(False, "cpu"), (False, "disk"), (True, "cpu"), (True, "disk")}


def test_a_state_that_the_kv_cache_cannot_hold_is_not_held():
    held = [state for state in STAGES[0].states if state.kind != "queue"]
    state = max(held, key=lambda state: state.kv_tokens)
    assert fits(state, 100_000, 512)
    assert not fits(state, int(state.kv_tokens), 512)


def test_a_plan_says_how_long_it_takes_at_most():
    total = sum(expected_minutes(SETTINGS, stage) for stage in STAGES) + 2 * SETTINGS.start_s / 60
    assert plan_lines(SETTINGS)[-1].startswith(f"at most {total:.1f} min")


# --- Sequential design.


def test_before_anything_is_measured_everything_is_uncertain():
    stage = STAGES[0]
    assert next_state(knowledge(), stage.states, stage.launch, 0.05) is not None


def test_measuring_goes_on_until_every_state_is_certain_and_skips_what_is():
    known, stage = knowledge(), STAGES[0]
    states = [state for state in stage.states if not state.is_required]
    order = []
    while (
        state := next_state(known, [one for one in states if one not in order], stage.launch, 0.05)
    ) is not None:
        known.learn(measured(state, stage.launch), stage.launch)
        order.append(state)
    assert 3 <= len(order) < len(states)
    assert not uncertain_states(known, [(state, stage.launch) for state in states], 0.05)


def test_a_state_that_was_measured_is_known_better_than_before():
    known, stage = knowledge(), STAGES[0]
    first, second = stage.states[:2]
    known.learn(measured(first, stage.launch), stage.launch)
    before = known.relative_errors([(second, stage.launch)])[0]
    known.learn(measured(second, stage.launch), stage.launch)
    assert known.relative_errors([(second, stage.launch)])[0] < before


# --- The memory border.


def border(limit, per_slot, required, seen=(2, 4, 8)):
    """Follow the search on a memory that falls linearly; returns the launches, and the bracket."""
    pool = required + per_slot * limit + per_slot // 2

    def kv(slots):
        tokens = pool - per_slot * slots
        return tokens if tokens >= required else 0

    known = {slots: kv(slots) for slots in seen}
    launches = []
    while (launch := next_launch(known, 8, required)) is not None:
        assert launch.max_loras not in known, "nothing is launched twice"
        known[launch.max_loras] = kv(launch.max_loras)
        launches.append(launch.max_loras)
        assert len(launches) < 20
    started = max(slots for slots, tokens in known.items() if tokens)
    failed = min((slots for slots, tokens in known.items() if not tokens), default=None)
    return launches, started, failed


@given(st.integers(10, 900), st.integers(2, 5000), st.integers(1, 200_000))
def test_a_border_is_bracketed_from_both_sides_in_few_launches(limit, per_slot, required):
    launches, started, failed = border(limit, per_slot, required)
    assert started <= limit < failed
    assert failed - started <= max(1, 0.02 * started)
    assert len(launches) <= 3


def test_memory_that_does_not_fall_with_slots_has_no_border():
    assert next_launch({2: 5000, 8: 5000}, 8, 512) is None


def test_one_launch_predicts_nothing():
    assert next_launch({4: 5000}, 8, 512) is None


@pytest.mark.parametrize("low", [9, 11])
def test_a_launch_that_contradicts_the_prediction_is_followed_by_the_middle_of_what_is_left(low):
    known = {2: 9000, 8: 6000, low: 5500, 14: 0}
    launch = next_launch(known, 8, 512)
    assert low < launch.max_loras < 14
