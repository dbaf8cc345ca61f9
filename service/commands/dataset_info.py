"""What a data set holds, from the command line."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from models.dataset import DatasetOrigin

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def info(
    file: Annotated[
        str, typer.Argument(help="Data set, Parquet: a file or an fsspec URL.", show_default=False)
    ],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Print where a data set came from and what is in it."""
    import orjson  # noqa: PLC0415 (light imports)

    from models.dataset import SCHEMA_VERSION  # noqa: PLC0415
    from models.dataset_files import num_bytes, read_parquet  # noqa: PLC0415
    from models.remote import shown  # noqa: PLC0415

    dataset = read_parquet(file)
    told = {
        "file": shown(file),
        "bytes": num_bytes(file),
        "schema_version": SCHEMA_VERSION,
        "sha256": dataset.sha256,
        "rows": dataset.num_rows,
        "starved_rows": int(dataset["starved"].sum()),
        **_told(dataset.origin),
    }
    if json:
        sys.stdout.buffer.write(orjson.dumps(told) + b"\n")
        return
    for name, value in told.items():
        typer.echo(f"{name}: {value}")


def _told(origin: DatasetOrigin) -> dict[str, Any]:
    """Return an origin for a reader: of live servers, which sample and how many."""
    document, live = asdict(origin), origin.design.live
    document["design"]["live"] = (
        None if live is None else {"sample": live.digest, "servers": len(live.servers), "rows": live.num_rows}
    )
    return document
