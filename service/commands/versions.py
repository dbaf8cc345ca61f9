"""Surrogate versions from the command line: listed, put in force, rolled back."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.

if TYPE_CHECKING:
    from collections.abc import Iterator

surrogates_app = typer.Typer(
    name="surrogates",
    help="Surrogate versions of LOADMASTER_DATA_DIR and its store.",
    no_args_is_help=True,
    add_completion=False,
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ACTOR = "command line"


@surrogates_app.command("list")
def list_versions(json: Json = False) -> None:  # noqa: FBT002
    """Print every version, shipped and published."""
    from service.schemas.versions import SurrogateListSchema, SurrogateSchema  # noqa: PLC0415

    with _versions() as (versions, _):
        told = [SurrogateSchema.from_listed(one) for one in versions.listing()]
    if json:
        _print(SurrogateListSchema(surrogates=told))
        return
    for one in told:
        state = "refused" if one.refused else "active" if one.active else "-"
        created = "-" if one.created_at is None else one.created_at.isoformat()
        typer.echo(f"{one.surrogate_version} {state:8} {one.source:10} {created:26} {one.calibration_id}")


@surrogates_app.command()
def activate(
    surrogate_version: Annotated[str, typer.Argument(help="As listed.", show_default=False)],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Put a version in force; processes on the store follow within LOADMASTER_REFRESH_INTERVAL_S."""
    with _versions() as (versions, audit):
        listed = versions.activate(surrogate_version, actor=ACTOR)
        audit("surrogates activate", listed)
    _tell(listed, json=json)


@surrogates_app.command("roll-back")
def roll_back(
    calibration_id: Annotated[str, typer.Argument(help="As listed.", show_default=False)],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Put in force what was so before."""
    with _versions() as (versions, audit):
        listed = versions.roll_back(calibration_id, actor=ACTOR)
        audit("surrogates roll-back", listed)
    _tell(listed, json=json)


@contextmanager
def _versions() -> Iterator[tuple[Any, Any]]:
    """Open the versions of the data directory, with its store where one runs."""
    from service.context import build_context  # noqa: PLC0415
    from service.observability import configure_logging  # noqa: PLC0415
    from service.services.clock import Clock  # noqa: PLC0415
    from service.services.versions import VersionService, try_refresh  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415
    from service.storage.activations import ActivationStore  # noqa: PLC0415
    from service.storage.audit import AuditLog  # noqa: PLC0415

    settings = Settings()
    configure_logging("error")
    context, clock = build_context(settings), Clock()
    activations = ActivationStore(context.client, settings.activations_path)
    versions = VersionService(context.catalog, context.versions, activations, clock, may_act_alone=True)
    versions.start()
    try_refresh(versions)

    def audit(action: str, listed: Any) -> None:
        AuditLog(settings.audit_path).write(
            at_s=clock.wall_s(),
            actor=ACTOR,
            action=action,
            calibration_id=listed.version.manifest.calibration_id,
            surrogate_version=listed.version.name,
        )

    try:
        yield versions, audit
    finally:
        context.close()


def _tell(listed: Any, *, json: bool) -> None:
    from service.schemas.versions import SurrogateSchema  # noqa: PLC0415

    told = SurrogateSchema.from_listed(listed)
    if json:
        _print(told)
        return
    typer.echo(f"{told.surrogate_version} is in force for {told.calibration_id}")


def _print(answer: Any) -> None:
    sys.stdout.write(answer.model_dump_json() + "\n")
