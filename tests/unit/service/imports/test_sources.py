"""Logs, tables, traces and folders of adapters, each alone."""

import gzip

import numpy as np
import pytest

from service.errors import ImportSourceError
from service.imports.access_log import AccessLogs
from service.imports.peft import PeftFolder
from service.imports.sources import HowToRead, sources_of
from service.imports.table import Table
from service.imports.tally import RateRule
from service.imports.trace import TraceFile
from tests.support.peft_folders import LLAMA_ON_THE_HUB, write_adapter
from tests.support.trace_files import AZURE, table, write_text
from twin.errors import InvalidInputError


def write_log(path, requests):
    """Write (seconds, adapter, prompt, output) as JSON lines."""
    lines = (
        f'{{"time": {at_s}, "model": "{name}", "prompt_tokens": {prompt}, "completion_tokens": {output}}}'
        for at_s, name, prompt, output in requests
    )
    text = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_rates_are_counts_over_the_window_and_lengths_are_means(tmp_path):
    log = write_log(tmp_path / "access.log", [(1000, "a", 10, 1), (1050, "b", 7, 2), (1100, "a", 20, 3)])
    told = AccessLogs(paths=(log,)).read()
    assert told.window_s == 100
    assert told.adapters["a"].rate_rps == 0.02
    assert (told.adapters["a"].input_tokens_mean, told.adapters["a"].output_tokens_mean) == (15, 2)
    assert AccessLogs(paths=(log,), rule=RateRule(window_s=200)).read().adapters["a"].rate_rps == 0.01


def test_a_rotated_log_is_one_log_in_any_order_packed_or_not(tmp_path):
    newer = write_log(tmp_path / "access.log", [(1100, "a", 1, 1)])
    older = write_log(tmp_path / "access.log.1.gz", [(1000, "a", 1, 1)])
    (source,) = sources_of([str(newer), str(older)], HowToRead())
    assert source.read().adapters["a"].rate_rps == pytest.approx(0.02)


def test_a_log_is_read_once_however_its_path_is_spelled_and_often_named(tmp_path, monkeypatch):
    log = write_log(tmp_path / "access.log", [(1000, "a", 1, 1), (1100, "a", 1, 1)])
    monkeypatch.chdir(tmp_path)
    (source,) = sources_of(["./access.log", "log:access.log", str(log)], HowToRead())
    assert source.read().adapters["a"].rate_rps == pytest.approx(0.02)


def test_a_quantile_plans_for_the_busy_slices(tmp_path):
    quiet = [(float(at_s), "a", 1, 1) for at_s in range(0, 900, 100)]
    busy = [(900 + at_s / 10, "a", 1, 1) for at_s in range(1001)]
    log = write_log(tmp_path / "access.log", quiet + busy)
    mean = AccessLogs(paths=(log,)).read().adapters["a"].rate_rps
    rule = RateRule(quantile=1.0, slice_s=100)
    assert mean == pytest.approx(1.01)
    assert AccessLogs(paths=(log,), rule=rule).read().adapters["a"].rate_rps == pytest.approx(10)


def test_variation_is_told_of_enough_requests_only(tmp_path):
    generator = np.random.default_rng(0)
    at_s = np.cumsum(generator.exponential(1.0, 4000))
    many = [(float(second), "often", 10 + row % 2 * 20, 5) for row, second in enumerate(at_s)]
    few = [(float(at_s[-1]) - second - 0.5, "rarely", 10, 5) for second in range(20)]
    told = AccessLogs(paths=(write_log(tmp_path / "l", many + few),)).read().adapters
    assert told["often"].arrival_cv == pytest.approx(1.0, abs=0.1)
    assert told["often"].input_tokens_cv == pytest.approx(0.5, abs=0.01)
    assert told["rarely"].arrival_cv is None
    assert told["rarely"].input_tokens_cv is None


