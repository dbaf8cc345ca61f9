from dataclasses import asdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from placer.packing import place
from service.services.scaling import MAX_PAST, ScaleWindow, first_window, gpus_with_margin
from tests.support.packing_problems import make_problem, make_random_workload
from tests.support.scaling_oracle import level_of

WINDOW_S = 300

histories = st.lists(
    st.tuples(st.integers(1, 200), st.integers(1, 20), st.integers(0, 4)), min_size=1, max_size=15
)


def replay(history):
    """The window after steps of (seconds later, raw, margin), and the observations with their times."""
    now_s, window, observations = 1_000, None, []
    for later_s, raw, margin in history:
        now_s += later_s
        held = raw + margin
        observations.append((now_s, raw, held))
        window = (
            first_window(raw=raw, held=held)
            if window is None
            else window.observed(now_s, raw=raw, held=held, window_s=WINDOW_S)
        )
    return window, observations


@given(histories, st.integers(0, 1_000))
@example([(1, 2, 0), (1, 1, 0), (WINDOW_S, 1, 1)], 0)  # a window ends at the moment of an observation
def test_the_level_is_that_of_the_whole_history(history, later_s):
    window, observations = replay(history)
    now_s = observations[-1][0] + later_s
    assert window.level_at(now_s, WINDOW_S) == level_of(observations, now_s, WINDOW_S)


@given(histories, st.integers(0, 1_000))
def test_the_level_is_never_below_the_plan_nor_above_what_the_window_held(history, later_s):
    window, observations = replay(history)
    now_s = observations[-1][0] + later_s
    ends = [at_s for at_s, _, _ in observations[1:]] + [now_s + 1]
    recent = [held for (_, _, held), end in zip(observations, ends, strict=True) if end > now_s - WINDOW_S]
    assert observations[-1][1] <= window.level_at(now_s, WINDOW_S) <= max(recent)


def test_it_rises_at_once_and_falls_after_the_window():
    window = first_window(raw=5, held=5).observed(100, raw=9, held=9, window_s=WINDOW_S)
    assert window.level_at(100, WINDOW_S) == 9
    window = window.observed(200, raw=3, held=3, window_s=WINDOW_S)
    assert window.level_at(200 + WINDOW_S - 1, WINDOW_S) == 9
    assert window.level_at(200 + WINDOW_S, WINDOW_S) == 3


def test_noise_about_a_border_does_not_move_it_however_long_it_lasts():
    window = first_window(raw=18, held=19)
    for minute in range(1, 600):
        raw = 17 + minute % 2
        window = window.observed(60 * minute, raw=raw, held=raw + 1, window_s=WINDOW_S)
        assert window.level_at(60 * minute, WINDOW_S) == 18
    window = window.observed(36_060, raw=17, held=18, window_s=WINDOW_S)
    assert window.level_at(10**6, WINDOW_S) == 18
    window = window.observed(10**6, raw=17, held=17, window_s=WINDOW_S)
    assert window.level_at(10**6 + WINDOW_S, WINDOW_S) == 17


def test_a_clock_set_back_keeps_old_numbers_no_longer_than_the_window():
    window = first_window(raw=9, held=9).observed(10**9, raw=5, held=5, window_s=WINDOW_S)
    window = window.observed(1_000, raw=4, held=4, window_s=WINDOW_S)
    assert window.level_at(1_000, WINDOW_S) == 9
    assert window.level_at(1_000 + WINDOW_S, WINDOW_S) == 4


def test_what_is_remembered_is_bounded_and_forgets_upwards_only():
    window = first_window(raw=1_000, held=1_000)
    for step in range(1, 200):
        window = window.observed(step, raw=1_000 - step, held=1_000 - step, window_s=WINDOW_S)
    assert len(window.past) <= MAX_PAST
    assert window.level_at(199, WINDOW_S) == 1_000


def test_a_window_is_json():
    window, _ = replay([(1, 5, 1), (10, 3, 0), (10, 2, 2)])
    assert ScaleWindow(**asdict(window)) == window


@pytest.mark.parametrize("rate_noise", [0.0, 0.1, 0.5])
def test_higher_rates_never_need_fewer_gpus_than_the_plan(rate_noise):
    problem = make_problem(make_random_workload(60, seed=1))
    placement = place(problem)
    held = gpus_with_margin(problem, placement, rate_noise)
    assert held >= placement.num_gpus
    assert rate_noise > 0 or held == placement.num_gpus
