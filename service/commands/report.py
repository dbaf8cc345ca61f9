"""Reports as single HTML files."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twin.domain import Calibration
    from twin.measured import MeasuredRun
    from twin.validate import Prediction

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
    from service.schemas.border import parse  # noqa: PLC0415
    from service.schemas.plan import PlanSchema  # noqa: PLC0415

    out.write_text(plan_report(parse(PlanSchema, read_input(plan))), encoding="utf-8")


def report_validation(
    runs: Annotated[Path, typer.Option("--runs", help="CSV of measured runs.", show_default=False)],
    out: Out,
    calibration: Annotated[
        list[str] | None, typer.Option(help="Ids or files; the shipped ones if absent.")
    ] = None,
    surrogate: Annotated[
        list[Path] | None,
        typer.Option(help="Directory of a surrogate; may be repeated.", show_default="shipped ones"),
    ] = None,
) -> None:
    """Write how well twin and surrogate predict measured runs, the one-line baseline beside them."""
    from service.commands.twin import calibrations_for, with_progress  # noqa: PLC0415
    from service.reports.validation import TREE, TWIN, validation_report  # noqa: PLC0415
    from twin.measured import read_runs  # noqa: PLC0415
    from twin.validate import predict_runs  # noqa: PLC0415

    measured = read_runs(runs)
    known = calibrations_for(measured, calibration)
    predictors = {TWIN: predict_runs(with_progress(measured), lambda run: known[run.model])}
    if trees := _tree_predictions(measured, known, surrogate):
        predictors[TREE] = trees
    command = shlex.join(["loadmaster", *sys.argv[1:]])
    out.write_text(validation_report(predictors, command), encoding="utf-8")


def _tree_predictions(
    runs: Sequence[MeasuredRun], known: Mapping[str, Calibration], directories: list[Path] | None
) -> list[Prediction]:
    """Return what surrogates say of the runs; those of another calibration than the twin's are left out."""
    from models.evaluation import TreePredictor, predict_run  # noqa: PLC0415
    from service.commands.surrogate import subjects_of  # noqa: PLC0415
    from twin.calibration import calibration_sha256  # noqa: PLC0415

    predictions = []
    subjects = {model: subject for model, (subject, _) in subjects_of(directories).items()}
    for model, calibration in known.items():
        subject = subjects.get(model)
        if subject is None or calibration_sha256(subject.calibration) != calibration_sha256(calibration):
            typer.echo(f"{model}: no surrogate of {calibration.calibration_id} is compared", err=True)
            continue
        tree = TreePredictor(surrogate=subject.surrogate)
        predictions += [predict_run(tree, run, calibration) for run in runs if run.model == model]
    return predictions
