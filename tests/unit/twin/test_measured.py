"""Measured runs: what was configured becomes input, what came out stays apart."""

import numpy as np
import pytest

from tests.support.measured_tables import RUN, write_table
from tests.support.twin_cases import calibration
from twin.errors import InvalidInputError
from twin.measured import read_runs, server_of, workload_of


def runs(tmp_path, *changes):
    return read_runs(write_table(tmp_path / "runs.csv", [RUN | change for change in changes]))


def test_each_adapter_has_one_of_the_recorded_rates(tmp_path):
    (run,) = runs(tmp_path, {})
    assert sorted(run.rates_rps) == [0.1, 0.1, 0.4]
    assert run.sum_rate_rps == pytest.approx(0.6)
    assert run.ideal_tok_s == pytest.approx(0.6 * 420)


def test_ranks_are_dealt_round_robin_and_shuffled_by_the_seed(tmp_path):
    (run,) = runs(tmp_path, {"adapter_rate_counts": "0.1x101", "adapters": "101"})
    first, again, other = (workload_of(run, calibration(), seed=seed).rank for seed in (1, 1, 2))
    assert np.bincount(first)[[8, 16]].tolist() == [51, 50]
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_outputs_are_as_much_shorter_as_text_ends_early(tmp_path):
    (run,) = runs(tmp_path, {})
    made = workload_of(run, calibration(generated_over_requested=0.9), seed=0)
    assert made.output_tokens_mean.tolist() == [197 * 0.9] * 3
    assert made.input_tokens_mean.tolist() == [223] * 3


def test_rates_follow_the_requests_that_were_really_sent(tmp_path):
    (run,) = runs(tmp_path, {"sent_requests": "1080", "duration_s": "3600"})
    assert workload_of(run, calibration(), seed=0).rate_rps.sum() == pytest.approx(0.3)


def test_the_server_has_the_flags_of_the_run(tmp_path):
    (run,) = runs(tmp_path, {})
    server = server_of(run)
    assert (server.max_loras, server.max_lora_rank, server.max_cpu_loras) == (2, 16, 3)


def test_a_run_is_starved_below_nine_tenths_of_what_was_meant_to_be_sent(tmp_path):
    (run,) = runs(tmp_path, {})
    assert run.is_starved(0.899 * run.ideal_tok_s)
    assert not run.is_starved(0.901 * run.ideal_tok_s)


def test_a_failed_run_has_no_outcome_and_only_memory_failures_count_as_such(tmp_path):
    failed = {"failed": "True", "adapter_rate_counts": "", "tot_tok_s": ""}
    memory, other = runs(tmp_path, failed | {"error": "oom_torch"}, failed | {"error": "port_bind"})
    assert memory.outcome is None
    assert memory.failed_for_memory
    assert other.outcome is None
    assert not other.failed_for_memory


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("max_loras", "many"),
        ("max_loras", ""),
        ("max_loras", "nan"),
        ("max_loras", "8.5"),
        ("model", ""),
        ("max_lora_rank", "inf"),
        ("lora_rank_pool", "8;x"),
        ("lora_rank_pool", ""),
        ("lora_rank_pool", "0"),
        ("adapter_rate_counts", "0.1"),
        ("adapter_rate_counts", ""),
        ("adapter_rate_counts", "0x3"),
        ("adapter_rate_counts", "nanx3"),
        ("adapter_rate_counts", "0.1x-3"),
        ("adapter_rate_counts", "0.1x99999999999"),
        ("pool_mean_input_len", ""),
        ("pool_mean_output_len", "0"),
        ("duration_s", "0"),
        ("duration_s", "nan"),
        ("sent_requests", "0"),
        ("sent_requests", "inf"),
        ("failed", "perhaps"),
        ("tot_tok_s", "?"),
    ],
)
def test_a_cell_that_cannot_be_read_is_refused_by_line_and_column(tmp_path, column, text):
    with pytest.raises(InvalidInputError) as refused:
        runs(tmp_path, {}, {column: text})
    assert refused.value.field == f"runs line 3, {column}"


def test_a_line_that_ends_too_early_is_refused_by_line_and_column(tmp_path):
    path = write_table(tmp_path / "runs.csv", [RUN])
    path.write_text(path.read_text() + "r2,llama-3.1-8b-instruct\n")
    with pytest.raises(InvalidInputError, match="runs line 3, max_loras"):
        read_runs(path)


def test_a_failed_run_that_does_not_say_why_is_no_run_that_ended(tmp_path):
    (run,) = runs(tmp_path, {"failed": "True", "error": ""})
    assert run.outcome is None
    assert not run.failed_for_memory


def test_a_table_saved_with_a_byte_order_mark_is_read(tmp_path):
    path = write_table(tmp_path / "runs.csv", [RUN])
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert read_runs(path)[0].run_id == "r1"


def test_a_table_without_runs_is_refused(tmp_path):
    path = write_table(tmp_path / "runs.csv", [RUN])
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(InvalidInputError) as refused:
        read_runs(path)
    assert refused.value.field == "runs"


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "runs.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError) as refused:
        read_runs(tmp_path / "runs.csv")
    assert refused.value.field == "runs"


def test_a_missing_column_and_a_missing_file_are_refused(tmp_path):
    short = {name: value for name, value in RUN.items() if name != "max_loras"}
    with pytest.raises(InvalidInputError) as refused:
        read_runs(write_table(tmp_path / "short.csv", [short]))
    assert refused.value.field == "runs.max_loras"
    with pytest.raises(InvalidInputError) as refused:
        read_runs(tmp_path / "none.csv")
    assert refused.value.field == "runs"
