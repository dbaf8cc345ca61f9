"""``loadmaster what-if``: changes supposed, one at a time."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import Annotated, Any

import typer

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.

LISTED = ("restarts", "opened", "closed")
MAX_NAMED = 3
"""Adapters without a GPU that are told by name."""


def what_if(  # noqa: PLR0913, PLR0917 (a command's options)
    workload: Annotated[
        Path | None,
        typer.Option(
            help="A workload as JSON, or - for standard input; it may hold `changes` and `current`.",
            show_default=False,
        ),
    ] = None,
    scale_rates: Annotated[list[float] | None, typer.Option(help="A factor on all rates.")] = None,
    add_adapters: Annotated[
        list[Path] | None, typer.Option(help="A file with adapters that come, as JSON.")
    ] = None,
    lose_gpus: Annotated[list[int] | None, typer.Option(help="GPUs that fail, the busiest.")] = None,
    max_loras: Annotated[list[int] | None, typer.Option(help="Slots of every server.")] = None,
    starvation_risk: Annotated[list[float] | None, typer.Option(help="The risk to plan for.")] = None,
    max_ttft_ms: Annotated[
        list[float] | None, typer.Option(help="The longest mean TTFT that a GPU may have.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="Ask the service there, with the key of LOADMASTER_KEY; without --workload, about the "
            "workload in force.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 (the flag's name)
) -> None:
    """Tell what changes would ask for: the answer of POST /what-if. An option given twice is two changes."""
    import orjson  # noqa: PLC0415

    asked = {
        "scale_rates": scale_rates,
        "add_adapters": [_adapters_of(path) for path in add_adapters or ()],
        "lose_gpus": lose_gpus,
        "max_loras": max_loras,
        "starvation_risk": starvation_risk,
        "max_ttft_ms": max_ttft_ms,
    }
    changes = [{name: value} for name, values in asked.items() for value in values or ()]
    answer = _answer(_document(workload, changes), url)
    if json:
        sys.stdout.buffer.write(answer + b"\n")
        return
    _print(orjson.loads(answer))


def _document(workload: Path | None, changes: list[dict[str, Any]]) -> bytes:
    """Return the request: the workload's document with the command line's changes after its own."""
    import orjson  # noqa: PLC0415

    from service.commands.run import read_input  # noqa: PLC0415

    if workload is None:
        return orjson.dumps({"changes": changes})
    document = read_input(workload)
    try:
        value = orjson.loads(document)
    except orjson.JSONDecodeError:
        return document  # the service says what is wrong
    if not isinstance(value, dict) or not changes:
        return document
    own = value.get("changes", [])
    return orjson.dumps(value | {"changes": own + changes if isinstance(own, list) else own})


def _adapters_of(path: Path) -> Any:
    """Return the adapters of a file: a list, or a workload's."""
    import orjson  # noqa: PLC0415

    from service.errors import UsageError  # noqa: PLC0415

    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UsageError(f"must be JSON: {error}", field="--add-adapters") from error
    return value.get("adapters") if isinstance(value, dict) else value


def _answer(document: bytes, url: str | None) -> bytes:
    if url is not None:
        from service.commands.run import client_of  # noqa: PLC0415

        with client_of(url) as client:
            return client.what_if(document).model_dump_json().encode()
    from service.factory import local_catalog  # noqa: PLC0415
    from service.observability import configure_logging  # noqa: PLC0415
    from service.services.placement import PlacementService  # noqa: PLC0415
    from service.services.what_if import WhatIfService  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415

    settings = Settings()
    configure_logging(settings.log_level)
    what_ifs = WhatIfService(PlacementService(local_catalog(settings), settings), settings)
    return what_ifs.answer(what_ifs.read(document), None)


def _print(answer: dict[str, Any]) -> None:
    typer.echo(f"now: {_size(answer['now'])}")
    for change in answer["changes"]:
        way = change["from_current"]
        listed = ", ".join(f"{len(way[name])} {name}" for name in LISTED)
        typer.echo(f"{change['name']}: {_size(change)} ({change['more_gpus']:+d} GPUs)")
        typer.echo(
            f"  from the {answer['running_gpus']} that run: {way['num_gpus']} GPUs, {way['moves']} moves, "
            f"{way['loads']} loads, {listed}"
        )
        unplaced = change["unplaced"]
        if unplaced:
            named = "; ".join(f"{lack['adapter']}: {lack['reason']}" for lack in unplaced[:MAX_NAMED])
            typer.echo(f"  {len(unplaced)} adapters are not placed: {named}")
        for lack in way["unmended"]:
            typer.echo(f"  not mended: GPU {lack['gpu']}: {lack['reason']}")


def _size(plan: dict[str, Any]) -> str:
    binding = ", ".join(f"{name} on {count}" for name, count in plan["binding_constraints"].items())
    feasible = "" if plan["feasible"] else ", not feasible"
    return f"{plan['num_gpus']} GPUs, lower bound {plan['lower_bound']}{feasible}, binding: {binding or '-'}"
