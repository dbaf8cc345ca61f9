"""`loadmaster dataset` on URLs, by the command line's own entry."""

import json

import pytest

from service.cli import run_command_line
from twin.calibration import shipped_calibration_ids

pytest.importorskip("fsspec", reason="fsspec is of the remote extra")
pytest.importorskip("pyarrow", reason="pyarrow is of the train extra")

GENERATE = [
    "dataset",
    "generate",
    "--calibration",
    shipped_calibration_ids()[0],
    "--rows",
    "4",
    "--workers",
    "1",
]


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("LOADMASTER_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def test_a_data_set_is_generated_at_a_url_and_told_from_there(tmp_path, data_dir, capfd):
    url = f"file://{tmp_path}/remote/one.parquet"
    assert run_command_line([*GENERATE, "--active-share", "0", "--out", url, "--json"]) == 0
    made = json.loads(capfd.readouterr().out)
    assert made["dataset"] == url
    assert run_command_line(["dataset", "info", url, "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["file"], told["sha256"], told["rows"]) == (url, made["sha256"], 4)
    assert told["bytes"] == (tmp_path / "remote" / "one.parquet").stat().st_size
    assert [*(data_dir / "datasets" / ".parts").iterdir()] == []


@pytest.mark.parametrize(
    ("url", "reason"), [("carrier-pigeon://x/y", "Protocol not known"), ("file:///nowhere/at/all", "nowhere")]
)
def test_a_url_that_cannot_be_opened_is_a_mistake_of_the_caller(url, reason, capfd):
    for command in (["dataset", "info", url], ["train", "--dataset", url, "--out", "x"]):
        assert run_command_line(command) == 2
        assert reason in capfd.readouterr().err


def test_nothing_is_simulated_for_a_url_that_cannot_be_written(data_dir, capfd):
    assert run_command_line([*GENERATE, "--out", "carrier-pigeon://x/y"]) == 2
    assert "Protocol not known" in capfd.readouterr().err
    assert not data_dir.exists()
