import numpy as np
import pytest

from service.errors import UsageError
from service.scaling_day import levels, minute_counts, num_flaps


def test_a_trace_is_told_by_its_minutes(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("t_s,input_tokens\n" + "".join(f"{t},1\n" for t in (0, 1, 59.9, 60, 125)))
    assert minute_counts(trace).tolist() == [1.5, 0.5]


@pytest.mark.parametrize("text", ["", "seconds\n1\n", "t_s\n", "t_s\n5\n"])
def test_a_file_that_is_no_trace_is_refused(tmp_path, text):
    trace = tmp_path / "trace.csv"
    trace.write_text(text)
    with pytest.raises(UsageError, match="--trace"):
        minute_counts(trace)


def test_a_rise_soon_after_a_fall_is_a_flap():
    steady, late = [5] * 40, [4] * 31
    assert num_flaps(np.array([*steady, 4, 4, 5])) == 1
    assert num_flaps(np.array([*steady, *late, 5])) == 0
    assert num_flaps(np.array([4, 5, 5, 4, 3])) == 0


def test_what_is_asked_for_is_never_below_the_plan_and_flaps_less():
    rng = np.random.default_rng(0)
    raw = 10 + (rng.random(600) < 0.5)
    asked = levels(raw, raw + 1, window_s=300.0)
    assert (asked >= raw).all()
    assert num_flaps(asked) == 0 < num_flaps(raw)