def test_whole_seconds_say_nothing_of_the_gaps(tmp_path):
    log = write_log(tmp_path / "l", [(second // 3, "a", 1, 1) for second in range(600)])
    assert AccessLogs(paths=(log,)).read().adapters["a"].arrival_cv is None


def test_a_log_without_times_needs_a_window(tmp_path):
    log = tmp_path / "access.log"
    log.write_text('INFO: "POST /v1/completions?model=a HTTP/1.1" 200 OK\n' * 3)
    with pytest.raises(ImportSourceError, match="--window-s"):
        AccessLogs(paths=(log,)).read()
    assert AccessLogs(paths=(log,), rule=RateRule(window_s=30)).read().adapters["a"].rate_rps == 0.1


def test_lines_that_are_left_out_are_counted_by_reason(tmp_path):
    log = write_log(tmp_path / "l", [(1, "a", 1, 1), (2, "a", 1, 1)])
    log.write_text(log.read_text() + '\nGET stuff\n{"broken\n"GET /metrics HTTP/1.1" 200\n')
    assert sum(AccessLogs(paths=(log,)).read().dropped.values()) == 3


def test_a_log_that_names_no_model_says_what_its_lines_were(tmp_path):
    log = tmp_path / "l"
    log.write_text('INFO: "POST /v1/completions HTTP/1.1" 200 OK\n' * 4)
    with pytest.raises(ImportSourceError, match="4 lines of requests that do not name the model"):
        AccessLogs(paths=(log,)).read()


def test_columns_are_known_by_their_usual_names_in_any_unit(tmp_path):
    path = tmp_path / "fleet.csv"
    path.write_text("Adapter;lora_rank;Requests per minute;prompt_tokens\na;16;6;200\nb;8;0.6;\n")
    told = Table(path=path).read()
    assert told.adapters["a"].rate_rps == pytest.approx(0.1)
    assert (told.adapters["a"].rank, told.adapters["a"].input_tokens_mean) == (16, 200)
    assert told.adapters["b"].input_tokens_mean is None


def test_counts_become_rates_over_the_window_that_is_given(tmp_path):
    path = tmp_path / "fleet.csv"
    path.write_text("name,requests\na,7200\n")
    with pytest.raises(ImportSourceError, match="--window-s"):
        Table(path=path).read()
    assert Table(path=path, window_s=3600).read().adapters["a"].rate_rps == 2


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("a,x,1", "fleet.csv row 2, column rank: must be a number, got 'x'"),
        ("a,8.5,1", "row 2, column rank: must be a whole number"),
        ("a,8,-1", "row 2, column rate: must be finite and >= 0"),
        ("a,8,nan", "row 2, column rate: must be finite and >= 0"),
        (",8,1", "row 2, column id: must name an adapter"),
        ("a,8,1\na,8,1", "row 3, column id: must be unique, 'a' is repeated"),
        ("a,8", "row 2: must have 3 cells, got 2"),
    ],
)
def test_a_wrong_cell_is_named_by_row_and_column(tmp_path, cells, message):
    path = tmp_path / "fleet.csv"
    path.write_text(f"id,rank,rate\n{cells}\n")
    with pytest.raises(ImportSourceError, match=message):
        Table(path=path).read()


def test_a_column_that_a_table_has_twice_is_named(tmp_path):
    path = tmp_path / "fleet.csv"
    path.write_text("id,rank,rate,rank\na,8,0.5,16\n")
    with pytest.raises(ImportSourceError, match=r"fleet\.csv: has the column 'rank' more than once"):
        Table(path=path).read()


def test_a_column_may_be_mapped_and_must_be_there(tmp_path):
    path = tmp_path / "fleet.csv"
    path.write_text("tenant,load\na,0.5\n")
    assert Table(path=path, columns={"id": "tenant", "rate_rps": "load"}).read().adapters["a"].rate_rps == 0.5
    with pytest.raises(ImportSourceError, match=r"--column lod is a column that fleet\.csv lacks"):
        Table(path=path, columns={"id": "tenant", "rate_rps": "lod"}).read()
    with pytest.raises(ImportSourceError, match="must map one of"):
        Table(path=path, columns={"speed": "load"}).read()


def test_the_rank_is_the_largest_that_a_slot_must_hold(tmp_path):
    write_adapter(tmp_path / "plain", 8)
    write_adapter(tmp_path / "mixed", 8, rank_pattern={"^model.layers.0.": 32, "q_proj": 4})
    told = PeftFolder(path=tmp_path).read()
    assert {name: seen.rank for name, seen in told.adapters.items()} == {"plain": 8, "mixed": 32}
    assert told.base_model == LLAMA_ON_THE_HUB


def test_ids_are_the_paths_below_the_folder(tmp_path):
    write_adapter(tmp_path / "acme" / "sql", 8)
    write_adapter(tmp_path / "chat", 16)
    write_adapter(tmp_path / "chat" / "checkpoint-500", 16)
    told = PeftFolder(path=tmp_path).read()
    assert set(told.adapters) == {"acme/sql", "chat"}
    assert told.dropped == {"checkpoints within an adapter's folder": 1}


def test_a_hugging_face_cache_gives_owner_and_name_of_its_main_snapshot(tmp_path):
    cached = tmp_path / "models--acme--sql-lora"
    write_adapter(cached / "snapshots" / "0aaa", 8)
    write_adapter(cached / "snapshots" / "1bbb", 64)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("1bbb\n")
    told = PeftFolder(path=tmp_path).read()
    assert {name: seen.rank for name, seen in told.adapters.items()} == {"acme/sql-lora": 64}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "not LORA"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": "8"}, "whole numbers"),
        ({"r": 0}, "whole numbers"),
        ({"rank_pattern": {"q_proj": None}}, "whole numbers"),
        ({"base_model_name_or_path": "Qwen/Qwen2.5-7B-Instruct"}, "another base model"),
    ],
)
def test_an_adapter_that_cannot_be_served_is_left_out_and_counted(tmp_path, changes, reason):
    for name in ("a", "b"):
        write_adapter(tmp_path / name, 8)
    write_adapter(tmp_path / "odd", 8, **changes)
    told = PeftFolder(path=tmp_path).read()
    assert set(told.adapters) == {"a", "b"}
    ((why, count),) = told.dropped.items()
    assert count == 1
    assert reason in why
    assert "odd" in why


