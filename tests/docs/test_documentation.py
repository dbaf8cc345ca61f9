"""What the documentation shows is so: commands exist, the quick start runs, the site builds."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from service.cli import app, run_command_line
from service.schemas.plan import PlanSchema
from service.schemas.workload import WorkloadSchema
from tests.support.peft_folders import write_adapter

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def commands(path):
    """Return the `loadmaster` command lines in the console blocks of a page."""
    blocks = re.findall(r"```console\n(.*?)```", path.read_text(), re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [line for line in lines if line.startswith("loadmaster ")]


def shown():
    pages = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]
    return [(page.name, line) for page in pages for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), shown())
def test_every_command_and_option_that_is_shown_exists(page, line):
    words = shlex.split(re.split(r"\s[>|#]|\s&&", line)[0])[1:]
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words, (page, line)
        assert words[0] in command.commands, (page, line)
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, (page, line)


def test_the_quick_start_goes_from_adapters_and_a_log_to_commands(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name, rank in (("sql", 16), ("chat", 8)):
        write_adapter(tmp_path / "adapters" / name, rank)
    rows = ({"ts": second, "model": "sql", "path": "/v1/completions"} for second in range(0, 600, 5))
    (tmp_path / "gateway.log").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for line in commands(DOCS / "quick-start.md"):
        arguments, _, target = line.removeprefix("loadmaster ").partition(" > ")
        if arguments == "doctor":
            continue  # tests/e2e/test_command_line.py
        assert run_command_line(shlex.split(arguments)) == 0, line
        told = capfd.readouterr().out
        if target:
            (tmp_path / target).write_text(told)
    WorkloadSchema.parse((tmp_path / "workload.json").read_bytes())
    PlanSchema.model_validate_json((tmp_path / "plan.json").read_bytes())
    assert "exec vllm serve" in (tmp_path / "fleet.sh").read_text()
    assert (tmp_path / "plan.html").read_text().startswith("<!doctype html>")


def test_every_json_example_of_the_quick_start_is_a_workload():
    blocks = re.findall(r"```json\n(.*?)```", (DOCS / "quick-start.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        WorkloadSchema.parse(block).to_domain()


def test_the_site_builds_without_a_warning(tmp_path):
    mkdocs = Path(sys.executable).with_name("mkdocs")
    if not mkdocs.is_file() and shutil.which("mkdocs") is None:
        pytest.skip("mkdocs is not installed: `make docs` installs it")
    done = subprocess.run(
        [mkdocs, "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "quick-start" / "index.html").is_file()
