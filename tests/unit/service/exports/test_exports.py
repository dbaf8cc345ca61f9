"""Plans written out: each form says what the plan says, whatever adapters are called."""

import json
import stat
import subprocess
from itertools import pairwise

import kubernetes_validate
import pytest
import yaml
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ExportError
from service.exports.fleet import ExportOptions, fleet_of
from service.exports.formats import FORMATS
from service.exports.operators import resource_name
from service.schemas.plan import PlanSchema
from tests.support.plans import plan_document
from tests.support.public_schemas import COMPOSE, LORA_ADAPTER, MODEL_ADAPTER, check

KUBERNETES = "1.34"

HOSTILE = (
    "plain",
    "it's",
    'say "hi"',
    "$HOME ${HOME} $(id) $$ `id`",
    "a; rm -rf /",
    "--help",
    "-",
    "a=b",
    "back\\slash\\",
    "# not a comment",
    "a: b",
    "- item",
    "{id}",
    "{{ template }}",
    "<<",
    "*",
    "&anchor",
    "!tag",
    "%20",
    "null",
    "yes",
    "y",
    "~",
    "1e3",
    "0o17",
    "0x1F",
    "1_000",
    "12:30",
    "2026-11-26",
    " leading",
    "trailing ",
    "acme/sql-lora",
    "/absolute",
    "Ünï cødé 漢字 🚀",
    "a" * 256,
    ".inf",
    "@at",
    "|",
    ">",
)
NOT_FOR_LITELLM = {"*"}

ids = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=80).filter(
    lambda text: ".." not in text.split("/")
)


def exported(form, *adapters_of_gpu, **options):
    plan = PlanSchema.model_validate(plan_document(*adapters_of_gpu))
    return FORMATS[form](fleet_of(plan, ExportOptions(**options)))


def documents(form, *adapters_of_gpu, **options):
    return list(yaml.safe_load_all(exported(form, *adapters_of_gpu, **options).text))


def modules_of(arguments):
    """Return the adapters of a command line, id to path."""
    first = arguments.index("--lora-modules") + 1
    words = [word for word in arguments[first:] if word.startswith("{")]
    return {row["name"]: row["path"] for row in map(json.loads, words)}


def argv_of_script(tmp_path, text, gpu):
    """Run a script with a `vllm` that writes down its arguments, and return them."""
    (tmp_path / "fleet.sh").write_text(text)
    stub = tmp_path / "vllm"
    stub.write_text(
        '#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done\nprintf "%s" "$CUDA_VISIBLE_DEVICES"\n'
    )
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", tmp_path / "fleet.sh", str(gpu)], env=environment, capture_output=True, check=True, timeout=30
    )
    *words, devices = done.stdout.decode().split("\0")
    return words, devices


def test_the_script_starts_each_server_with_the_plan_s_flags_and_adapters(tmp_path):
    text = exported("vllm", ["a"], HOSTILE).text
    words, devices = argv_of_script(tmp_path, text, 1)
    assert words[:2] == ["serve", "meta-llama/Llama-3.1-8B-Instruct"]
    assert ("--max-loras", "32") in pairwise(words)
    assert words[-2:] == ["--port", "8001"]
    assert devices == "1"
    assert modules_of(words) == {name: f"/adapters/{name}" for name in HOSTILE}


