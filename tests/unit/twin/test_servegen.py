"""ServeGen's clients as adapters."""

import gzip

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.trace_files import SHARED_TRACES, needs_traces, num_rows, servegen_files, write_text
from twin.domain import Adapter, Workload
from twin.errors import InvalidInputError
from twin.servegen import is_client_file, read_clients, with_clients
from twin.traffic import ARRIVAL_LAWS, MAX_CV
from twin.workload import generate_requests


@pytest.fixture
def clients(tmp_path):
    return read_clients(servegen_files(tmp_path))


def test_every_client_is_an_adapter_or_counted_as_left_out(clients):
    assert [adapter.adapter_id for adapter in clients.adapters] == ["language/m/1", "language/m/0"]
    assert (clients.num_without_lengths, clients.num_without_requests) == (1, 1)


def test_a_client_has_its_windows_and_nothing_where_it_has_none(clients):
    steady = clients.adapters[1].rate_schedule
    assert steady.start_s.tolist() == [0, 600, 1200, 1800]
    assert steady.rate_rps.tolist() == [1.5, 0, 0.5, 0]
    assert steady.arrival_cv[[0, 2]].tolist() == [1.0, 2.5]
    assert steady.arrival_law[2] == ARRIVAL_LAWS.index("weibull")
    assert clients.adapters[1].rate_rps == pytest.approx((1.5 + 0.5) / 4)


def test_a_variation_beyond_what_we_take_is_cut_and_counted(clients):
    assert clients.adapters[0].rate_schedule.arrival_cv.max() == MAX_CV
    assert clients.num_windows_cut == 1


def test_lengths_pass_through_the_published_quantiles_and_have_the_published_mean(clients):
    law = clients.adapters[1].input_tokens_quantiles
    assert np.interp([0.02, 0.5, 0.98, 0.99], law.levels, law.tokens).tolist() == [100, 112, 124, 150]
    assert law.mean_tokens == pytest.approx(130.0)
    # Where the mean lies below what the quantiles leave, the longest is the 0.99 quantile.
    short = clients.adapters[0].output_tokens_quantiles
    assert short.tokens[-1] >= short.tokens[-2] == 80.0


def test_a_window_may_start_within_the_trace(tmp_path):
    late = read_clients(servegen_files(tmp_path), start_s=600.0)
    assert late.adapters[1].rate_schedule.rate_rps.tolist() == [0, 0.5, 0]
    assert late.adapters[1].rate_rps == pytest.approx(0.5 / 3)
    with pytest.raises(InvalidInputError) as refusal:
        read_clients(tmp_path / "servegen_clients.csv.gz", start_s=100.0)
    assert refusal.value.field == "start_s"


def test_adapters_keep_their_rates_and_take_the_clients_shape(clients):
    workload = Workload.from_adapters(
        [Adapter(adapter_id="x", rank=32, rate_rps=0.1, input_tokens_mean=5, output_tokens_mean=5)]
    )
    mixed = with_clients(workload, clients)
    assert mixed.adapter_ids == ("x",)
    assert mixed.rank.tolist() == [32]
    assert mixed.rate_schedules[0].mean_rate_rps(2400.0) == pytest.approx(0.1)
    assert mixed.input_tokens_mean[0] == clients.adapters[0].input_tokens_mean


def test_more_adapters_than_clients_are_refused(clients):
    rows = [
        Adapter(adapter_id=str(row), rank=8, rate_rps=1, input_tokens_mean=5, output_tokens_mean=5)
        for row in range(3)
    ]
    with pytest.raises(InvalidInputError) as refusal:
        with_clients(Workload.from_adapters(rows), clients)
    assert refusal.value.field == "trace"


def test_a_table_without_its_neighbours_is_refused(tmp_path):
    path = servegen_files(tmp_path)
    (tmp_path / "servegen_client_rates_10min.parquet").unlink()
    with pytest.raises(InvalidInputError, match="servegen_client_rates_10min"):
        read_clients(path)


@pytest.mark.parametrize(
    ("name", "old", "new", "field"),
    [
        ("servegen_clients.csv.gz", ",130.0,", ",long,", "trace.input_tokens_mean"),
        ("servegen_clients.csv.gz", ",0,4,0.5,", ",0,nan,0.5,", "trace.windows"),
        ("servegen_client_length_quantiles.csv.gz", ",100,", ",?,", "trace.q02"),
        ("servegen_client_length_quantiles.csv.gz", ",q02,", ",first,", "trace.q02"),
    ],
)
def test_a_cell_of_a_client_that_is_no_number_is_refused_by_its_column(tmp_path, name, old, new, field):
    path = servegen_files(tmp_path)
    text = gzip.decompress((tmp_path / name).read_bytes()).decode()
    assert old in text
    write_text(tmp_path / name, text.replace(old, new, 1))
    with pytest.raises(InvalidInputError) as refusal:
        read_clients(path)
    assert refusal.value.field == field


def test_a_law_of_gaps_that_we_do_not_know_and_a_column_that_lacks_are_refused(tmp_path):
    path = servegen_files(tmp_path)
    windows = tmp_path / "servegen_client_rates_10min.parquet"
    table = pq.read_table(windows)
    pq.write_table(table.set_column(6, "pat", [["Gamma", "Pareto", "Gamma", "Gamma"]]), windows)
    with pytest.raises(InvalidInputError, match="Pareto") as refusal:
        read_clients(path)
    assert refusal.value.field == "trace.pat"
    pq.write_table(table.drop_columns(["cv"]), windows)
    with pytest.raises(InvalidInputError) as refusal:
        read_clients(path)
    assert refusal.value.field == "trace.cv"
    windows.write_bytes(b"PAR1 but not really")
    with pytest.raises(InvalidInputError, match="must be a Parquet file"):
        read_clients(path)


def test_tables_of_clients_may_be_unpacked_and_a_broken_archive_is_refused(tmp_path, clients):
    path = servegen_files(tmp_path)
    packed = path.read_bytes()
    path.write_bytes(gzip.decompress(packed))
    assert [one.adapter_id for one in read_clients(path).adapters] == [
        one.adapter_id for one in clients.adapters
    ]
    path.write_bytes(packed[:40])
    with pytest.raises(InvalidInputError) as refusal:
        read_clients(path)
    assert refusal.value.field == "trace"


def test_only_windows_of_clients_that_are_taken_count_as_cut(tmp_path):
    path = servegen_files(tmp_path)
    text = gzip.decompress(path.read_bytes()).decode()
    write_text(path, text.replace("language,m,1,", "language,m,9,"))  # the one with a wild window
    assert read_clients(path).num_windows_cut == 0


def test_tables_of_clients_are_recognised(tmp_path):
    assert is_client_file(servegen_files(tmp_path))
    assert not is_client_file(write_text(tmp_path / "t.csv", "t_s,input_tokens,output_tokens\n0,1,1\n"))
    assert not is_client_file(write_text(tmp_path / "binary", "\x00\xff\n"))


@needs_traces
def test_the_published_clients_become_adapters_with_the_published_rates():
    path = SHARED_TRACES / "servegen_clients.csv.gz"
    clients = read_clients(path)
    left_out = clients.num_without_lengths + clients.num_without_requests
    assert len(clients.adapters) + left_out == num_rows(path)
    workload = clients.workload(rate_scale=0.01)
    expected = sum(schedule.mean_rate_rps(7200.0) for schedule in workload.rate_schedules) * 7200
    sent = generate_requests(workload, horizon_s=7200.0, seed=1, max_model_len=32_768).num_requests
    assert sent == pytest.approx(expected, rel=0.1)
