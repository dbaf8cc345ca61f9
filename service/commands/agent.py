"""The agent: the process that measures for a service, and a calibration by hand."""

from __future__ import annotations

import logging
from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import Annotated, Any

import typer

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.

agent_app = typer.Typer(
    name="agent", help="Measure real vLLM servers on this machine's GPU.", add_completion=False
)

BaseModel = Annotated[
    str, typer.Option(help="One of LOADMASTER_AGENT_MODELS, or small-random-llama.", show_default=False)
]
Budget = Annotated[float | None, typer.Option(min=0.1, help="Minutes at most.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and measure nothing.")]


@agent_app.callback(invoke_without_command=True)
def agent(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="The service.", show_default=False)] = None,
) -> None:
    """Run an agent: register with a service, measure what it asks for, until told to end.

    Settings are LOADMASTER_AGENT_* variables; the key is LOADMASTER_AGENT_KEY.
    """
    if context.invoked_subcommand is not None:
        return
    from service.agent.process import run_agent  # noqa: PLC0415

    run_agent(_settings(url=url))


@agent_app.command()
def calibrate(
    base_model: BaseModel,
    out: Annotated[Path, typer.Option(help="Directory of the measurement set.", show_default=False)],
    budget_minutes: Budget = None,
    dry_run: DryRun = False,  # noqa: FBT002 (the flag's name)
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """Measure one base model here, without a service, and write a set for `calibrate fit`.

    Called again with the same directory it goes on where it stopped.
    """
    settings = _settings(budget_minutes=budget_minutes)
    if dry_run:
        from service.agent.plan import plan_lines  # noqa: PLC0415

        typer.echo("\n".join(plan_lines(settings)))
        return
    from dataclasses import asdict  # noqa: PLC0415

    import orjson  # noqa: PLC0415

    from service.agent.local import calibrate_locally  # noqa: PLC0415

    summary = calibrate_locally(settings, base_model, out)
    if json:
        typer.echo(orjson.dumps(asdict(summary)).decode())
        return
    typer.echo(f"{summary.num_measured} points measured, {summary.num_known} known before")
    for line in summary.uncertain:
        typer.echo(f"uncertain: {line}")


def _settings(**changes: Any) -> Any:
    from service.agent.settings import AgentSettings  # noqa: PLC0415
    from service.observability import configure_logging  # noqa: PLC0415

    configure_logging("info")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request of thousands
    return AgentSettings(**{name: value for name, value in changes.items() if value is not None})
