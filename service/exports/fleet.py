"""The servers of a plan as exports need them: names, flags, adapters with their paths and shares.

Adapter ids are whatever a tenant called a file: every form quotes them for itself, and a path that would
leave the adapters' folder is refused here.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import ExportError

if TYPE_CHECKING:
    from service.schemas.plan import PlanSchema

PORT = 8000
"""Port of each server within its container, and of the first one on a host."""

HUB_NAMES = {
    "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen-2.5-7b-instruct": "Qwen/Qwen2.5-7B-Instruct",
}
"""What the calibrated base models are called on the Hugging Face hub."""

SMALLEST_SHARE = 0.001
"""Weights of routing maps are whole thousandths."""

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedAdapter:
    """An adapter on a server.

    Attributes
    ----------
    adapter_id
        The name that clients ask for.
    path
        Where its weights are, as the server sees it.
    share
        Of its requests, how many go to this server, in (0, 1]; 1 where no other server has it.
    """

    adapter_id: str
    path: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One vLLM server of a plan.

    Attributes
    ----------
    name
        A DNS label.
    gpu
        Its number in the plan.
    flags
        Arguments of ``vllm serve`` without model and adapters.
    adapters
        What it serves.
    """

    name: str
    gpu: int
    flags: tuple[str, ...]
    adapters: tuple[ServedAdapter, ...]

    @property
    def host_port(self) -> int:
        """Its port where several servers share a host."""
        return PORT + self.gpu

    @property
    def shares(self) -> dict[str, float]:
        """Its share of each adapter that other servers have too."""
        return {each.adapter_id: each.share for each in self.adapters if each.share < 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What a plan does not say.

    Attributes
    ----------
    model
        Base model as vLLM loads it; None takes the hub's name of a calibrated one.
    image
        Container image; None takes vLLM's own of the calibrated version.
    adapter_path
        Where an adapter's weights are; ``{id}`` stands for the adapter.
    name
        Servers are called ``<name>-<gpu>``.
    namespace
        Of Kubernetes' resources.
    claim
        PersistentVolumeClaim, or folder of the host, that holds the adapters.
    address
        How a router reaches a server; ``{name}``, ``{gpu}`` and ``{port}`` stand for its own.
    model_header
        The header in which a router finds the model.
    """

    model: str | None = None
    image: str | None = None
    adapter_path: str = "/adapters/{id}"
    name: str = "vllm"
    namespace: str = "default"
    claim: str = "adapters"
    address: str = "http://{name}:8000"
    model_header: str = "x-gateway-model-name"

    def __post_init__(self) -> None:
        for field, value in (("--name", self.name), ("--namespace", self.namespace)):
            if not _NAME.fullmatch(value):
                raise ExportError(
                    f"must be a DNS label of at most 42 characters beginning with a letter, got {value!r}",
                    field=field,
                )
        if "{id}" not in self.adapter_path:
            raise ExportError("must hold {id}, which stands for the adapter", field="--adapter-path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A plan ready to be written out."""

    plan_id: str
    model: str
    image: str
    servers: tuple[Server, ...]
    options: ExportOptions

    @property
    def adapters_folder(self) -> str:
        """The folder that every adapter's path begins with."""
        return self.options.adapter_path.split("{id}", maxsplit=1)[0].rstrip("/") or "/"

    def holders(self) -> dict[str, list[tuple[Server, float]]]:
        """Return the servers of each adapter by its id, with their shares of its requests."""
        holders: dict[str, list[tuple[Server, float]]] = {}
        for server in self.servers:
            for each in server.adapters:
                holders.setdefault(each.adapter_id, []).append((server, each.share))
        return holders

    def split_adapters(self) -> dict[str, int]:
        """Return how many servers have each adapter that several have."""
        return {name: len(servers) for name, servers in self.holders().items() if len(servers) > 1}

    def address_of(self, server: Server) -> str:
        """Return how a router reaches a server."""
        address = self.options.address.replace("{name}", server.name).replace("{gpu}", str(server.gpu))
        return address.replace("{port}", str(server.host_port))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A text, and what it cannot say, for a reader."""

    text: str
    notes: tuple[str, ...] = ()


def fleet_of(plan: PlanSchema, options: ExportOptions) -> Fleet:
    """Return the servers of a plan.

    Raises
    ------
    ExportError
        Where the plan is empty, or what it does not say is neither given nor known.
    """
    if not plan.gpus:
        raise ExportError("the plan has no GPU: nothing of the workload can be served", field="plan.gpus")
    shares = _shares(plan)
    servers = tuple(
        Server(
            name=f"{options.name}-{gpu.gpu}",
            gpu=gpu.gpu,
            flags=tuple(gpu.vllm_args),
            adapters=tuple(
                ServedAdapter(
                    adapter_id=name, path=_path(name, options.adapter_path), share=shares[gpu.gpu, name]
                )
                for name in gpu.adapters
            ),
        )
        for gpu in plan.gpus
    )
    return Fleet(
        plan_id=plan.plan_id,
        model=options.model or _hub_name(plan.calibration_id),
        image=options.image or _image(plan.calibration_id),
        servers=servers,
        options=options,
    )


def _shares(plan: PlanSchema) -> dict[tuple[int, str], float]:
    """Return the share of each GPU in each of its adapters: the plan's, even where it gives none."""
    holders = Counter(name for gpu in plan.gpus for name in gpu.adapters)
    even = {(gpu.gpu, name): 1 / holders[name] for gpu in plan.gpus for name in gpu.adapters}
    given = {(part.gpu, row.adapter): part.share for row in plan.replicas for part in row.gpus}
    return even | given


def _path(adapter_id: str, template: str) -> str:
    if ".." in adapter_id.split("/"):
        raise ExportError(f"its path would leave the adapters' folder, got {adapter_id!r}", field="adapter")
    if _CONTROL.search(adapter_id):
        raise ExportError(f"must hold no control character, got {adapter_id!r}", field="adapter")
    return template.replace("{id}", adapter_id)


def _hub_name(calibration_id: str) -> str:
    base_model = calibration_id.split("/")[1]
    if base_model not in HUB_NAMES:
        raise ExportError(f"must be given: where vLLM finds {base_model} is not known", field="--model")
    return HUB_NAMES[base_model]


def _image(calibration_id: str) -> str:
    return f"vllm/vllm-openai:v{calibration_id.rsplit('/', 1)[-1].removeprefix('vllm-')}"
