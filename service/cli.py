"""The command line: ``loadmaster``.

Exit status 0 is good, 1 a bad outcome of ``doctor``, ``drill`` or ``recalibrate``, 2 bad input with the
reason on stderr.
"""

from __future__ import annotations

import csv
import sys

import typer

from service.commands import (
    agent,
    dataset_info,
    doctor,
    drill,
    examples,
    keys,
    paged,
    place_table,
    plan,
    recalibrate,
    report,
    run,
    scaling,
    surrogate,
    twin,
    versions,
    what_if,
    workload,
)

app = typer.Typer(
    name="loadmaster",
    help="How many GPUs a fleet of LoRA adapters on vLLM needs, which goes where, and how to start them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(run.serve)
app.command()(run.worker)
app.add_typer(agent.agent_app)
app.command(hidden=True)(run.api)
app.command()(run.place)
app.command("re-place")(run.re_place)
app.command("what-if")(what_if.what_if)
app.command("gpus-needed")(run.gpus_needed)
app.command()(twin.simulate)
app.command()(twin.validate)
app.command()(paged.simulate_paged)
app.command()(paged.validate_paged)
app.add_typer(keys.keys_app)
workload.workload_app.command("import")(workload.import_workload)
app.add_typer(workload.workload_app)
plan.plan_app.command("export")(plan.export_plan)
app.add_typer(plan.plan_app)
app.add_typer(versions.surrogates_app)
report.report_app.command("plan")(report.report_plan)
report.report_app.command("validation")(report.report_validation)
app.add_typer(report.report_app)
app.add_typer(twin.calibrate_app)
surrogate.dataset_app.command()(dataset_info.info)
app.add_typer(surrogate.dataset_app)
app.command()(recalibrate.recalibrate)
app.add_typer(recalibrate.jobs_app)
app.command()(surrogate.train)
app.command()(surrogate.evaluate)
app.command("simulate-scaling")(scaling.simulate_scaling)
app.command()(run.bench)
app.command()(drill.drill)
app.command()(doctor.doctor)
app.command("place-table")(place_table.place_table)
app.command()(run.openapi)
examples.show_examples(app)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run_command_line(sys.argv[1:]))


def run_command_line(arguments: list[str]) -> int:
    """Return the exit status of one command line; a caller's mistake is told on stderr."""
    try:
        app(arguments)
    except SystemExit as finished:  # how typer ends, after telling of a mistake in the arguments
        return finished.code if isinstance(finished.code, int) else int(finished.code is not None)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away
        return 0
    except Exception as error:
        reason = _mistake(error)
        if reason is None:
            raise
        print(f"loadmaster: {reason}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _mistake(error: Exception) -> str | None:
    """Return what to tell the caller of an error that is theirs to mend, None for a bug."""
    from pydantic import ValidationError  # noqa: PLC0415 (light imports)

    from models.errors import ModelsError  # noqa: PLC0415
    from placer.errors import PlacerError  # noqa: PLC0415
    from service.client import LoadmasterError  # noqa: PLC0415
    from service.errors import ServiceError  # noqa: PLC0415
    from twin.errors import TwinError  # noqa: PLC0415

    if isinstance(error, ValidationError):  # settings; bodies come as ServiceError
        first = error.errors(include_url=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        return f"LOADMASTER_{name.removeprefix('LOADMASTER_')}: {first['msg']}"
    ours = (ServiceError, LoadmasterError, TwinError, ModelsError, PlacerError)
    if isinstance(error, (*ours, OSError)):  # files that are missing, full disks, services that are away
        return str(error)
    if isinstance(error, (UnicodeDecodeError, csv.Error)):
        return f"a file that was given is not the text it should be: {error}"
    return None


if __name__ == "__main__":
    main()
