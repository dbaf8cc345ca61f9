"""Traces to replay: read as they are, refused by line and column."""

import numpy as np
import pytest

from tests.support.measured_tables import write_table
from tests.support.twin_cases import calibration, server
from twin.errors import InvalidInputError
from twin.simulate import simulate_requests
from twin.traces import read_trace

ROWS = [
    {"arrival_s": 2.5, "adapter_id": "b", "input_tokens": 30, "output_tokens": 4},
    {"arrival_s": 0.25, "adapter_id": "a", "input_tokens": 10, "output_tokens": 2},
]


def read(tmp_path, *rows):
    return read_trace(write_table(tmp_path / "trace.csv", rows), ("a", "b"))


def test_requests_are_replayed_in_order_of_arrival_with_their_own_lengths(tmp_path):
    requests = read(tmp_path, *ROWS)
    assert requests.arrival_ns.tolist() == [250_000_000, 2_500_000_000]
    assert requests.adapter_of.tolist() == [0, 1]
    assert requests.prompt_tokens.tolist() == [10, 30]
    assert requests.output_tokens.tolist() == [2, 4]


def test_a_replayed_trace_is_what_the_server_is_sent(tmp_path):
    report = simulate_requests(
        read(tmp_path, *ROWS), np.array([8, 8], np.int32), server(), calibration(), horizon_s=60.0
    )
    assert report.num_requests_sent == report.num_requests_completed == 2
    assert report.throughput_tok_s == pytest.approx((30 + 4 + 10 + 2) / 60)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"adapter_id": "nobody"}, "trace line 3, adapter_id"),
        ({"input_tokens": "ten"}, "trace line 3, input_tokens"),
        ({"arrival_s": "inf"}, "trace line 3, arrival_s"),
        ({"arrival_s": 1e100}, "trace line 3, arrival_s"),
        ({"arrival_s": ""}, "trace line 3, arrival_s"),
        ({"input_tokens": 10**20}, "trace line 3, input_tokens"),
        ({"arrival_s": -1}, "trace line 3, arrival_s"),
        ({"output_tokens": 0}, "trace line 3, output_tokens"),
    ],
)
def test_a_row_that_cannot_be_replayed_is_refused_by_name(tmp_path, change, field):
    with pytest.raises(InvalidInputError) as refused:
        read(tmp_path, ROWS[0], ROWS[1] | change)
    assert refused.value.field == field


@pytest.mark.parametrize("horizon_s", [0.0, -1.0, 1e-300, float("nan"), float("inf")])
def test_a_trace_is_replayed_over_a_window_of_sound_length(tmp_path, horizon_s):
    with pytest.raises(InvalidInputError) as refused:
        simulate_requests(
            read(tmp_path, *ROWS), np.array([8, 8], np.int32), server(), calibration(), horizon_s=horizon_s
        )
    assert refused.value.field == "horizon_s"


def test_a_trace_without_a_column_is_refused(tmp_path):
    with pytest.raises(InvalidInputError) as refused:
        read(tmp_path, {"arrival_s": 1.0, "adapter_id": "a", "input_tokens": 5})
    assert refused.value.field == "trace.output_tokens"
