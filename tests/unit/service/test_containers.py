"""What `docker/` holds keeps to the public schemas and to what the code really serves."""

import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from service.observability import REGISTRY
from service.settings import Settings
from service.storage.jobs import TWIN_QUEUE
from tests.support.kustomize import DOCKER, KUBERNETES, resources
from tests.support.public_schemas import COMPOSE, SCALED_OBJECT, TRIGGER_AUTHENTICATION, check

CUSTOM = {"ScaledObject": SCALED_OBJECT, "TriggerAuthentication": TRIGGER_AUTHENTICATION}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not on the PATH (Debian: `prometheus`)",
)


def kustomizations():
    return sorted(path.parent for path in (DOCKER / "kubernetes").rglob("kustomization.yaml"))


@pytest.mark.parametrize("folder", kustomizations(), ids=lambda folder: folder.name)
def test_every_resource_keeps_to_its_schema(folder):
    for document in resources(folder):
        if document["kind"] in CUSTOM:
            check(CUSTOM[document["kind"]], document)
        else:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def pods():
    for document in resources(DOCKER / "kubernetes" / "base"):
        if document["kind"] in {"Deployment", "StatefulSet"}:
            yield document["metadata"]["name"], document["spec"]


@pytest.mark.parametrize(("name", "spec"), list(pods()))
def test_pods_run_without_root_and_on_a_read_only_root(name, spec):
    pod = spec["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"], name
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert "memory" in container["resources"]["limits"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_the_compose_file_keeps_to_the_specification_and_locks_every_container():
    document = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    check(COMPOSE, document)
    for name, service in document["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert ":" in service["image"], name
        assert not service["image"].endswith(":latest"), name
        assert "healthcheck" in service or name == "service", name  # the image brings its own
    for service in document["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_every_setting_that_containers_give_is_one():
    known = {f"LOADMASTER_{name.upper()}" for name in Settings.model_fields}
    files = [path for path in DOCKER.rglob("*") if path.suffix in {".yaml", ".Dockerfile"}]
    texts = [path.read_text() for path in files if "agent" not in path.name]  # agents have their own
    used = {name for text in texts for name in re.findall(r"\bLOADMASTER_[A-Z_]+\b", text)}
    assert used <= known


def test_every_metric_of_rules_and_dashboard_is_one_of_ours():
    ours = set()
    for family in REGISTRY.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        suffixes = ("_bucket", "_count", "_sum") if family.type == "histogram" else ("",)
        ours |= {name + suffix for suffix in suffixes}
    texts = [
        path.read_text() for path in (DOCKER / "prometheus" / "rules.yml", *DOCKER.rglob("loadmaster.json"))
    ]
    used = {name for text in texts for name in re.findall(r"\bloadmaster_[a-z_]+\b", text)}
    assert used
    assert used <= ours


def test_every_alert_has_a_runbook():
    rules = yaml.safe_load((DOCKER / "prometheus" / "rules.yml").read_text())["groups"][0]["rules"]
    runbooks = (DOCKER.parent / "docs" / "alerts.md").read_text()
    for rule in rules:
        assert rule["annotations"]["runbook"] == f"alerts.md#{rule['alert'].lower()}"
        assert f"## {rule['alert']}\n" in runbooks


def test_the_workers_scale_by_the_queue_that_jobs_go_to():
    objects = resources(DOCKER / "kubernetes" / "autoscaling-keda")
    lists = [
        trigger["metadata"]["listName"]
        for document in objects
        if document["kind"] == "ScaledObject"
        for trigger in document["spec"]["triggers"]
        if trigger["type"] == "redis"
    ]
    assert lists == [f"rq:queue:{TWIN_QUEUE}"]


@needs_promtool
@pytest.mark.parametrize("arguments", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")])
def test_promtool_accepts_the_rules_and_their_tests(arguments):
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=DOCKER / "prometheus",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
