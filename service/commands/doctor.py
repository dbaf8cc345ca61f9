"""Is this installation sound, and what to do where it is not."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.doctor.finding import Finding
    from service.settings import Settings

COLOURS = {"good": "green", "warning": "yellow", "bad": "red"}


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """Check files, disk, keys, port, store, clock, workers, agents, calibrations, surrogates and kernels.

    The settings are those of `serve`. Exit status 1 where something is bad; warnings leave it 0.
    """
    import orjson  # noqa: PLC0415

    from service.observability import configure_logging  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415

    settings = Settings()
    configure_logging("error")
    findings = list(_findings(settings))
    sound = not any(finding.verdict == "bad" for finding in findings)
    if json:
        document = {"sound": sound, "findings": [asdict(finding) for finding in findings]}
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
    else:
        _show(findings)
    raise typer.Exit(0 if sound else 1)


def _findings(settings: Settings) -> Iterator[Finding]:
    from service.doctor import installation, machine  # noqa: PLC0415

    yield machine.file_limit()
    yield machine.data_directory(settings)
    yield machine.keys(settings)
    yield machine.port(settings)
    yield from installation.store(settings)
    yield installation.agents(settings)
    yield from installation.targets()
    yield machine.kernels()


def _show(findings: list[Finding]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table("check", "", "found", "do")
    for finding in findings:
        verdict = Text(finding.verdict, style=COLOURS[finding.verdict])
        table.add_row(finding.check, verdict, Text(finding.told), Text(finding.do))
    Console().print(table)
