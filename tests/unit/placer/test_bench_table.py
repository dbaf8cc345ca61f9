import pytest

from placer import bench_table
from placer.errors import InvalidProblemError


def record(num_gpus, lower_bound, **changes):
    given = {
        "family": "zipf",
        "seed": 0,
        "num_adapters": 100,
        "num_gpus": num_gpus,
        "lower_bound": lower_bound,
        "gap": None if num_gpus is None else num_gpus - lower_bound,
        "placement_ms": 2.0,
        "search_ms": 9.0,
        "first_plan": {"num_gpus": 6, "starved_gpus": 1, "lower_bound": 2},
        "starved_gpus_unverified": 0,
        "num_gpus_verified": num_gpus or 0,
        "starved_gpus_verified": 0,
        "baselines": {},
    }
    return given | changes


def judged(num_gpus, starved_gpus):
    return {"num_gpus": num_gpus, "starved_gpus": starved_gpus}


def test_a_row_sums_the_instances_of_a_family_and_size():
    records = [
        record(5, 5, starved_gpus_unverified=1, baselines={"rule": judged(4, 2)}),
        record(7, 6, seed=1, baselines={"rule": judged(None, None)}),
        record(9, 6, seed=2, baselines={"rule": judged(9, 0)}),
        record(None, 3, seed=3, baselines={"rule": judged(8, 1)}),
        record(1, 1, num_adapters=1000, baselines={"rule": judged(1, 0)}),
    ]
    small, large = bench_table.rows(records)
    assert (small.num_instances, small.num_gpus, small.lower_bound) == (4, 21, 17)
    assert (small.gaps, small.num_infeasible, small.starved) == ((1, 1, 1), 1, 1)
    assert small.baselines["rule"] == (21, 3, 1)
    assert (large.num_adapters, large.gaps) == (1000, (1, 0, 0))


def test_a_rule_beats_us_only_with_fewer_gpus_none_of_which_starves():
    rules = {"starves": judged(3, 1), "equal": judged(5, 0), "fails": judged(None, None)}
    assert bench_table.beaten([record(5, 5, baselines=rules)]) == ()
    better = rules | {"better": judged(4, 0), "good": judged(4, 0)}
    (case,) = bench_table.beaten([record(5, 5, baselines=better)])
    assert (case.baseline, case.num_gpus, case.ours) == ("better", 4, 5)


@pytest.mark.parametrize(
    ("num_gpus", "lower_bound", "is_beyond"),
    [(100, 99, 0), (100, 98, 1), (199, 198, 0), (200, 198, 0), (200, 197, 1)],
)
def test_above_a_hundred_gpus_the_target_is_a_share(num_gpus, lower_bound, is_beyond):
    assert bench_table.totals([record(num_gpus, lower_bound)])["gap_beyond_target"] == is_beyond


def test_the_markdown_has_a_line_for_each_row_and_tells_the_sums():
    records = [
        record(5, 5, baselines={"rule": judged(4, 0)}),
        record(2, 1, num_adapters=400, starved_gpus_unverified=1, baselines={"rule": judged(None, None)}),
    ]
    text = bench_table.markdown(records)
    lines = text.splitlines()
    assert lines[2] == "| zipf | 100 | 5 | 5 | 1 / 0 / 0 | 0 | 5 (0) | 4 (0) |"
    assert lines[3] == "| zipf | 400 | 2 | 1 | 0 / 1 / 0 | 1 | 2 (0) | 0 (0), no plan 1 |"
    assert "2 instances, 7 GPUs: 1 of them starve unverified (14.3 %)" in text
    assert "First plans have 12 GPUs, of which 2 starve, and bounds of 4." in text
    assert "medians: 100 adapters 2 and 9 ms, 400 adapters 2 and 9 ms." in text
    assert "- `zipf` 100: `rule` on 1 instances, 4 GPUs against 5." in text


def test_what_is_no_record_is_refused_and_named():
    lacking = record(1, 1)
    del lacking["gap"]
    with pytest.raises(InvalidProblemError, match=r"instances\[1\] must have gap"):
        bench_table.check_records([record(1, 1), lacking])
    with pytest.raises(InvalidProblemError, match=r"instances\[0\] must have family"):
        bench_table.check_records([3])


def test_an_instance_counts_once():
    with pytest.raises(InvalidProblemError, match=r"instances\[2\] must not be instances\[0\] again"):
        bench_table.check_records([record(1, 1), record(1, 1, seed=1), record(2, 1)])
