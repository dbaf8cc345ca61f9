"""A plan as a routing map: which server answers for which adapter, for LiteLLM's proxy and for Envoy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from service.errors import ExportError
from service.exports.fleet import SMALLEST_SHARE, Exported
from service.exports.yaml_text import yaml_documents

if TYPE_CHECKING:
    from service.exports.fleet import Fleet, Server

LISTEN_PORT = 8080
HTTP_CONNECTION_MANAGER = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def litellm_config(fleet: Fleet) -> Exported:
    """Return a ``config.yaml`` of LiteLLM's proxy: a deployment for each adapter and server, weighted.

    Raises
    ------
    ExportError
        For a name that LiteLLM would take for a pattern or for an environment variable.
    """
    deployments = []
    for server in fleet.servers:
        for each in server.adapters:
            _check_for_litellm(each.adapter_id)
            parameters: dict[str, Any] = {
                "model": f"hosted_vllm/{each.adapter_id}",
                "api_base": f"{fleet.address_of(server)}/v1",
            }
            if each.share < 1:
                parameters["weight"] = _weight(each.share)
            deployments.append({"model_name": each.adapter_id, "litellm_params": parameters})
    document = {"model_list": deployments, "router_settings": {"routing_strategy": "simple-shuffle"}}
    return Exported(text=yaml_documents([document], f"Where the adapters of plan {fleet.plan_id} are."))


def envoy_bootstrap(fleet: Fleet) -> Exported:
    """Return an Envoy bootstrap that routes by the header that names the model, weighted over servers.

    The header is set by whatever reads the body: a body-based router before Envoy, or the client.
    """
    routes = [
        {"match": _match(fleet.options.model_header, name), "route": _targets(servers) | {"timeout": "0s"}}
        for name, servers in fleet.holders().items()
    ]
    nowhere = {"status": 404, "body": {"inline_string": "no server has this model\n"}}
    host = {
        "name": "adapters",
        "domains": ["*"],
        "routes": [*routes, {"match": {"prefix": "/"}, "direct_response": nowhere}],
    }
    document = {
        "static_resources": {
            "listeners": [_listener(host)],
            "clusters": [_cluster(fleet, server) for server in fleet.servers],
        }
    }
    return Exported(text=yaml_documents([document], f"Where the adapters of plan {fleet.plan_id} are."))


def _weight(share: float) -> int:
    return max(1, round(share / SMALLEST_SHARE))


def _check_for_litellm(adapter_id: str) -> None:
    if "*" in adapter_id or adapter_id.startswith("os.environ/"):
        raise ExportError(
            f"LiteLLM would not take this name as it stands, got {adapter_id!r}", field="adapter"
        )


def _match(header: str, adapter_id: str) -> dict[str, Any]:
    return {"prefix": "/", "headers": [{"name": header, "string_match": {"exact": adapter_id}}]}


def _targets(servers: list[tuple[Server, float]]) -> dict[str, Any]:
    if len(servers) == 1:
        return {"cluster": servers[0][0].name}
    weights = [{"name": server.name, "weight": _weight(share)} for server, share in servers]
    return {"weighted_clusters": {"clusters": weights}}


def _listener(host: dict[str, Any]) -> dict[str, Any]:
    manager = {
        "@type": HTTP_CONNECTION_MANAGER,
        "stat_prefix": "adapters",
        "route_config": {"name": "adapters", "virtual_hosts": [host]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "name": "adapters",
        "address": _socket_address("0.0.0.0", LISTEN_PORT),  # noqa: S104 (a router is asked from outside)
        "filter_chains": [{"filters": filters}],
    }


def _cluster(fleet: Fleet, server: Server) -> dict[str, Any]:
    parts = urlsplit(fleet.address_of(server))
    if not parts.hostname or parts.scheme not in {"http", "https"}:
        raise ExportError(f"must be http://host:port, got {fleet.options.address!r}", field="--address")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    endpoint = {"endpoint": {"address": _socket_address(parts.hostname, port)}}
    return {
        "name": server.name,
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": server.name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _socket_address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
