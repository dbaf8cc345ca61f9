"""A plan as resources of operators that load adapters: AIBrix' ModelAdapter, production-stack's LoraAdapter.

Both operators choose a server for an adapter among the pods that a resource selects. Here each selects the
pods of one server of the plan, so the plan stands.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from service.errors import ExportError
from service.exports.fleet import Exported
from service.exports.kubernetes import SERVER_LABEL, deployment, service
from service.exports.yaml_text import yaml_documents

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.exports.fleet import Fleet, ServedAdapter, Server

MAX_LABEL = 63
_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def aibrix_resources(fleet: Fleet) -> Exported:
    """Return Deployments, Services and a ``ModelAdapter`` (``model.aibrix.ai/v1alpha1``) for each adapter.

    AIBrix loads an adapter under its resource's name, so an id that is no DNS label is served under another
    name; and it loads it in one pod, so of a split adapter only the largest share is exported. Both are
    noted.
    """
    home = _largest_shares(fleet)
    names = _unique_names(home)
    documents: list[dict[str, Any]] = []
    for server in fleet.servers:
        labels = {"model.aibrix.ai/name": server.name, "adapter.model.aibrix.ai/enabled": "true"}
        documents += [deployment(fleet, server, loads_at_runtime=True, labels=labels), service(fleet, server)]
        documents += [
            _model_adapter(fleet, server, each, names[each.adapter_id])
            for each in server.adapters
            if home[each.adapter_id] == server.name
        ]
    notes = [f"AIBrix serves {name!r} as {label}" for name, label in names.items() if name != label]
    notes += [
        f"AIBrix loads an adapter in one pod: of {name!r} only the share on {home[name]} is exported"
        for name in fleet.split_adapters()
    ]
    return Exported(text=_text(fleet, documents), notes=tuple(notes))


def production_stack_resources(fleet: Fleet) -> Exported:
    """Return Deployments, Services and a ``LoraAdapter`` for each adapter of each server.

    The operator of ``production-stack.vllm.ai/v1alpha1`` loads an adapter in the pods whose label ``model``
    is the resource's `baseModel`: each server's pods carry a label of their own. Its router knows no
    weights, so split adapters are noted.
    """
    documents: list[dict[str, Any]] = []
    for server in fleet.servers:
        labels = {"model": server.name}
        documents += [deployment(fleet, server, loads_at_runtime=True, labels=labels), service(fleet, server)]
        documents += [_lora_adapter(fleet, server, each) for each in server.adapters]
    notes = [
        f"production-stack's router knows no weights: {name!r} has shares on {count} servers"
        for name, count in fleet.split_adapters().items()
    ]
    return Exported(text=_text(fleet, documents), notes=tuple(notes))


def resource_name(text: str) -> str:
    """Return a DNS label: the text itself where it is one, else what is left of it and a digest."""
    if _LABEL.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    kept = re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")
    kept = kept if kept[:1].isalpha() else f"a-{kept}"
    return f"{kept[: MAX_LABEL - len(digest) - 1].rstrip('-')}-{digest}"


def _unique_names(adapter_ids: Iterable[str]) -> dict[str, str]:
    names = {adapter_id: resource_name(adapter_id) for adapter_id in adapter_ids}
    if len(set(names.values())) < len(names):
        raise ExportError("two adapters would have one resource's name", field="adapters")
    return names


def _largest_shares(fleet: Fleet) -> dict[str, str]:
    """Return the name of the server with the largest share of each adapter, by adapter id."""
    return {
        adapter_id: max(holding, key=lambda held: held[1])[0].name
        for adapter_id, holding in fleet.holders().items()
    }


def _model_adapter(fleet: Fleet, server: Server, adapter: ServedAdapter, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "model.aibrix.ai/v1alpha1",
        "kind": "ModelAdapter",
        "metadata": {
            "name": name,
            "namespace": fleet.options.namespace,
            "labels": {"model.aibrix.ai/name": name, "model.aibrix.ai/port": "8000"},
            "annotations": {"loadmaster/adapter": adapter.adapter_id, "loadmaster/plan": fleet.plan_id},
        },
        "spec": {
            "baseModel": server.name,
            "podSelector": {
                "matchLabels": {SERVER_LABEL: server.name, "adapter.model.aibrix.ai/enabled": "true"}
            },
            "artifactURL": adapter.path,
            "replicas": 1,
        },
    }


def _lora_adapter(fleet: Fleet, server: Server, adapter: ServedAdapter) -> dict[str, Any]:
    return {
        "apiVersion": "production-stack.vllm.ai/v1alpha1",
        "kind": "LoraAdapter",
        "metadata": {
            "name": resource_name(f"{adapter.adapter_id}@{server.name}"),
            "namespace": fleet.options.namespace,
            "annotations": {"loadmaster/adapter": adapter.adapter_id, "loadmaster/plan": fleet.plan_id},
        },
        "spec": {
            "baseModel": server.name,
            "adapterSource": {
                "type": "local",
                "adapterName": adapter.adapter_id,
                "adapterPath": adapter.path,
            },
            "loraAdapterDeploymentConfig": {"algorithm": "default", "replicas": 1},
        },
    }


def _text(fleet: Fleet, documents: list[dict[str, Any]]) -> str:
    return yaml_documents(documents, f"The servers and adapters of plan {fleet.plan_id}.")
