"""Recalibration and jobs from the command line."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.factory import Services
    from service.services.jobs import JobService
    from service.services.placement import Plan
    from service.storage.recalibrations import Recalibration

jobs_app = typer.Typer(
    name="jobs", help="Jobs of the store of LOADMASTER_DATA_DIR.", no_args_is_help=True, add_completion=False
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="As listed.", show_default=False)]
ACTOR = "command line"
POLL_S = 0.5
FAILED = 1


def recalibrate(  # noqa: PLR0913, PLR0917 (a command's options)
    measurements: Annotated[
        Path | None,
        typer.Option(help="Folder of measured tables; without it agents measure.", show_default=False),
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="Needed where the tables hold several.")] = None,
    gpu_type: Annotated[str | None, typer.Option(help="That of the shipped measurements if absent.")] = None,
    engine_version: Annotated[
        str | None, typer.Option(help="That of the shipped measurements if absent.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=64, help="Servers to simulate; LOADMASTER_RECALIBRATION_ROWS if absent.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    refresh: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--refresh", help="Measure nothing: teach anew with what the plan in force runs."),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it until it ends.")] = False,  # noqa: FBT002
    json: Json = False,  # noqa: FBT002
) -> None:
    """From measurements to a published surrogate: what POST /recalibrate does, on LOADMASTER_DATA_DIR.

    With --refresh the calibration stays, and what the plan in force runs is simulated beside the design.

    Where no service runs on it, store and workers run for as long as this takes. Exit status 1 where the
    candidate was rejected or the recalibration failed.
    """
    from service.errors import UsageError  # noqa: PLC0415
    from service.schemas.recalibration import RecalibrateRequest  # noqa: PLC0415
    from service.unattended import unattended  # noqa: PLC0415
    from twin.measured import DEFAULT_ENGINE_VERSION, DEFAULT_GPU_TYPE  # noqa: PLC0415

    with unattended(_settings()) as (services, is_ours):
        set_id, model = None, base_model
        if measurements is not None:
            known, ignored = services.measurements.add_directory(measurements)
            set_id = known.set_id
            if ignored:
                typer.echo(f"not part of a measurement set: {', '.join(ignored)}", err=True)
            if model is None and len(known.base_models) == 1:
                model = known.base_models[0]
            if model is None:
                raise UsageError(f"must be one of {', '.join(known.base_models)}", field="--base-model")
        plan = _plan_in_force(services, model, gpu_type) if refresh else None
        if plan is not None:
            model, gpu_type = plan.problem.workload.base_model, plan.problem.workload.gpu_type
        if model is None:
            raise UsageError("must be given", field="--base-model")
        asked = RecalibrateRequest(
            base_model=model,
            gpu_type=gpu_type or DEFAULT_GPU_TYPE,
            engine_version=engine_version or DEFAULT_ENGINE_VERSION,
            measurement_set=set_id,
            num_rows=rows,
            seed=seed,
        )
        request = asked.to_request()
        if plan is None:
            job = services.recalibrations.submit(request, actor=ACTOR)
        else:
            job = services.refresh.ask(plan, request, actor=ACTOR)
        if wait or is_ours:
            job = _follow(services, job)
    _tell(job, json=json)
    if job.stage in {"rejected", "failed", "cancelled"}:
        raise typer.Exit(FAILED)


def _plan_in_force(services: Services, base_model: str | None, gpu_type: str | None) -> Plan:
    """Return the plan of the store's workload that is meant, made with the surrogate in force."""
    import asyncio  # noqa: PLC0415

    services.versions.refresh()
    asyncio.run(services.fleet.refresh())
    return services.fleet.plan_of(base_model, gpu_type)


def _follow(services: Services, job: Recalibration) -> Recalibration:
    """Wait until a recalibration ends, and tell what changes on stderr."""
    told = ""
    while True:
        last = job.stages[-1]
        line = f"{last.stage} {100 * last.progress:3.0f} % {last.detail}".rstrip()
        if line != told:
            typer.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)
            told = line
        if job.has_ended:
            return job
        time.sleep(POLL_S)
        services.recalibrations.tick()
        job = services.recalibrations.get(job.job_id)


def _tell(job: Recalibration, *, json: bool) -> None:
    from service.schemas.jobs import JobSchema  # noqa: PLC0415
    from service.services.jobs import record_of  # noqa: PLC0415

    if json:
        sys.stdout.write(JobSchema.from_record(record_of(job)).model_dump_json() + "\n")
        return
    typer.echo(f"{job.job_id}: {job.stage} {job.stages[-1].detail}".rstrip())
    if job.reason:
        typer.echo(f"  {job.reason}")
    for stage in job.stages:
        if stage.ended_at_s is not None and stage.ended_at_s > stage.started_at_s:
            typer.echo(f"  {stage.stage:11} {stage.ended_at_s - stage.started_at_s:7.1f} s")


@jobs_app.command("list")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="queued, started, finished, failed, cancelled.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 50,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Print the newest jobs."""
    with _jobs() as jobs:
        _print_jobs(jobs.latest(limit, _state(state)), json=json)


@jobs_app.command("dead-letters")
def dead_letters(json: Json = False) -> None:  # noqa: FBT002
    """Print every job that failed for good, with its error."""
    with _jobs() as jobs:
        _print_jobs(jobs.latest(1000, "failed"), json=json)


@jobs_app.command()
def retry(job_id: JobId, json: Json = False) -> None:  # noqa: FBT002
    """Try a job again that failed or was cancelled."""
    with _jobs() as jobs:
        _print_jobs([jobs.retry(job_id)], json=json)


@jobs_app.command()
def cancel(job_id: JobId, json: Json = False) -> None:  # noqa: FBT002
    """End a job that waits or runs."""
    with _jobs() as jobs:
        _print_jobs([jobs.cancel(job_id)], json=json)


def _print_jobs(records: Any, *, json: bool) -> None:
    from service.schemas.jobs import JobListSchema, JobSchema  # noqa: PLC0415

    told = [JobSchema.from_record(record) for record in records]
    if json:
        sys.stdout.write(JobListSchema(jobs=told).model_dump_json() + "\n")
        return
    for job in told:
        created = "-" if job.created_at is None else job.created_at.isoformat(timespec="seconds")
        state = job.stage or job.state
        typer.echo(f"{job.job_id} {job.kind} {state} {created} {job.error or job.detail or ''}".rstrip())


def _state(text: str | None) -> Any:
    from service.errors import UsageError  # noqa: PLC0415
    from service.storage.jobs import JobState  # noqa: PLC0415

    known = get_args(JobState)
    if text not in {None, *known}:
        raise UsageError(f"must be one of {', '.join(known)}, got {text!r}", field="--state")
    return text


@contextmanager
def _jobs() -> Iterator[JobService]:
    """Open the jobs of a store that runs."""
    from service.factory import build_jobs  # noqa: PLC0415
    from service.storage.connection import connect  # noqa: PLC0415

    settings = _settings()
    with connect(settings) as client:
        yield build_jobs(client, settings)


def _settings() -> Any:
    from service.observability import configure_logging  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415

    configure_logging("error")
    return Settings()
