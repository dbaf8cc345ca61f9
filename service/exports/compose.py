"""A plan as a compose file: a service for each server, each with its GPU of this host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from service.exports.commands import serve_arguments
from service.exports.fleet import PORT, Exported
from service.exports.yaml_text import yaml_documents

if TYPE_CHECKING:
    from service.exports.fleet import Fleet, Server

HEALTH = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/health', timeout=5)"


def compose_file(fleet: Fleet) -> Exported:
    """Return the compose file (compose-spec) of all servers."""
    document = {
        "name": fleet.options.name,
        "services": {server.name: _service(fleet, server) for server in fleet.servers},
    }
    return Exported(text=yaml_documents([document], f"The servers of plan {fleet.plan_id}."))


def _service(fleet: Fleet, server: Server) -> dict[str, Any]:
    device = {"driver": "nvidia", "device_ids": [str(server.gpu)], "capabilities": ["gpu"]}
    claim = fleet.options.claim
    source = claim if claim.startswith(("/", ".")) else f"./{claim}"
    service = {
        "image": fleet.image,
        "entrypoint": ["vllm", "serve"],
        "command": [_literal(word) for word in serve_arguments(fleet, server)],
        "ports": [f"{server.host_port}:{PORT}"],
        "volumes": [
            {"type": "bind", "source": source, "target": fleet.adapters_folder, "read_only": True},
        ],
        "ipc": "host",
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", "python3", "-c", HEALTH],
            "interval": "10s",
            "start_period": "10m",
            "retries": 3,
        },
        "deploy": {"resources": {"reservations": {"devices": [device]}}},
    }
    if server.shares:
        service["labels"] = {"loadmaster.shares": _literal(orjson.dumps(server.shares).decode())}
    return service


def _literal(word: str) -> str:
    """Return a word that compose does not interpolate."""
    return word.replace("$", "$$")
