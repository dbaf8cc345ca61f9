"""A workload from a table: CSV with a row for each adapter, its columns mapped to the workload's fields."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.errors import ImportSourceError
from service.imports.observations import SEEN_FIELDS, Observations, Seen, listed
from twin.traces import UNPACKING_ERRORS, open_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import TextIO

ID = "id"
FIELDS = (ID, *SEEN_FIELDS)

NAMES: dict[str, tuple[str, ...]] = {
    ID: ("id", "adapter_id", "adapter", "adapter_name", "lora_name", "lora", "name", "model", "client"),
    "rank": ("rank", "lora_rank", "r", "lora_r"),
    "rate_rps": ("rate_rps", "rps", "qps", "requests_per_second", "request_rate", "mean_rate", "rate"),
    "input_tokens_mean": (
        *("input_tokens_mean", "mean_input_tokens", "avg_input_tokens", "input_tokens"),
        *("prompt_tokens_mean", "avg_prompt_tokens", "prompt_tokens", "input_len"),
    ),
    "output_tokens_mean": (
        *("output_tokens_mean", "mean_output_tokens", "avg_output_tokens", "output_tokens"),
        *("completion_tokens_mean", "avg_completion_tokens", "completion_tokens", "output_len"),
    ),
    "input_tokens_cv": ("input_tokens_cv",),
    "output_tokens_cv": ("output_tokens_cv",),
    "arrival_cv": ("arrival_cv", "cv_rate_weighted"),
}
"""Names under which a column is recognised, the first found wins."""

SECONDS_OF_RATE = {
    **dict.fromkeys(("rpm", "requests_per_minute"), 60.0),
    **dict.fromkeys(("rph", "requests_per_hour"), 3600.0),
    **dict.fromkeys(("rpd", "requests_per_day"), 86_400.0),
}
"""Columns of rates in other units, and the seconds of their unit."""

COUNTS = ("requests", "num_requests", "request_count", "count")
"""Columns of plain counts; a window makes rates of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A CSV file, its separator a comma, a semicolon or a tab, gzip or not.

    Attributes
    ----------
    path
        The file.
    columns
        The file's name of a field's column, by field, where `NAMES` does not have it.
    window_s
        Seconds that a column of counts covers; needed where rates come as counts.
    """

    path: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    window_s: float | None = None

    def read(self) -> Observations:
        """Return what the rows tell; raises as `Source.read`, naming row and column."""
        try:
            with open_text(self.path) as stream:
                return self._read(stream)
        except (UnicodeDecodeError, csv.Error, *UNPACKING_ERRORS) as error:
            raise ImportSourceError(f"{self.path.name}: must be CSV, gzip or not: {error}") from error

    def _read(self, stream: TextIO) -> Observations:
        header = stream.readline()
        separator = max(",;\t", key=header.count)
        names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
        mapped, seconds = self._mapping(names)
        adapters: dict[str, Seen] = {}
        for row, values in self._rows(stream, names, separator):
            adapter_id = values.get(mapped[ID]) or ""
            if not adapter_id:
                raise self._error(row, mapped[ID], "must name an adapter, got nothing")
            if adapter_id in adapters:
                raise self._error(row, mapped[ID], f"must be unique, {adapter_id!r} is repeated")
            adapters[adapter_id] = self._seen(row, values, mapped, seconds)
        if not adapters:
            raise ImportSourceError(f"{self.path.name}: holds no adapters")
        return Observations(
            source=self.path.name,
            adapters=adapters,
            window_s=self.window_s,
            dropped=Counter(),
            notes=tuple(self._notes(names, mapped)),
        )

    def _mapping(self, names: list[str]) -> tuple[dict[str, str], float]:
        """Return the column of each field that there is, and what its rates are divided by."""
        if repeated := [name for name, count in Counter(names).items() if name and count > 1]:
            raise ImportSourceError(f"{self.path.name}: has the column {repeated[0]!r} more than once")
        if unknown := self.columns.keys() - set(FIELDS):
            raise ImportSourceError(
                f"must map one of {', '.join(FIELDS)}, got {min(unknown)!r}", field="--column"
            )
        if absent := [name for name in self.columns.values() if name not in names]:
            raise ImportSourceError(f"is a column that {self.path.name} lacks", field=f"--column {absent[0]}")
        folded = {name.casefold().replace(" ", "_"): name for name in reversed(names)}
        mapped: dict[str, str] = {}
        for field_name, known in NAMES.items():
            found = self.columns.get(field_name) or next((folded[n] for n in known if n in folded), None)
            if found is not None:
                mapped[field_name] = found
        if ID not in mapped:
            raise ImportSourceError(
                f"{self.path.name}: has no column for the adapter's id; name it with --column id=COLUMN. "
                f"Its columns: {', '.join(names) or 'none'}",
            )
        return self._with_rates(mapped, folded)

    def _with_rates(self, mapped: dict[str, str], folded: Mapping[str, str]) -> tuple[dict[str, str], float]:
        if "rate_rps" in mapped:
            return mapped, 1.0
        for name, seconds in SECONDS_OF_RATE.items():
            if name in folded:
                return mapped | {"rate_rps": folded[name]}, seconds
        counts = next((folded[name] for name in COUNTS if name in folded), None)
        if counts is None:
            return mapped, 1.0
        if self.window_s is None:
            raise ImportSourceError(
                f"{self.path.name}: its column {counts} counts requests; give --window-s, their seconds",
                field="--window-s",
            )
        return mapped | {"rate_rps": counts}, self.window_s

    def _rows(self, stream: TextIO, names: list[str], separator: str) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield rows by their number in the file, the header being row 1."""
        for row, cells in enumerate(csv.reader(stream, delimiter=separator), start=2):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                raise ImportSourceError(
                    f"{self.path.name} row {row}: must have {len(names)} cells, got {len(cells)}",
                )
            yield row, {name: cell.strip() for name, cell in zip(names, cells, strict=True)}

    def _seen(self, row: int, values: Mapping[str, str], mapped: Mapping[str, str], seconds: float) -> Seen:
        told: dict[str, float | None] = {}
        for name, column in mapped.items():
            if name != ID:
                told[name] = self._number(row, column, values[column])
        if (rate := told.get("rate_rps")) is not None:
            told["rate_rps"] = rate / seconds
        rank = told.pop("rank", None)
        if rank is not None and rank != int(rank):
            raise self._error(row, mapped["rank"], f"must be a whole number, got {values[mapped['rank']]!r}")
        return Seen(rank=None if rank is None else int(rank), **told)

    def _number(self, row: int, column: str, text: str) -> float | None:
        """Return a cell's number; an empty cell tells nothing."""
        if not text:
            return None
        try:
            number = float(text)
        except ValueError:
            raise self._error(row, column, f"must be a number, got {text[:60]!r}") from None
        if not math.isfinite(number) or number < 0:
            raise self._error(row, column, f"must be finite and >= 0, got {text[:60]}")
        return number

    def _error(self, row: int, column: str, rule: str) -> ImportSourceError:
        return ImportSourceError(f"{self.path.name} row {row}, column {column}: {rule}")

    def _notes(self, names: list[str], mapped: Mapping[str, str]) -> Iterator[str]:
        ignored = [name for name in names if name not in mapped.values()]
        yield "columns " + ", ".join(f"{column} as {name}" for name, column in mapped.items())
        if ignored:
            yield f"columns not used: {listed(ignored)}"
