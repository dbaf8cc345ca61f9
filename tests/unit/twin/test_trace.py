"""Traces to replay: read as they are, refused by line and column."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.measured_tables import write_table
from tests.support.trace_files import (
    AZURE,
    MOONCAKE,
    SECONDS,
    SHARED_TRACES,
    needs_traces,
    num_rows,
    table,
    write_text,
)
from tests.support.twin_cases import calibration, server
from twin.domain import Adapter, Workload
from twin.errors import InvalidInputError
from twin.servegen import is_client_file
from twin.simulate import simulate_requests
from twin.traces import cut_to_model, read_any_trace, read_trace, write_trace
from twin.workload import RequestStream, generate_requests

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
        ({"adapter_id": ""}, "trace line 3, adapter_id"),
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


# --- Other people's files.


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(
    ("text", "arrivals_s", "prompts"),
    [
        (AZURE, [0.0, 0.21941, 4.314579], [374, 879, 396]),
        (SECONDS, [0.0, 3.0, 3.0], [6758, 7322, 7236]),
        (MOONCAKE, [27.482, 30.535], [6758, 7322]),
    ],
)
def test_published_formats_are_recognised_by_their_columns(tmp_path, text, arrivals_s, prompts, packed):
    trace = read_any_trace(write_text(tmp_path / f"trace{packed}", text))
    assert trace.adapter_ids is None
    assert trace.arrival_ns * 1e-9 == pytest.approx(arrivals_s, abs=2e-6)
    assert trace.prompt_tokens.tolist() == prompts
    assert trace.output_tokens.min() >= 44


def test_requests_of_the_same_moment_stay_in_the_order_of_the_file(tmp_path):
    rows = [(3.0 * (row * 7 % 5), 100 + row, 5) for row in range(2000)]
    text = table("t_s,input_tokens,output_tokens", *rows)
    trace = read_any_trace(write_text(tmp_path / "t.csv", text))
    expected = sorted(rows, key=lambda row: row[0])
    assert trace.prompt_tokens.tolist() == [row[1] for row in expected]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (AZURE.replace("374", "many"), "trace line 2, ContextTokens"),
        (AZURE.replace("2023-11-16 18:15:50", "yesterday"), "trace line 3, TIMESTAMP"),
        (AZURE.replace("2023-11-16 18:15:50", "2035-11-16 18:15:50"), "trace.TIMESTAMP"),
        (MOONCAKE.replace("7322", "null"), "trace line 2, input_length"),
        (MOONCAKE.replace("7322", "[" * 100_000), "trace line 2"),
        (MOONCAKE.replace("7322", "0"), "trace line 2, input_length"),
        (MOONCAKE.replace("7322", "7322.5"), "trace line 2, input_length"),
        (MOONCAKE.replace('"output_length": 490', '"other": 1'), "trace line 2, output_length"),
        (MOONCAKE.replace(', "hash_ids": [0]}', ""), "trace line 1"),
        ("", "trace"),
        ("time,tokens\n1,2\n", "trace.arrival_s"),
        (table("t_s,input_tokens,output_tokens", (0, 1)), "trace line 2, output_tokens"),
    ],
)
def test_a_published_file_that_cannot_be_read_is_refused_by_line_and_column(tmp_path, text, field):
    with pytest.raises(InvalidInputError) as refused:
        read_any_trace(write_text(tmp_path / "trace.csv", text))
    assert refused.value.field == field


def named_rows(tmp_path, *members):
    """Mooncake's rows with one more member each."""
    rows = zip(MOONCAKE.splitlines(), members, strict=True)
    text = "\n".join(row.replace("{", "{" + member + ", ") for row, member in rows)
    return write_text(tmp_path / "trace.jsonl", text)


def test_a_column_of_the_readers_choice_names_adapters(tmp_path):
    path = named_rows(tmp_path, '"user": "b"', '"user": "a"')
    assert read_any_trace(path, adapter_column="user").adapter_ids == ("b", "a")


@pytest.mark.parametrize("member", ['"user": ""', '"user": ["a"]', '"user": null', '"other": "a"'])
def test_a_row_that_names_no_adapter_is_refused_by_line_and_column(tmp_path, member):
    with pytest.raises(InvalidInputError) as refused:
        read_any_trace(named_rows(tmp_path, '"user": "a"', member), adapter_column="user")
    assert refused.value.field == "trace line 2, user"


