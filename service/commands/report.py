"""Reports as single HTML files."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.

report_app = typer.Typer(
    name="report",
    help="Reports as single HTML files that fetch nothing; they need the `train` extra.",
    no_args_is_help=True,
    add_completion=False,
)

Out = Annotated[Path, typer.Option("--out", help="HTML file to write.", show_default=False)]


def report_plan(
    plan: Annotated[
        Path,
        typer.Argument(help="An answer of `place`, or - for standard input.", show_default=False),
    ],
    out: Out,
) -> None:
    """Write what a plan is: GPUs, limits, predictions, what was not placed, and where each adapter is."""
    from service.commands.run import read_input  # noqa: PLC0415
    from service.reports.plan import plan_report  # noqa: PLC0415
    from service.schemas import PlanSchema, parse  # noqa: PLC0415

    out.write_text(plan_report(parse(PlanSchema, read_input(plan))), encoding="utf-8")


def report_validation(
    runs: Annotated[Path, typer.Option("--runs", help="CSV of measured runs.", show_default=False)],
    out: Out,
    calibration: Annotated[
        list[str] | None, typer.Option(help="Ids or files; the shipped ones if absent.")
    ] = None,
) -> None:
    """Write how well the twin predicts measured runs, one simulation a run."""
    from service.commands.twin import calibrations_for  # noqa: PLC0415
    from service.reports.validation import validation_report  # noqa: PLC0415
    from twin.measured import read_runs  # noqa: PLC0415
    from twin.validate import predict_runs, summary  # noqa: PLC0415

    measured = read_runs(runs)
    known = calibrations_for(measured, calibration)
    predictions = predict_runs(measured, lambda run: known[run.model])
    command = shlex.join(["loadmaster", *sys.argv[1:]])
    text = validation_report(predictions, summary(predictions, measured), command)
    out.write_text(text, encoding="utf-8")
