"""Measured points: each has a key, a table and a row; where they go, and which are known already."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from twin.measurement_set import COLUMNS, MANIFEST, manifest_to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from twin.measurement_set import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One thing that was measured.

    Attributes
    ----------
    key
        What it is; measured again it has the same.
    table
        File of the set that it is a row of, one of `twin.measurement_set.COLUMNS`.
    row
        Values by column.
    """

    key: str
    table: str
    row: Mapping[str, Any]


class PointSink(Protocol):
    """Where points go as they are measured, and where known ones come from."""

    def known(self) -> Mapping[str, Point]:
        """Return what is known by key."""
        ...

    def add(self, point: Point) -> None:
        """Keep a point for good before returning."""
        ...


class PointFile:
    """Points in a file, a line of JSON each; a line that was cut while written is measured again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def known(self) -> dict[str, Point]:
        """Return what is known by key."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        points: dict[str, Point] = {}
        for line in lines:
            try:
                point = Point(**orjson.loads(line))
            except (orjson.JSONDecodeError, TypeError):
                continue
            points.setdefault(point.key, point)
        return points

    def add(self, point: Point) -> None:
        """Append a point and wait for the disk."""
        import os  # noqa: PLC0415

        line = orjson.dumps({"key": point.key, "table": point.table, "row": dict(point.row)})
        with self._path.open("ab") as stream:
            if stream.tell() > 0 and not self._ends_with_newline():
                stream.write(b"\n")
            stream.write(line + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _ends_with_newline(self) -> bool:
        with self._path.open("rb") as stream:
            stream.seek(-1, 2)
            return stream.read(1) == b"\n"


def tables_of(points: Iterable[Point], manifest: Manifest) -> dict[str, bytes]:
    """Return the files of a measurement set by name: a table for each kind of point, and the manifest."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for point in sorted(points, key=lambda point: point.key):
        rows.setdefault(point.table, []).append(point.row)
    files = {name: _csv(COLUMNS[name], of_table) for name, of_table in sorted(rows.items())}
    return files | {MANIFEST: manifest_to_json(manifest).encode()}


def _csv(columns: tuple[str, ...], rows: list[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="raise", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if row.get(name) is None else row[name] for name in columns})
    return text.getvalue().encode()
