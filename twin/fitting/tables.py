"""Measured tables (CSV) as rows and columns, with errors that name the file, the line and the column."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twin.errors import InvalidInputError
from twin.measurement_set import COLUMNS, LAUNCHES, LOADS, STEPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


OPTIONAL_OF_STEPS = frozenset({"step_ms_se", "itl_ms", "ttft_ms", "tot_tok_s", "preemptions"})

TABLES: dict[str, tuple[str, ...]] = {
    "memory_kv.csv": ("model", "max_loras", "max_lora_rank", "kv_tokens", "error"),
    "load_times.csv": ("model", "adapter_rank", "max_lora_rank", "source", "median_ms"),
    "scheduler_time.csv": (
        *("gpu_loras", "cpu_loras", "avg_batch_size", "avg_waiting_queue"),
        *("sched_ms_per_step", "mean_loras_by_batch"),
    ),
    "step_latency_runs.csv": (
        *("model", "max_num_seqs", "in_len", "out_len", "adapters", "max_loras", "rank", "failed"),
        *("preemptions", "adapters_in_batch_mean", "expected_unique_uniform", "steps", "step_ms_p50"),
        "median_itl_ms",
    ),
    "length_stats.csv": ("tokenizer", "field", "generated_over_requested"),
}
"""Tables of a measurement set, beside its runs, and the columns that the fits read of each."""

AGENT_TABLES: dict[str, tuple[str, ...]] = {
    LAUNCHES: TABLES[LAUNCHES],
    LOADS: TABLES[LOADS],
    STEPS: tuple(name for name in COLUMNS[STEPS] if name not in OPTIONAL_OF_STEPS),
}
"""The same of an agent's set (`twin.measurement_set`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One line of a table; `where` names both in errors."""

    where: str
    cells: Mapping[str, str | None]

    def __getitem__(self, name: str) -> str:
        """Return a cell's text, empty where the line ends before it."""
        return self.cells.get(name) or ""

    def number(self, name: str, default: float = math.nan) -> float:
        """Return a cell's number, `default` where it is empty.

        Raises
        ------
        InvalidInputError
            For text, and for a number that is not finite.
        """
        return self.required(name) if self[name] else default

    def required(self, name: str) -> float:
        """Return a cell's number; an empty cell is refused too."""
        try:
            value = float(self[name])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InvalidInputError(
                f"{self.where}, {name}", f"must be a finite number, got {self[name]!r}"
            ) from None
        return value


def read_rows(directory: Path, name: str) -> list[TableRow]:
    """Read a table of a measurement set, one of `TABLES` or of `AGENT_TABLES`.

    Raises
    ------
    InvalidInputError
        When the file or one of its columns is missing, or it is no CSV.
    """
    path = directory / name
    if not path.is_file():
        raise InvalidInputError("measurements", f"must hold {name}, {directory} does not")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            for column in (TABLES | AGENT_TABLES)[name]:
                if column not in (reader.fieldnames or ()):
                    raise InvalidInputError(f"measurements.{name}", f"must have a column {column}")
            return [
                TableRow(where=f"measurements.{name} line {reader.line_num}", cells=row) for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"measurements.{name}", f"must be a CSV file: {error}") from error


def column(rows: Sequence[TableRow], name: str) -> NDArray[np.float64]:
    """Return a column as (num_rows,) float64, NaN where it is empty."""
    return np.array([row.number(name) for row in rows], dtype=np.float64)


def full_column(rows: Sequence[TableRow], name: str) -> NDArray[np.float64]:
    """Return a column as (num_rows,) float64; an empty cell is refused."""
    return np.array([row.required(name) for row in rows], dtype=np.float64)
