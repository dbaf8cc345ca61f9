"""`loadmaster` as users type it: exit 0 good, 2 bad input with the reason on stderr."""

import json
import subprocess
import sys
from typing import NamedTuple

import pytest

from service.cli import run_command_line
from service.exports.formats import FORMATS
from service.schemas.plan import DeltaSchema, PlanSchema
from service.schemas.what_if import WhatIfSchema
from tests.support.peft_folders import write_adapter
from tests.support.service_process import ROOT, clean_environment
from tests.support.trace_files import AZURE, servegen_files, table, write_text
from tests.support.workload_documents import LLAMA, adapter_document, workload_document

COMMANDS = (
    "serve",
    "worker",
    "place",
    "simulate",
    "validate",
    "simulate-paged",
    "validate-paged",
    "calibrate",
    "dataset",
    "train",
    "evaluate",
    "bench",
    "openapi",
    "keys",
    "gpus-needed",
    "re-place",
    "what-if",
    "simulate-scaling",
    "doctor",
    "workload",
    "plan",
)


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def loadmaster(capfd):
    """Run a command line in this process: starting Python each time would take longer than all else."""

    def run(*arguments):
        capfd.readouterr()
        status = run_command_line([str(argument) for argument in arguments])
        return Done(status, *capfd.readouterr())

    return run