def test_a_moment_is_read_in_the_zone_that_it_names_and_else_as_utc(tmp_path):
    moments = (
        "2023-11-16 18:00:00",
        "2023-11-16 18:00:01Z",
        "2023-11-16T19:00:02+01:00",
        "2023-11-16 13:00:03-05:00",
    )
    text = table("TIMESTAMP,ContextTokens,GeneratedTokens", *[(moment, 5, 5) for moment in moments])
    trace = read_any_trace(write_text(tmp_path / "azure.csv", text))
    assert trace.arrival_ns.tolist() == [0, 10**9, 2 * 10**9, 3 * 10**9]


def test_a_broken_archive_is_refused(tmp_path):
    path = write_text(tmp_path / "t.csv.gz", SECONDS)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(InvalidInputError) as refused:
        read_any_trace(path)
    assert refused.value.field == "trace"
    assert not is_client_file(path)


def test_a_format_asked_for_is_not_guessed(tmp_path):
    path = write_text(tmp_path / "t.csv", SECONDS)
    with pytest.raises(InvalidInputError) as refused:
        read_any_trace(path, trace_format="azure")
    assert refused.value.field == "trace.TIMESTAMP"
    with pytest.raises(InvalidInputError) as refused:
        read_any_trace(path, trace_format="parquet")
    assert refused.value.field == "trace_format"


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, packed):
    trace = read_any_trace(write_text(tmp_path / f"trace{packed}", "\ufeff" + AZURE))
    assert trace.num_requests == 3


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz"])
def test_a_written_trace_reads_back_to_the_nanosecond(tmp_path, name):
    adapters = [
        Adapter(adapter_id=name, rank=8, rate_rps=2.0, input_tokens_mean=50, output_tokens_mean=20)
        for name in ("plain", "with, comma")
    ]
    workload = Workload.from_adapters(adapters)
    drawn = generate_requests(workload, horizon_s=200.0, seed=1, max_model_len=4096)
    write_trace(tmp_path / name, drawn, workload.adapter_ids)
    again = read_trace(tmp_path / name, workload.adapter_ids)
    for column in ("arrival_ns", "adapter_of", "prompt_tokens", "output_tokens"):
        assert (getattr(again, column) == getattr(drawn, column)).all()


def test_requests_too_long_for_the_model_are_cut_and_counted(tmp_path):
    requests = read(tmp_path, *ROWS)
    cut, num_cut = cut_to_model(requests, 12)
    assert num_cut == 1
    assert cut.prompt_tokens.tolist() == [10, 11]
    assert cut.output_tokens.tolist() == [2, 1]
    assert cut_to_model(requests, 34)[1] == 0


lengths = st.tuples(st.integers(1, 30), st.integers(1, 30))


@given(st.lists(lengths, max_size=20), st.integers(2, 40))
def test_every_request_that_is_cut_counts_whichever_side_of_it_is(rows, max_model_len):
    requests = RequestStream(
        arrival_ns=np.arange(len(rows)),
        adapter_of=np.zeros(len(rows), np.int32),
        prompt_tokens=np.array([prompt for prompt, _ in rows], np.int32),
        output_tokens=np.array([output for _, output in rows], np.int32),
    )
    cut, num_cut = cut_to_model(requests, max_model_len)
    expected = []
    for prompt, output in rows:
        kept = min(prompt, max_model_len - 1)
        expected.append((kept, min(output, max_model_len - kept)))
    assert list(zip(cut.prompt_tokens.tolist(), cut.output_tokens.tolist(), strict=True)) == expected
    assert num_cut == sum(before != after for before, after in zip(rows, expected, strict=True))


@needs_traces
@pytest.mark.parametrize(
    "name", ["azure_llm_2023_conv", "azure_llm_2023_code", "mooncake_fast25_conversation"]
)
def test_a_published_trace_loses_no_request(name):
    path = SHARED_TRACES / f"{name}.csv.gz"
    trace = read_any_trace(path)
    assert trace.num_requests == num_rows(path)
    assert 3400 < trace.arrival_ns[-1] * 1e-9 < 3600
    assert (np.diff(trace.arrival_ns) >= 0).all()