def test_the_script_refuses_a_gpu_that_the_plan_lacks(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as refused:
        argv_of_script(tmp_path, exported("vllm", ["a"]).text, 7)
    assert refused.value.returncode == 2
    assert b"the plan has no GPU 7" in refused.value.stderr


def test_the_compose_file_keeps_to_the_compose_specification():
    (document,) = documents("compose", HOSTILE, ["b"])
    check(COMPOSE, document)
    assert set(document["services"]) == {"vllm-0", "vllm-1"}
    words = [word.replace("$$", "$") for word in document["services"]["vllm-0"]["command"]]
    assert modules_of(words) == {name: f"/adapters/{name}" for name in HOSTILE}


def test_a_dollar_in_compose_is_never_a_variable():
    (document,) = documents("compose", ["${HOME}"])
    assert not any("${" in word.replace("$$", "") for word in document["services"]["vllm-0"]["command"])


def test_kubernetes_manifests_are_valid_for_kubernetes():
    found = documents("kubernetes", HOSTILE, ["b"], namespace="llm")
    assert [document["kind"] for document in found] == ["Deployment", "Service"] * 2
    for document in found:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    (container,) = found[0]["spec"]["template"]["spec"]["containers"]
    words = [word.replace("$$(", "$(") for word in container["args"]]
    assert modules_of(words) == {name: f"/adapters/{name}" for name in HOSTILE}


def test_nothing_in_a_pod_s_arguments_is_expanded_by_the_kubelet():
    (container,) = documents("kubernetes", ["$(SECRET)"])[0]["spec"]["template"]["spec"]["containers"]
    assert not any("$(" in word.replace("$$(", "") for word in container["args"])


@pytest.mark.parametrize(
    ("form", "kind", "schema"),
    [("aibrix", "ModelAdapter", MODEL_ADAPTER), ("production-stack", "LoraAdapter", LORA_ADAPTER)],
)
def test_operators_resources_keep_to_their_definitions_and_select_one_server(form, kind, schema):
    found = documents(form, HOSTILE, ["b"])
    adapters = [document for document in found if document["kind"] == kind]
    pods = [document for document in found if document["kind"] == "Deployment"]
    for document in adapters:
        check(schema, document)
    for document in found:
        if document["kind"] != kind:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    assert {each["metadata"]["annotations"]["loadmaster/adapter"] for each in adapters} == {*HOSTILE, "b"}
    assert len({each["metadata"]["name"] for each in adapters}) == len(HOSTILE) + 1
    for document in adapters:
        wanted = selected_labels(document)
        holders = [
            pod for pod in pods if wanted.items() <= pod["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert len(holders) == 1
    for pod in pods:
        (container,) = pod["spec"]["template"]["spec"]["containers"]
        assert {"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "True"} in container["env"]
        assert "--lora-modules" not in container["args"]


def selected_labels(document):
    spec = document["spec"]
    return spec["podSelector"]["matchLabels"] if "podSelector" in spec else {"model": spec["baseModel"]}


def test_an_id_that_aibrix_cannot_serve_under_its_name_is_noted():
    told = exported("aibrix", ["plain", "acme/SQL"])
    assert told.notes == (f"AIBrix serves 'acme/SQL' as {resource_name('acme/SQL')}",)


def test_litellm_s_config_sends_each_adapter_to_its_server():
    names = [name for name in HOSTILE if name not in NOT_FOR_LITELLM]
    (config,) = documents("litellm", names, ["b"], address="http://127.0.0.1:{port}")
    routes = {row["model_name"]: row["litellm_params"] for row in config["model_list"]}
    assert routes["b"] == {"model": "hosted_vllm/b", "api_base": "http://127.0.0.1:8001/v1"}
    assert set(routes) == {*names, "b"}


@pytest.mark.parametrize("name", ["*", "openai/*", "os.environ/SECRET"])
def test_a_name_that_litellm_would_read_as_something_else_is_refused(name):
    with pytest.raises(ExportError, match="LiteLLM would not take this name"):
        exported("litellm", [name])


KNOWN_TYPES = (Router, HttpConnectionManager)
"""Their import registers them for configurations that hold them by their type's URL."""


def envoy_bootstrap(document):
    """Return Envoy's own message of a configuration; an unknown field or type raises."""
    bootstrap = Bootstrap.from_dict(document)
    manager = bootstrap.static_resources.listeners[0].filter_chains[0].filters[0].typed_config.unpack()
    return bootstrap, manager.route_config.virtual_hosts[0].routes


def test_envoy_s_bootstrap_is_one_and_routes_each_adapter_to_its_server():
    (document,) = documents("envoy", HOSTILE, ["b"])
    bootstrap, routes = envoy_bootstrap(document)
    target = {route.match.headers[0].string_match.exact: route.route.cluster for route in routes[:-1]}
    assert target == dict.fromkeys(HOSTILE, "vllm-0") | {"b": "vllm-1"}
    assert routes[-1].direct_response.status == 404
    assert [cluster.name for cluster in bootstrap.static_resources.clusters] == ["vllm-0", "vllm-1"]


@settings(deadline=None, max_examples=50)
@given(st.lists(ids, min_size=1, max_size=5, unique=True))
def test_any_id_comes_back_out_of_every_form_that_names_it(names):
    (compose,) = documents("compose", names)
    words = [word.replace("$$", "$") for word in compose["services"]["vllm-0"]["command"]]
    assert set(modules_of(words)) == set(names)
    (document,) = documents("envoy", names)
    _, routes = envoy_bootstrap(document)
    assert {route.match.headers[0].string_match.exact for route in routes[:-1]} == set(names)
    resources = [row for row in documents("production-stack", names) if row["kind"] == "LoraAdapter"]
    for row in resources:
        check(LORA_ADAPTER, row)
    assert {row["spec"]["adapterSource"]["adapterName"] for row in resources} == set(names)


def test_a_split_adapter_is_weighted_where_the_form_can_and_noted_where_it_cannot():
    (document,) = documents("envoy", ["hot"], ["hot", "b"])
    _, routes = envoy_bootstrap(document)
    weights = {part.name: part.weight for part in routes[0].route.weighted_clusters.clusters}
    assert weights == {"vllm-0": 500, "vllm-1": 500}
    (config,) = documents("litellm", ["hot"], ["hot", "b"])
    assert [row["litellm_params"].get("weight") for row in config["model_list"]] == [500, 500, None]
    assert "# share of hot: 0.5" in exported("vllm", ["hot"], ["hot", "b"]).text
    annotations = documents("kubernetes", ["hot"], ["hot", "b"])[0]["metadata"]["annotations"]
    assert json.loads(annotations["loadmaster/shares"]) == {"hot": 0.5}
    (compose,) = documents("compose", ["hot"], ["hot", "b"])
    assert json.loads(compose["services"]["vllm-0"]["labels"]["loadmaster.shares"]) == {"hot": 0.5}
    assert "one pod" in exported("aibrix", ["hot"], ["hot", "b"]).notes[0]
    assert "no weights" in exported("production-stack", ["hot"], ["hot", "b"]).notes[0]


def test_a_split_adapter_s_weights_are_the_plan_s_shares():
    parts = [{"gpu": 0, "share": 0.7}, {"gpu": 1, "share": 0.3}]
    document = plan_document(["hot"], ["hot", "b"], replicas=[{"adapter": "hot", "gpus": parts}])
    fleet = fleet_of(PlanSchema.model_validate(document), ExportOptions())
    (config,) = yaml.safe_load_all(FORMATS["litellm"](fleet).text)
    assert [row["litellm_params"].get("weight") for row in config["model_list"]] == [700, 300, None]


def test_a_path_cannot_leave_the_adapters_folder():
    with pytest.raises(ExportError, match="would leave the adapters' folder"):
        exported("vllm", ["../../etc"])
    assert "/adapters/a..b" in exported("vllm", ["a..b"]).text


def test_a_plan_without_servers_is_not_exported():
    with pytest.raises(ExportError, match="has no GPU"):
        exported("vllm")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"name": "Vllm"}, "--name"),
        ({"namespace": "a b"}, "--namespace"),
        ({"adapter_path": "/adapters"}, "--adapter-path"),
    ],
)
def test_an_option_that_no_form_could_hold_is_refused(options, field):
    with pytest.raises(ExportError, match=field):
        exported("kubernetes", ["a"], **options)


def test_a_resource_s_name_is_a_label_and_tells_different_ids_apart():
    names = [resource_name(text) for text in HOSTILE]
    assert len(set(names)) == len(HOSTILE)
    assert all(len(name) <= 63 and name[0].isalpha() for name in names)
