"""A plan as Kubernetes manifests: a Deployment of one pod and a Service for each server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from service.exports.commands import serve_arguments
from service.exports.fleet import PORT, Exported
from service.exports.yaml_text import yaml_documents

if TYPE_CHECKING:
    from service.exports.fleet import Fleet, Server

START_MINUTES = 20
"""A pod that loads weights from afar may take that long."""

SERVER_LABEL = "app.kubernetes.io/instance"


def manifests(fleet: Fleet) -> Exported:
    """Return the manifests of all servers, each with its adapters on its command line."""
    documents = [
        document
        for server in fleet.servers
        for document in (deployment(fleet, server), service(fleet, server))
    ]
    return Exported(text=yaml_documents(documents, f"The servers of plan {fleet.plan_id}."))


def deployment(
    fleet: Fleet, server: Server, *, loads_at_runtime: bool = False, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return the Deployment of one server.

    Parameters
    ----------
    loads_at_runtime
        Whether an operator loads the adapters through vLLM's API, in place of the command line.
    labels
        Further labels of the pods.
    """
    metadata = _metadata(fleet, server)
    if server.shares:
        metadata["annotations"] |= {"loadmaster/shares": orjson.dumps(server.shares).decode()}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # the new pod needs the GPU that the old one holds
            "selector": {"matchLabels": {SERVER_LABEL: server.name}},
            "template": {
                "metadata": {"labels": metadata["labels"] | (labels or {})},
                "spec": _pod(fleet, server, loads_at_runtime=loads_at_runtime),
            },
        },
    }


def service(fleet: Fleet, server: Server) -> dict[str, Any]:
    """Return the Service of one server."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(fleet, server),
        "spec": {
            "selector": {SERVER_LABEL: server.name},
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }


def _metadata(fleet: Fleet, server: Server) -> dict[str, Any]:
    return {
        "name": server.name,
        "namespace": fleet.options.namespace,
        "labels": {
            "app.kubernetes.io/name": fleet.options.name,
            SERVER_LABEL: server.name,
            "app.kubernetes.io/managed-by": "loadmaster",
        },
        "annotations": {"loadmaster/plan": fleet.plan_id},
    }


def _pod(fleet: Fleet, server: Server, *, loads_at_runtime: bool) -> dict[str, Any]:
    arguments = serve_arguments(fleet, server, with_adapters=not loads_at_runtime)
    health = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 10}
    container: dict[str, Any] = {
        "name": "vllm",
        "image": fleet.image,
        "command": ["vllm", "serve"],
        "args": [_literal(word) for word in arguments],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
        "startupProbe": health | {"failureThreshold": START_MINUTES * 6},
        "readinessProbe": dict(health),
        "livenessProbe": health | {"failureThreshold": 6},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "adapters", "mountPath": fleet.adapters_folder, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 (within the container)
        ],
    }
    if loads_at_runtime:
        container["env"] = [{"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "True"}]
    return {
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [
            {
                "name": "adapters",
                "persistentVolumeClaim": {"claimName": fleet.options.claim, "readOnly": True},
            },
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }


def _literal(word: str) -> str:
    """Return a word in which the kubelet expands nothing."""
    return word.replace("$(", "$$(")
