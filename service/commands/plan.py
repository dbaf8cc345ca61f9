"""Plans: written out for what starts servers and routes to them."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated

import typer

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.

if TYPE_CHECKING:
    from service.schemas.plan import PlanSchema

plan_app = typer.Typer(name="plan", help="Plans.", no_args_is_help=True, add_completion=False)

_SERVERS = "Servers"
_ROUTING = "Routing maps"


class Format(StrEnum):
    """What a plan is written out for."""

    VLLM = "vllm"
    COMPOSE = "compose"
    KUBERNETES = "kubernetes"
    AIBRIX = "aibrix"
    PRODUCTION_STACK = "production-stack"
    LITELLM = "litellm"
    ENVOY = "envoy"


def export_plan(  # noqa: PLR0913, PLR0917 (a command's options)
    plan: Annotated[
        Path | None,
        typer.Argument(help="An answer of `place` as JSON, or - for standard input.", show_default=False),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="What it is for.")] = Format.VLLM,
    url: Annotated[
        str | None,
        typer.Option(help="Take the plan in force of this service, with the key of LOADMASTER_KEY."),
    ] = None,
    plan_id: Annotated[
        str | None, typer.Option(help="With --url: another plan, once it was verified.")
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="With --url, where several are in force.")] = None,
    gpu_type: Annotated[str | None, typer.Option(help="With --url, where several are in force.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; else standard output.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model as vLLM loads it.", rich_help_panel=_SERVERS)
    ] = None,
    image: Annotated[str | None, typer.Option(help="Container image.", rich_help_panel=_SERVERS)] = None,
    adapter_path: Annotated[
        str, typer.Option(help="Where the weights of {id} are.", rich_help_panel=_SERVERS)
    ] = "/adapters/{id}",
    name: Annotated[str, typer.Option(help="Servers are NAME-GPU.", rich_help_panel=_SERVERS)] = "vllm",
    namespace: Annotated[str, typer.Option(help="Of Kubernetes.", rich_help_panel=_SERVERS)] = "default",
    claim: Annotated[
        str, typer.Option(help="Volume claim, or host folder, of the adapters.", rich_help_panel=_SERVERS)
    ] = "adapters",
    address: Annotated[
        str,
        typer.Option(help="How a router reaches a server: {name}, {gpu}, {port}.", rich_help_panel=_ROUTING),
    ] = "http://{name}:8000",
    model_header: Annotated[
        str, typer.Option(help="Header in which Envoy finds the model.", rich_help_panel=_ROUTING)
    ] = "x-gateway-model-name",
) -> None:
    """Write a plan as vLLM commands, compose file, Kubernetes manifests, operators' resources or routing map.

    What the form cannot say is told on standard error.
    """
    from service.exports.fleet import ExportOptions, fleet_of  # noqa: PLC0415
    from service.exports.formats import FORMATS  # noqa: PLC0415

    options = ExportOptions(
        model=model,
        image=image,
        adapter_path=adapter_path,
        name=name,
        namespace=namespace,
        claim=claim,
        address=address,
        model_header=model_header,
    )
    which = {"base_model": base_model, "gpu_type": gpu_type}
    found = _plan(plan, url, plan_id, {key: value for key, value in which.items() if value is not None})
    exported = FORMATS[form](fleet_of(found, options))
    for row in found.unplaced:
        typer.echo(f"not in the plan: {row.adapter}: {row.reason}", err=True)
    for note in exported.notes:
        typer.echo(f"note: {note}", err=True)
    if out is None:
        sys.stdout.write(exported.text)
    else:
        out.write_text(exported.text, encoding="utf-8")


def _plan(path: Path | None, url: str | None, plan_id: str | None, which: dict[str, str]) -> PlanSchema:
    from service.commands.run import client_of, read_input  # noqa: PLC0415
    from service.errors import UsageError  # noqa: PLC0415
    from service.schemas.border import parse  # noqa: PLC0415
    from service.schemas.plan import PlanSchema  # noqa: PLC0415

    if (path is None) == (url is None):
        raise UsageError("give either a file with a plan or --url")
    if url is None:
        return parse(PlanSchema, read_input(path))  # type: ignore[arg-type]
    with client_of(url) as client:
        if plan_id is None:
            return client.plan(**which)
        outcome = client.plan_outcome(plan_id)
    if outcome.plan is None:
        status = outcome.verification.status
        raise UsageError(f"is not there yet: its verification is {status}", field="--plan-id")
    return outcome.plan
