"""Drills from the command line."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable


class DrillPart(StrEnum):
    """What `drill` tries."""

    FAULTS = "faults"
    HOSTILE = "hostile"
    RECALIBRATION = "recalibration"
    SWAPS = "swaps"


def drill(  # noqa: PLR0913, PLR0917 (a command's options)
    part: Annotated[DrillPart | None, typer.Argument(help="What to try; all of it if not given.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests of `drill hostile`.")] = 10_000,
    load_s: Annotated[float, typer.Option(min=0, help="Load before each fault of `drill faults`.")] = 5.0,
    rows: Annotated[int, typer.Option(min=64, help="Servers of `drill recalibration`.")] = 4000,
    swaps: Annotated[int, typer.Option(min=2, help="Exchanges of `drill swaps`.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same requests.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on one line.")] = False,  # noqa: FBT002
) -> None:
    """Try a service of its own under faults, hostile requests, exchanges; exit 1 where it does not hold."""
    import orjson  # noqa: PLC0415 (light imports)

    parts = list(DrillPart) if part is None else [part]
    drills = _drills(requests=requests, seed=seed, load_s=load_s, rows=rows, swaps=swaps)
    found = {str(each): drills[each]() for each in parts}
    options = orjson.OPT_APPEND_NEWLINE | (0 if json else orjson.OPT_INDENT_2)
    sys.stdout.buffer.write(orjson.dumps(found, option=options))
    if not all(result["passed"] for result in found.values()):
        raise SystemExit(1)


def _drills(
    *, requests: int, seed: int, load_s: float, rows: int, swaps: int
) -> dict[DrillPart, Callable[[], dict[str, Any]]]:
    from service.drill.faults import fault_drill  # noqa: PLC0415
    from service.drill.hostile import hostile_drill  # noqa: PLC0415
    from service.drill.swaps import swap_drill  # noqa: PLC0415

    def recalibration() -> dict[str, Any]:
        from service.drill.recalibration import recalibration_drill  # noqa: PLC0415 (needs the extra `train`)

        return recalibration_drill(rows)

    return {
        DrillPart.FAULTS: lambda: fault_drill(load_s),
        DrillPart.HOSTILE: lambda: hostile_drill(requests, seed),
        DrillPart.RECALIBRATION: recalibration,
        DrillPart.SWAPS: lambda: swap_drill(swaps),
    }
