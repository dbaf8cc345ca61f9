"""Measured tables (CSV) as columns, with errors that name the file and the column."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np

from twin.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def read_rows(directory: Path, name: str, required: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a table of a measurement set.

    Raises
    ------
    InvalidInputError
        When the file or one of the required columns is missing.
    """
    path = directory / name
    if not path.is_file():
        raise InvalidInputError("measurements", f"must hold {name}, {directory} does not")
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        for column in required:
            if column not in (reader.fieldnames or ()):
                raise InvalidInputError(f"measurements.{name}", f"must have a column {column}")
        return list(reader)


def column(rows: list[dict[str, str]], name: str) -> NDArray[np.float64]:
    """Return a column as (num_rows,) float64, NaN where it is empty."""
    return np.array([float(row[name]) if row[name] else np.nan for row in rows])
