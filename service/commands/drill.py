"""Drills from the command line."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer


class DrillPart(StrEnum):
    """What `drill` tries."""

    FAULTS = "faults"
    HOSTILE = "hostile"
    RECALIBRATION = "recalibration"


def drill(
    part: Annotated[DrillPart | None, typer.Argument(help="What to try; all of it if not given.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests of `drill hostile`.")] = 10_000,
    load_s: Annotated[float, typer.Option(min=0, help="Load before each fault of `drill faults`.")] = 5.0,
    rows: Annotated[int, typer.Option(min=64, help="Servers of `drill recalibration`.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same requests.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on one line.")] = False,  # noqa: FBT002
) -> None:
    """Try a service of its own under faults and hostile requests; exit status 1 where it does not hold."""
    import orjson  # noqa: PLC0415 (light imports)

    parts = list(DrillPart) if part is None else [part]
    found = {str(each): _drilled(each, requests, load_s, rows, seed) for each in parts}
    options = orjson.OPT_APPEND_NEWLINE | (0 if json else orjson.OPT_INDENT_2)
    sys.stdout.buffer.write(orjson.dumps(found, option=options))
    if not all(result["passed"] for result in found.values()):
        raise SystemExit(1)


def _drilled(part: DrillPart, requests: int, load_s: float, rows: int, seed: int) -> dict[str, Any]:
    if part is DrillPart.HOSTILE:
        from service.drill.hostile import hostile_drill  # noqa: PLC0415

        return hostile_drill(requests, seed)
    if part is DrillPart.RECALIBRATION:
        from service.drill.recalibration import recalibration_drill  # noqa: PLC0415

        return recalibration_drill(rows)
    from service.drill.faults import fault_drill  # noqa: PLC0415

    return fault_drill(load_s)
