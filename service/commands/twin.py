"""The twin from the command line: one simulation, calibration, and the test on measured runs."""

from __future__ import annotations

import json as json_format
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from twin.domain import Calibration
    from twin.measured import MeasuredRun
    from twin.servegen import ServeGenClients

calibrate_app = typer.Typer(
    name="calibrate", help="Calibrations from measured tables.", no_args_is_help=True, add_completion=False
)

Measurements = Annotated[
    Path, typer.Option("--measurements", help="Folder of measured tables.", show_default=False)
]
Runs = Annotated[Path, typer.Option("--runs", help="CSV of measured runs.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def simulate(  # noqa: PLR0913, PLR0917 (a command's options)
    workload: Annotated[Path, typer.Option(help="Workload JSON, as for POST /place.", show_default=False)],
    max_loras: Annotated[int, typer.Option(help="Adapter slots.", show_default=False)],
    calibration: Annotated[str | None, typer.Option(help="Id or file; the workload's own if absent.")] = None,
    max_lora_rank: Annotated[int | None, typer.Option(help="The smallest slot for all if absent.")] = None,
    horizon_s: Annotated[float, typer.Option(help="Seconds measured.")] = 3600.0,
    warmup_s: Annotated[float, typer.Option(help="Seconds simulated before them, not measured.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Requests to replay: our CSV, Azure, Mooncake, or ServeGen's clients; gzip or not."
        ),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(min=3, help="Draws with other seeds and step laws, for an interval of throughput."),
    ] = None,
    trace_format: Annotated[
        str | None, typer.Option(help="loadmaster, seconds, azure or mooncake; by its columns if absent.")
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Simulate one GPU that serves the whole workload."""
    from service.schemas.border import parse  # noqa: PLC0415
    from service.schemas.simulation import report_document, server_for  # noqa: PLC0415
    from service.schemas.workload import WorkloadSchema  # noqa: PLC0415
    from twin.errors import InvalidInputError  # noqa: PLC0415
    from twin.fleet_traces import stream_of  # noqa: PLC0415
    from twin.memory import required_kv_tokens  # noqa: PLC0415
    from twin.servegen import is_client_file, with_clients  # noqa: PLC0415
    from twin.simulate import simulate as run_twin  # noqa: PLC0415
    from twin.simulate import simulate_requests  # noqa: PLC0415
    from twin.traces import cut_to_model, read_any_trace  # noqa: PLC0415
    from twin.uncertainty import throughput_interval  # noqa: PLC0415

    if trace is None and trace_format is not None:
        raise InvalidInputError("trace_format", "must be left out without a trace")
    asked = parse(WorkloadSchema, workload.read_bytes()).to_domain()
    known = _calibration_for(calibration, asked.base_model, asked.gpu_type)
    server = server_for(int(asked.rank.max()), max_loras=max_loras, max_lora_rank=max_lora_rank)
    if trace is not None and is_client_file(trace):
        asked, trace = with_clients(asked, _clients(trace)), None
    if draws is not None and trace is not None:
        raise InvalidInputError("draws", "must be left out with a trace: its requests are given")
    if trace is None:
        report = run_twin(asked, server, known, horizon_s=horizon_s, warmup_s=warmup_s, seed=seed)
    else:
        max_model_len = required_kv_tokens(known, server.max_model_len)
        requests = stream_of(read_any_trace(trace, trace_format=trace_format), asked, seed=seed)
        requests, num_cut = cut_to_model(requests, max_model_len)
        num_after = int((requests.arrival_ns >= round((warmup_s + horizon_s) * 1e9)).sum())
        typer.echo(
            f"{trace.name}: {requests.num_requests} requests, {num_after} of them after the window, "
            f"{num_cut} cut to {max_model_len} tokens",
            err=True,
        )
        report = simulate_requests(
            requests, asked.rank, server, known, horizon_s=horizon_s, warmup_s=warmup_s
        )
    document = dict(report_document(report, asked.adapter_ids))
    if draws is not None:
        interval = throughput_interval(
            lambda law, draw: run_twin(
                asked, server, law, horizon_s=horizon_s, warmup_s=warmup_s, seed=seed + draw
            ),
            known,
            offered_tok_s=asked.offered_tok_s,
            num_draws=draws,
        )
        document["interval"] = asdict(interval)
    _print(document, json=json)


def _clients(table: Path) -> ServeGenClients:
    """Read ServeGen's clients, and say which were left out."""
    from twin.servegen import read_clients  # noqa: PLC0415

    clients = read_clients(table)
    typer.echo(
        f"{table.name}: {len(clients.adapters)} clients, without {clients.num_without_lengths} of unknown "
        f"lengths and {clients.num_without_requests} that send nothing",
        err=True,
    )
    return clients


def validate(
    runs: Runs,
    calibration: Annotated[
        list[str] | None, typer.Option(help="Ids or files; the shipped ones if absent.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Markdown to write, with plots beside it.")] = None,
    noise_floor: Annotated[  # noqa: FBT002
        bool, typer.Option("--noise-floor", help="Also compare the twin with another draw of itself.")
    ] = False,
    intervals: Annotated[
        int | None, typer.Option(min=3, help="Draws of each run, to see whether predicted intervals hold.")
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Compare the twin with measured runs, one simulation a run, the one-line baseline beside it."""
    from twin.measured import read_runs  # noqa: PLC0415
    from twin.validate import predict_runs, summary  # noqa: PLC0415

    measured = read_runs(runs)
    known = calibrations_for(measured, calibration)
    predictions = predict_runs(with_progress(measured), lambda run: known[run.model])
    document = summary(predictions, measured)
    threads = os.cpu_count() or 1
    if noise_floor:
        from twin.noise import noise_floor as floor_of  # noqa: PLC0415

        document["noise_floor"] = {"by_model": floor_of(predictions, known, threads=threads)}
    if intervals is not None:
        from twin.coverage import coverage, predict_intervals  # noqa: PLC0415

        drawn = predict_intervals(measured, known, num_draws=intervals, threads=threads)
        document["intervals"] = coverage(drawn)
    if report is not None:
        from twin.validation_report import write_report  # noqa: PLC0415

        write_report(report, predictions, document, command=_command_line())
    _print(document, json=json)


@calibrate_app.command()
def fit(
    measurements: Measurements,
    out: Annotated[
        Path, typer.Option(help="JSON to write; a folder for several models.", show_default=False)
    ],
    model: Annotated[str | None, typer.Option(help="Base model; all in the tables if absent.")] = None,
    model_config: Annotated[
        Path | None, typer.Option(help="The model's config.json, for its shapes.")
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Fit the four estimators of each base model and say how far each is from its data."""
    from twin.calibration import calibration_to_json  # noqa: PLC0415
    from twin.errors import InvalidInputError  # noqa: PLC0415
    from twin.fitting.calibrate import fit_calibration, measured_models  # noqa: PLC0415

    models = [model] if model else list(measured_models(measurements))
    if len(models) > 1 and out.suffix == ".json":
        raise InvalidInputError("out", f"must be a folder: the tables hold {', '.join(models)}")
    shape = _shape(model_config)
    document = {}
    for name in models:
        fitted = fit_calibration(
            measurements, name, model=shape, command=_command_line(), report=_say
        ).calibration
        path = out if out.suffix == ".json" else out / f"{fitted.calibration_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(calibration_to_json(fitted), encoding="utf-8")
        document[fitted.calibration_id] = {"file": str(path), "errors": dict(fitted.errors)}
    _print(document, json=json)


@calibrate_app.command()
def report(
    measurements: Measurements,
    calibration: Annotated[str, typer.Option(help="The calibration fitted to it.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Markdown to write, a plot beside it.", show_default=False)],
) -> None:
    """Write a page on an agent's measurement set: each launch, state and load beside the fitted laws."""
    from twin.calibration import load_calibration  # noqa: PLC0415
    from twin.errors import InvalidInputError  # noqa: PLC0415
    from twin.fitting.points_report import write_points_report  # noqa: PLC0415
    from twin.measurement_set import read_manifest  # noqa: PLC0415

    manifest = read_manifest(measurements)
    if manifest is None:
        raise InvalidInputError("measurements", f"must be an agent's set, {measurements} has no manifest")
    write_points_report(out, measurements, manifest, load_calibration(calibration))


@calibrate_app.command("cross-validate")
def cross_validate(measurements: Measurements, json: Json = False) -> None:  # noqa: FBT002
    """Solve for the step law without each workload group in turn; validate on the group left out.

    The other laws, and the states that runs are matched to, come from all measurements.
    """
    from twin.fitting.calibrate import fit_calibration, measured_models, without_group  # noqa: PLC0415
    from twin.measured import read_runs  # noqa: PLC0415
    from twin.validate import predict_runs, summary  # noqa: PLC0415

    runs = read_runs(measurements / "runs.csv")
    left_out = {}
    for name in measured_models(measurements):
        fitted = fit_calibration(measurements, name, command=_command_line(), report=_say)
        for group in sorted({run.group for run in runs if run.model == name}):
            left_out[name, group] = without_group(fitted, group)
    predictions = predict_runs(with_progress(runs), lambda run: left_out[run.model, run.group])
    _print(summary(predictions, runs), json=json)


def _calibration_for(id_or_path: str | None, base_model: str, gpu_type: str) -> Calibration:
    from twin.calibration import load_calibration, newest_first, shipped_calibration_ids  # noqa: PLC0415
    from twin.errors import UnknownCalibrationError  # noqa: PLC0415

    if id_or_path is not None:
        return load_calibration(id_or_path)
    for calibration_id in newest_first(shipped_calibration_ids()):
        if calibration_id.startswith(f"{gpu_type}/{base_model}/"):
            return load_calibration(calibration_id)
    raise UnknownCalibrationError(f"no calibration of {gpu_type}/{base_model} is shipped: give --calibration")


def calibrations_for(
    runs: Sequence[MeasuredRun], ids_or_paths: Sequence[str] | None
) -> dict[str, Calibration]:
    """Return the calibration of each base model in runs: those named, else the shipped ones."""
    from twin.calibration import load_calibration, shipped_calibration_ids  # noqa: PLC0415
    from twin.errors import UnknownCalibrationError  # noqa: PLC0415

    known = {c.base_model: c for c in map(load_calibration, ids_or_paths or shipped_calibration_ids())}
    if missing := sorted({run.model for run in runs} - known.keys()):
        raise UnknownCalibrationError(f"no calibration of {missing[0]}: give --calibration")
    return known


def with_progress(runs: Sequence[MeasuredRun]) -> Iterable[MeasuredRun]:
    """Return the runs; on a terminal a bar on standard error tells how far they are."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal:
        return runs
    # Drawing takes time of the one core that is measured: it is done seldom.
    return track(runs, description="simulating", console=console, transient=True, refresh_per_second=2)


def _shape(model_config: Path | None) -> Any:
    if model_config is None:
        return None
    from twin.errors import InvalidInputError  # noqa: PLC0415
    from twin.shapes import shape_from_config  # noqa: PLC0415

    try:
        return shape_from_config(json_format.loads(model_config.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError("model_config", f"cannot be read: {error}") from error


def _command_line() -> str:
    return shlex.join(["loadmaster", *sys.argv[1:]])


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print(document: Mapping[str, Any], *, json: bool) -> None:
    if json:
        typer.echo(json_format.dumps(document))
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.pretty import Pretty  # noqa: PLC0415

    Console().print(Pretty(dict(document), expand_all=True))
