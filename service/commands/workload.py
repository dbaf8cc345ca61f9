"""Workloads from where they are: logs, metrics, adapters on disk, tables, traces."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated, Any

import typer

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from service.imports.assemble import Imported

workload_app = typer.Typer(
    name="workload", help="Workload documents.", no_args_is_help=True, add_completion=False
)

_SOURCES = "Sources"
_RATES = "How counts become rates"
_PROMETHEUS = "Prometheus"
_GUESSES = "Where no source tells"


def import_workload(  # noqa: PLR0913, PLR0917 (a command's options)
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Files, folders, addresses; csv:, log:, peft:, prometheus: or trace: before one tells what.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="File to write; else standard output.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="As calibrated; else as the adapters name it.")
    ] = None,
    gpu_type: Annotated[str | None, typer.Option(help="As calibrated; else the only one that is.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="FIELD=NAME: the column of a table that holds a field.", rich_help_panel=_SOURCES),
    ] = None,
    line_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression for a log's lines: groups model, time, input_tokens, output_tokens.",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    adapter_column: Annotated[
        str | None, typer.Option(help="Column of a trace that names the adapter.", rich_help_panel=_SOURCES)
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Name that is no adapter.", rich_help_panel=_SOURCES)
    ] = None,
    window_s: Annotated[
        float | None,
        typer.Option(help="Seconds that the counts cover; a log's own if absent.", rich_help_panel=_RATES),
    ] = None,
    quantile: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Plan for this quantile of the slices, not the mean.",
            rich_help_panel=_RATES,
        ),
    ] = None,
    slice_s: Annotated[float, typer.Option(min=1, help="Length of a slice.", rich_help_panel=_RATES)] = 300.0,
    gateway: Annotated[
        str | None,
        typer.Option(
            help="litellm, production-stack, inference-extension(-0); all are tried if absent.",
            rich_help_panel=_PROMETHEUS,
        ),
    ] = None,
    requests_metric: Annotated[
        str | None, typer.Option(help="Another gateway's counter of requests.", rich_help_panel=_PROMETHEUS)
    ] = None,
    input_metric: Annotated[
        str | None, typer.Option(help="Its counter of prompt tokens.", rich_help_panel=_PROMETHEUS)
    ] = None,
    output_metric: Annotated[
        str | None, typer.Option(help="Its counter of generated tokens.", rich_help_panel=_PROMETHEUS)
    ] = None,
    label: Annotated[
        str, typer.Option(help="Their label that names the adapter.", rich_help_panel=_PROMETHEUS)
    ] = "model",
    selector: Annotated[
        str, typer.Option(help='Label matchers, such as namespace="llm".', rich_help_panel=_PROMETHEUS)
    ] = "",
    end_s: Annotated[
        float | None,
        typer.Option(
            help="End of the window, seconds since 1970; now if absent.", rich_help_panel=_PROMETHEUS
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Of adapters without one.", rich_help_panel=_GUESSES)
    ] = None,
    input_tokens: Annotated[
        float | None,
        typer.Option(min=1, help="Else the mean of the others, or ShareGPT's 223.", rich_help_panel=_GUESSES),
    ] = None,
    output_tokens: Annotated[
        float | None,
        typer.Option(min=1, help="Else the mean of the others, or ShareGPT's 197.", rich_help_panel=_GUESSES),
    ] = None,
    unseen_rate_rps: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Of adapters not asked for; else one a window; 0: none.",
            rich_help_panel=_GUESSES,
        ),
    ] = None,
    json: Annotated[  # noqa: FBT002
        bool, typer.Option("--json", help="With --out: print what was guessed and dropped as JSON.")
    ] = False,
) -> None:
    """Make a workload from logs, metrics, adapters on disk, tables or traces, alone or together.

    Where several sources tell the same of an adapter, the first one given counts. What was guessed and
    what was left out is counted on standard error.
    """
    import orjson  # noqa: PLC0415

    from service.imports.assemble import Guesses, assemble  # noqa: PLC0415
    from service.imports.prometheus import Counters  # noqa: PLC0415
    from service.imports.sources import HowToRead, counters_of, log_bytes, sources_of  # noqa: PLC0415
    from service.imports.tally import RateRule  # noqa: PLC0415
    from service.schemas.workload import WorkloadSchema  # noqa: PLC0415

    custom = None
    if requests_metric is not None:
        custom = Counters(
            name="custom",
            label=label,
            requests=requests_metric,
            input_tokens=input_metric,
            output_tokens=output_metric,
        )
    with _progress(log_bytes(sources)) as progress:
        how = HowToRead(
            rule=RateRule(window_s=window_s, quantile=quantile, slice_s=slice_s),
            columns=_mapping(column or []),
            line_pattern=line_pattern,
            adapter_column=adapter_column,
            counters=counters_of(gateway, custom),
            selector=selector,
            at_s=end_s,
            token=os.environ.get("LOADMASTER_PROMETHEUS_TOKEN"),
            progress=progress,
        )
        told = [source.read() for source in sources_of(sources, how)]
    imported = assemble(
        told,
        Guesses(
            base_model=base_model,
            gpu_type=gpu_type,
            rank=rank,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            unseen_rate_rps=unseen_rate_rps,
            exclude=frozenset(exclude or []),
        ),
    )
    text = orjson.dumps(imported.document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    WorkloadSchema.parse(text).to_domain()  # what we write is what `place` takes
    _tell(imported)
    if out is None:
        sys.stdout.buffer.write(text)
        return
    out.write_bytes(text)
    if json:
        summary = {
            "adapters": len(imported.document["adapters"]),
            "guessed": imported.guessed,
            "dropped": imported.dropped,
            "notes": imported.notes,
        }
        sys.stdout.buffer.write(orjson.dumps(summary, option=orjson.OPT_APPEND_NEWLINE))


def _mapping(pairs: list[str]) -> dict[str, str]:
    from service.errors import UsageError  # noqa: PLC0415

    mapping = {}
    for pair in pairs:
        field_name, equals, name = pair.partition("=")
        if not equals:
            raise UsageError(f"must be FIELD=NAME, got {pair!r}", field="--column")
        mapping[field_name] = name
    return mapping


def _tell(imported: Imported) -> None:
    """Say on standard error what came in, what was guessed and what was left out."""
    adapters = imported.document["adapters"]
    rate_rps = sum(row["rate_rps"] for row in adapters)
    typer.echo(f"{len(adapters)} adapters, {rate_rps:.6g} requests/s together", err=True)
    for note in imported.notes:
        typer.echo(f"note: {note}", err=True)
    for what, count in imported.guessed.items():
        typer.echo(f"guessed: {count} x {what}", err=True)
    for what, count in imported.dropped.items():
        typer.echo(f"dropped: {count} x {what}", err=True)


@contextmanager
def _progress(num_bytes: int) -> Iterator[Callable[[int], Any]]:
    """Yield what advances a bar over that many bytes, on a terminal's standard error."""
    if not num_bytes or not sys.stderr.isatty():
        yield lambda _num_bytes: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=num_bytes)
        yield lambda read: bar.advance(task, read)
