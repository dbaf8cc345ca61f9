"""``loadmaster place-table``: the records of several `bench place`, summed."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import Annotated, Any

import typer

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.


def place_table(
    records: Annotated[list[Path], typer.Argument(help="Files that `bench place --json` wrote, one a seed.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 (the flag's name)
) -> None:
    """Sum the records of `bench place` over seeds: the table of docs/placement.md, as Markdown."""
    from dataclasses import asdict  # noqa: PLC0415

    import orjson  # noqa: PLC0415

    from placer import bench_table  # noqa: PLC0415

    instances = [record for path in records for record in _instances(path)]
    bench_table.check_records(instances)
    if not json:
        typer.echo(bench_table.markdown(instances))
        return
    figures = {
        "rows": [asdict(row) for row in bench_table.rows(instances)],
        "totals": bench_table.totals(instances),
        "beaten": [asdict(case) for case in bench_table.beaten(instances)],
    }
    sys.stdout.buffer.write(orjson.dumps(figures, option=orjson.OPT_NON_STR_KEYS) + b"\n")


def _instances(path: Path) -> list[Any]:
    import orjson  # noqa: PLC0415

    from service.errors import UsageError  # noqa: PLC0415

    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UsageError(f"must be JSON: {error}", field=str(path)) from error
    found = value.get("instances") if isinstance(value, dict) else None
    if not isinstance(found, list) or not found:
        raise UsageError("must hold the instances of bench place", field=str(path))
    return found