def loadmaster_process(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def workload_file(tmp_path):
    path = tmp_path / "w.json"
    path.write_text(json.dumps(workload_document(6)))
    return path


def test_place_prints_the_answer_of_the_service(loadmaster, workload_file):
    done = loadmaster("place", "--workload", workload_file, "--json")
    assert done.returncode == 0, done.stderr
    plan = PlanSchema.model_validate_json(done.stdout)
    assert sorted(name for gpu in plan.gpus for name in gpu.adapters) == [f"adapter-{n}" for n in range(6)]


def test_place_without_json_prints_a_table(loadmaster, workload_file):
    done = loadmaster("place", "--workload", workload_file)
    assert done.returncode == 0
    assert "lower bound" in done.stdout


def test_re_place_tells_the_moves_from_the_servers_that_run(loadmaster, tmp_path):
    adapters = [f"adapter-{n}" for n in range(6)]
    current = {"gpus": [{"gpu": 4, "max_loras": 6, "max_lora_rank": 32, "adapters": adapters}]}
    path = tmp_path / "running.json"
    path.write_text(json.dumps(workload_document(7, current=current)))
    done = loadmaster("re-place", "--workload", path, "--json")
    assert done.returncode == 0, done.stderr
    delta = DeltaSchema.model_validate_json(done.stdout)
    assert [gpu.gpu for gpu in delta.gpus] == [4]
    assert (delta.moves, delta.restarts, delta.unmended) == ([], [], [])
    assert "0 moves, restarts []" in loadmaster("re-place", "--workload", path).stdout


def test_what_if_tells_what_each_option_and_the_files_own_changes_would_ask_for(loadmaster, tmp_path):
    path = tmp_path / "w.json"
    path.write_text(json.dumps(workload_document(6, changes=[{"name": "as asked", "max_loras": 4}])))
    more = tmp_path / "more.json"
    more.write_text(json.dumps([adapter_document(9)]))
    options = ("--scale-rates", "2", "--scale-rates", "30", "--add-adapters", more)
    done = loadmaster("what-if", "--workload", path, *options, "--json")
    assert done.returncode == 0, done.stderr
    answer = WhatIfSchema.model_validate_json(done.stdout)
    names = ["as asked", "scale_rates 2", "scale_rates 30", "add_adapters of 1"]
    assert [change.name for change in answer.changes] == names
    assert [change.from_current.loads for change in answer.changes] == [0, 0, 0, 1]
    table = loadmaster("what-if", "--workload", path, *options).stdout
    assert "scale_rates 30" in table


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "changes"),
        (["--max-loras", "4000"], "changes[0].max_loras"),
        (["--lose-gpus", "7"], "changes[0].lose_gpus"),
        (["--add-adapters", "FILE"], "changes[0].add_adapters[0].id"),
        (["--add-adapters", "/nowhere/a.json"], "/nowhere/a.json"),
    ],
)
def test_a_change_that_cannot_be_supposed_exits_2_and_is_named(loadmaster, workload_file, options, reason):
    options = [workload_file if option == "FILE" else option for option in options]
    done = loadmaster("what-if", "--workload", workload_file, *options)
    assert done.returncode == 2
    assert reason in done.stderr


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "body"),
        (json.dumps(workload_document(adapters=[adapter_document(0, rate_rps=-1)])), "adapters[0].rate_rps"),
        (json.dumps(workload_document(base_model="gpt-5")), "base_model"),
    ],
)
def test_a_bad_workload_exits_2_and_names_the_field(loadmaster, tmp_path, document, reason):
    path = tmp_path / "bad.json"
    path.write_text(document)
    done = loadmaster("place", "--workload", path)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["place"],
        ["place", "--workload", "/nowhere/w.json"],
        ["re-place", "--workload", "/nowhere/w.json"],
        ["what-if", "--scale-rates", "2"],
        ["place-table", "/nowhere/records.json"],
        ["bench", "nothing"],
        ["bench", "place", "--family", "nothing"],
        ["simulate", "--workload", "/nowhere/w.json", "--max-loras", "4"],
        ["validate", "--runs", "/nowhere/runs.csv"],
        ["simulate-paged", "--workload", "/nowhere/w.json"],
        ["validate-paged", "--runs", "/nowhere/runs.csv"],
        ["calibrate", "fit-paged", "--measurements", "/nowhere", "--out", "/nowhere/out"],
        ["evaluate"],
        ["evaluate", "--runs", "/nowhere/runs.csv"],
        ["evaluate", "--dataset", "/nowhere/runs.parquet"],
        ["bench", "http", "--url", "http://127.0.0.1:1"],
        ["bench", "http", "--url", "nowhere"],
        ["bench", "http", "--url", "http://127.0.0.1:1", "--processes", "2"],
        ["no-such-command"],
    ],
)
def test_a_command_that_cannot_be_carried_out_exits_2_with_the_reason(loadmaster, arguments):
    done = loadmaster(*arguments)
    assert done.returncode == 2
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["place", "--workload", "FILE"],
        ["re-place", "--workload", "FILE"],
        ["place-table", "FILE"],
        ["place-table", "WORKLOAD"],
        ["what-if", "--workload", "FILE", "--scale-rates", "2"],
        ["what-if", "--workload", "WORKLOAD", "--add-adapters", "FILE"],
        ["simulate", "--workload", "WORKLOAD", "--max-loras", "4", "--calibration", "FILE"],
        ["simulate", "--workload", "WORKLOAD", "--max-loras", "4", "--trace", "FILE"],
        ["validate", "--runs", "FILE"],
        ["simulate-paged", "--workload", "WORKLOAD", "--calibration", "FILE"],
        ["validate-paged", "--runs", "FILE"],
        ["evaluate", "--runs", "FILE"],
        ["serve", "--port", "0", "--data-dir", "FILE"],
    ],
)
def test_a_file_that_is_no_text_exits_2_with_the_reason(loadmaster, workload_file, tmp_path, arguments):
    path = tmp_path / "binary"
    path.write_bytes(b"\x80\xff\x00" * 100)
    names = {"FILE": path, "WORKLOAD": workload_file}
    done = loadmaster(*(names.get(argument, argument) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("loadmaster: ")
    assert done.stdout == ""


def test_a_published_trace_is_replayed_and_its_requests_are_accounted_for(
    loadmaster, workload_file, tmp_path
):
    rows = [(3 * row, 100 + row, 20) for row in range(12)]
    trace = write_text(tmp_path / "trace.csv.gz", table("t_s,input_tokens,output_tokens", *rows))
    arguments = ("--workload", workload_file, "--max-loras", "3", "--horizon-s", "29", "--trace", trace)
    done = loadmaster("simulate", *arguments, "--json")
    assert done.returncode == 0
    assert done.stderr.startswith("trace.csv.gz: 12 requests, 2 of them after the window, 0 cut to ")
    assert json.loads(done.stdout)["num_requests_sent"] == 10


def test_servegens_clients_drive_the_adapters_of_a_workload(loadmaster, tmp_path):
    arguments = ("--max-loras", "4", "--horizon-s", "600", "--trace", servegen_files(tmp_path), "--json")
    workload = tmp_path / "workload.json"
    workload.write_text(json.dumps(workload_document(2)))
    done = loadmaster("simulate", "--workload", workload, *arguments)
    assert done.returncode == 0
    assert "2 clients, without 1 of unknown lengths and 1 that send nothing" in done.stderr
    workload.write_text(json.dumps(workload_document(3)))
    done = loadmaster("simulate", "--workload", workload, *arguments)
    assert done.returncode == 2
    assert "client for each" in done.stderr


def test_a_trace_in_another_format_than_the_one_named_exits_2(loadmaster, workload_file, tmp_path):
    trace = write_text(tmp_path / "t.csv", AZURE)
    arguments = ("simulate", "--workload", workload_file, "--max-loras", "4", "--trace", trace)
    done = loadmaster(*arguments, "--trace-format", "mooncake")
    assert done.returncode == 2
    assert "trace.timestamp" in done.stderr


@pytest.mark.parametrize(("option", "value"), [("--max-lora-rank", "0"), ("--horizon-s", "1e-300")])
def test_an_option_of_simulate_out_of_range_exits_2_and_is_named(loadmaster, workload_file, option, value):
    done = loadmaster("simulate", "--workload", workload_file, "--max-loras", "4", option, value)
    assert done.returncode == 2
    assert option.strip("-").replace("-", "_") in done.stderr


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--host", "256.0.0.1", "--port", "0"]])
def test_a_service_that_cannot_start_exits_2_with_the_reason(arguments):
    done = loadmaster_process("serve", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("loadmaster: ")
    assert "Traceback" not in done.stderr


def test_simulate_reports_one_server_in_the_twin(loadmaster, workload_file):
    arguments = ("simulate", "--workload", workload_file, "--max-loras", "4", "--horizon-s", "60", "--json")
    done = loadmaster(*arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["num_requests_completed"] <= report["num_requests_sent"]
    assert report["binding_constraint"] in {"none", "slots", "kv_memory", "throughput", "sequences"}
    assert report["adapters"].keys() == report["served_fraction"].keys()
    assert report["starving_adapters"].keys() == {
        name for name, outcome in report["adapters"].items() if outcome["starving"]
    }
    assert loadmaster(*arguments).stdout == done.stdout


def test_simulate_paged_reports_one_server_in_the_paged_twin(loadmaster, workload_file):
    arguments = ("simulate-paged", "--workload", workload_file, "--horizon-s", "60", "--json")
    done = loadmaster(*arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kv_tokens"] == 82_528
    assert loadmaster(*arguments).stdout == done.stdout
    too_large = loadmaster(*arguments, "--max-total-token-num", "100000")
    assert too_large.returncode == 2
    assert "max_total_token_num" in too_large.stderr


def test_simulate_measures_the_window_after_a_warm_up(loadmaster, workload_file):
    arguments = ("simulate", "--workload", workload_file, "--max-loras", "4", "--horizon-s", "60", "--json")
    warm = json.loads(loadmaster(*arguments, "--warmup-s", "30").stdout)
    assert (warm["warmup_s"], warm["horizon_s"]) == (30.0, 60.0)
    refused = loadmaster(*arguments, "--warmup-s", "-1")
    assert refused.returncode == 2
    assert "warmup_s" in refused.stderr


def test_help_names_every_command(loadmaster):
    done = loadmaster("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout


def test_the_api_process_never_loads_what_only_training_needs():
    # Numba itself looks at the version of an installed scipy: its subpackages are what costs.
    heavy = "{'sklearn', 'scipy.optimize', 'scipy.stats', 'matplotlib', 'pyarrow', 'vllm', 'pandas'}"
    code = f"import sys, service.serve; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_workload_is_made_of_the_adapters_on_disk_and_the_gateway_s_log(loadmaster, tmp_path):
    for name, rank in (("sql", 16), ("acme/chat", 8)):
        write_adapter(tmp_path / "adapters" / name, rank)
    rows = ({"ts": second, "model": "sql", "prompt_tokens": 120} for second in range(0, 3601, 10))
    (tmp_path / "gateway.log").write_text("".join(json.dumps(row) + "\n" for row in rows) + "noise\n")
    done = loadmaster("workload", "import", tmp_path / "adapters", tmp_path / "gateway.log")
    assert done.returncode == 0, done.stderr
    by_id = {row["id"]: row for row in json.loads(done.stdout)["adapters"]}
    assert (by_id["sql"]["rank"], by_id["sql"]["input_tokens_mean"]) == (16, 120)
    assert by_id["sql"]["rate_rps"] == pytest.approx(361 / 3600, rel=1e-5)
    assert "guessed: 1 x rate 0.000278 requests/s, of adapters without a request" in done.stderr
    assert "dropped: 1 x gateway.log: lines without a request" in done.stderr

    (tmp_path / "w.json").write_text(done.stdout)
    placed = loadmaster("place", "--workload", tmp_path / "w.json", "--json")
    assert placed.returncode == 0, placed.stderr


def test_an_import_written_to_a_file_reports_as_json(loadmaster, tmp_path):
    (tmp_path / "fleet.csv").write_text("id,rank,rate\na,16,0.5\n")
    options = ("--base-model", LLAMA, "--out", tmp_path / "w.json", "--json")
    done = loadmaster("workload", "import", tmp_path / "fleet.csv", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["adapters"] == 1
    assert json.loads((tmp_path / "w.json").read_text())["adapters"][0]["id"] == "a"


def test_an_import_that_cannot_be_exits_with_2_and_the_cell(loadmaster, tmp_path):
    (tmp_path / "fleet.csv").write_text("id,rank,rate\na,x,0.5\n")
    done = loadmaster("workload", "import", tmp_path / "fleet.csv", "--base-model", LLAMA)
    assert done.returncode == 2
    assert "fleet.csv row 2, column rank: must be a number, got 'x'" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("form", list(FORMATS))
def test_a_plan_is_exported_from_a_file_or_standard_input(loadmaster, workload_file, tmp_path, form):
    (tmp_path / "plan.json").write_text(loadmaster("place", "--workload", workload_file, "--json").stdout)
    done = loadmaster("plan", "export", tmp_path / "plan.json", "--format", form)
    assert done.returncode == 0, done.stderr
    assert "adapter-0" in done.stdout
    written = loadmaster(
        "plan", "export", tmp_path / "plan.json", "--format", form, "--out", tmp_path / "out"
    )
    assert (written.returncode, written.stdout) == (0, "")
    assert (tmp_path / "out").read_text() == done.stdout


def test_a_plan_that_is_none_is_refused_naming_the_field(loadmaster, tmp_path):
    (tmp_path / "plan.json").write_text('{"plan_id": 3}')
    done = loadmaster("plan", "export", tmp_path / "plan.json")
    assert done.returncode == 2
    assert "plan_id" in done.stderr
    assert loadmaster("plan", "export").returncode == 2


def test_the_doctor_finds_a_fresh_data_directory_sound(loadmaster, tmp_path, monkeypatch):
    monkeypatch.setenv("LOADMASTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LOADMASTER_PORT", "0")
    done = loadmaster("doctor", "--json")
    assert done.returncode == 0, done.stdout
    told = json.loads(done.stdout)
    assert told["sound"]
    assert {"kernels", "store", "calibration", "port"} <= {finding["check"] for finding in told["findings"]}
    monkeypatch.setenv("LOADMASTER_REDIS_URL", "redis://127.0.0.1:1/0")
    sick = loadmaster("doctor")
    assert sick.returncode == 1
    assert "LOADMASTER_REDIS_URL" in sick.stdout.replace("\n", " ")