def test_a_ring_of_links_ends(tmp_path):
    write_adapter(tmp_path / "a", 8)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert set(PeftFolder(path=tmp_path).read().adapters) == {"a"}


def test_a_trace_with_a_column_of_adapters_gives_rates_and_lengths(tmp_path):
    text = table(
        "TIMESTAMP,ContextTokens,GeneratedTokens,Model",
        ("2023-11-16 18:15:00.0000000", 374, 44, "a"),
        ("2023-11-16 18:15:05.0000000", 396, 109, "b"),
        ("2023-11-16 18:15:10.0000000", 100, 10, "a"),
    )
    path = write_text(tmp_path / "azure.csv", text)
    told = TraceFile(path=path, adapter_column="Model").read()
    assert told.adapters["a"].rate_rps == pytest.approx(0.2)
    assert told.adapters["a"].input_tokens_mean == 237


def test_a_trace_without_adapters_asks_for_their_column(tmp_path):
    path = write_text(tmp_path / "azure.csv", AZURE)
    with pytest.raises(ImportSourceError, match="--adapter-column"):
        TraceFile(path=path).read()


PACKED = gzip.compress(b"id,rate\na,1\n")


@pytest.mark.parametrize(
    "broken",
    [PACKED[:-9], PACKED[:10] + b"\xff" * 20, PACKED[:-8] + bytes(8)],
    ids=["cut", "changed", "wrong checksum"],
)
@pytest.mark.parametrize("word", ["log:{}", "csv:{}", "trace:{}", "{}"])
def test_a_broken_archive_is_refused_by_its_name(tmp_path, word, broken):
    path = tmp_path / "fleet.csv.gz"
    path.write_bytes(broken)
    with pytest.raises((ImportSourceError, InvalidInputError), match=r"fleet\.csv\.gz"):
        [source.read() for source in sources_of([word.format(path)], HowToRead())]


def test_a_word_is_taken_for_what_it_looks_like(tmp_path):
    write_adapter(tmp_path / "adapters" / "a", 8)
    (tmp_path / "fleet.csv").write_text("id,rate\na,1\n")
    write_text(tmp_path / "trace.csv", AZURE)
    write_log(tmp_path / "log.csv", [(1, "a", 1, 1)])
    names = ("adapters", "fleet.csv", "trace.csv", "log.csv")
    words = [str(tmp_path / name) for name in names] + ["http://prometheus:9090"]
    kinds = [type(source).__name__ for source in sources_of(words, HowToRead())]
    assert kinds == ["PeftFolder", "Table", "TraceFile", "AccessLogs", "Prometheus"]
    with pytest.raises(ImportSourceError, match="no such file"):
        sources_of([str(tmp_path / "absent")], HowToRead())
