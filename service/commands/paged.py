"""The paged engine from the command line: one simulation, its fit, and the test on measured runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.twin import Json, Measurements, Runs, _command_line, _print, _say, calibrate_app

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.

if TYPE_CHECKING:
    from twin.paged_domain import PagedCalibration

Calibration = Annotated[
    str | None, typer.Option("--calibration", help="Id or file of a paged calibration; the shipped one.")
]
WorkloadFile = Annotated[Path, typer.Option("--workload", help="Workload JSON, as for POST /place.")]
LeaveOut = Annotated[
    bool, typer.Option("--leave-one-rate-out", help="Also fit without each rate in turn (minutes).")
]
Out = Annotated[Path, typer.Option("--out", help="JSON to write, or a folder.", show_default=False)]
Form = Annotated[str | None, typer.Option("--form", help="Terms of the law; the shipped form if absent.")]


def simulate_paged(  # noqa: PLR0913, PLR0917 (a command's options)
    workload: WorkloadFile,
    max_total_token_num: Annotated[
        int | None, typer.Option(help="Tokens of the pool; the measured one if absent.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Limit that each request declares; its own length if absent.")
    ] = None,
    calibration: Calibration = None,
    horizon_s: Annotated[float, typer.Option(help="Simulated seconds.")] = 3600.0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Simulate one S-LoRA server (unified paging, no slots) that serves the whole workload."""
    from service.schemas.border import parse  # noqa: PLC0415
    from service.schemas.simulation import report_document  # noqa: PLC0415
    from service.schemas.workload import WorkloadSchema  # noqa: PLC0415
    from twin.paged_domain import PagedServerConfig  # noqa: PLC0415
    from twin.simulate import simulate  # noqa: PLC0415

    asked = parse(WorkloadSchema, workload.read_bytes()).to_domain()
    known = _calibration_of(calibration)
    server = PagedServerConfig(
        max_total_token_num=known.pool_tokens if max_total_token_num is None else max_total_token_num,
        max_new_tokens=max_new_tokens,
    )
    report = simulate(asked, server, known, horizon_s=horizon_s, seed=seed)
    _print(report_document(report, asked.adapter_ids), json=json)


def validate_paged(
    runs: Runs,
    calibration: Calibration = None,
    leave_one_rate_out: LeaveOut = False,  # noqa: FBT002
    form: Form = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated requests.")] = 1,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Compare the paged twin with measured S-LoRA runs, the one-line baseline beside it."""
    from twin.paged_measured import read_paged_runs  # noqa: PLC0415
    from twin.paged_validate import (  # noqa: PLC0415
        baseline_paged_predictions,
        paged_document,
        predict_paged_runs,
    )
    from twin.paged_validate import leave_one_rate_out as predict_left_out  # noqa: PLC0415

    measured = read_paged_runs(runs)
    known = _calibration_of(calibration)
    document = {
        "fitted": paged_document(predict_paged_runs(measured, lambda _: known, seed=seed), by_run=json)
    }
    if leave_one_rate_out:
        from twin.fitting.paged import FORM, fit_paged  # noqa: PLC0415

        rows = predict_left_out(
            measured, lambda rest: fit_paged(rest, form=form or FORM, report=_say), seed=seed
        )
        document["left_out"] = paged_document(rows, by_run=json)
    document["baseline"] = paged_document(baseline_paged_predictions(measured), by_run=False)
    _print(document, json=json)


@calibrate_app.command("fit-paged")
def fit_paged_command(
    measurements: Measurements,
    out: Out,
    form: Form = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Fit the laws of an S-LoRA server to its measured runs and say how far they are from them."""
    from twin.fitting.paged import FORM, fit_paged  # noqa: PLC0415
    from twin.paged_calibration import paged_calibration_to_json  # noqa: PLC0415
    from twin.paged_measured import read_paged_runs  # noqa: PLC0415

    fitted = fit_paged(
        read_paged_runs(measurements / "runs.csv"),
        form=form or FORM,
        data=f"{measurements.name}: runs",
        command=_command_line(),
        report=_say,
    )
    path = out if out.suffix == ".json" else out / f"{fitted.calibration_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(paged_calibration_to_json(fitted), encoding="utf-8")
    _print(
        {
            fitted.calibration_id: {
                "file": str(path),
                "errors": dict(fitted.errors),
                "standard_errors": dict(fitted.standard_errors),
            }
        },
        json=json,
    )


def _calibration_of(id_or_path: str | None) -> PagedCalibration:
    from twin.paged_calibration import (  # noqa: PLC0415
        load_paged_calibration,
        shipped_paged_calibration_ids,
    )

    return load_paged_calibration(id_or_path or shipped_paged_calibration_ids()[0])
