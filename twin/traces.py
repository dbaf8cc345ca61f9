"""Traces of requests: our CSV, and the published files of others, read and written.

A trace is a `RequestStream` whose adapters are named, or not: published traces name none, and
`twin.fleet_traces` draws them.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import sys
import zlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from twin.errors import InvalidInputError
from twin.traffic import MAX_TOKENS
from twin.workload import RequestStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import TextIO

    from numpy.typing import NDArray

Number = TypeVar("Number", int, float)

MAX_TRACE_S = 366 * 24 * 3600.0
"""Arrivals of a trace lie within a year: others are mistakes in units, and overflow."""

GZIP_MAGIC = b"\x1f\x8b"
UNPACKING_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading from `open_text` raises where the file is broken gzip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """The columns of one kind of file.

    Attributes
    ----------
    name
        What the command line calls it.
    arrival, input_tokens, output_tokens
        Names of the columns.
    adapter_id
        Name of the column, None where the file names no adapters.
    seconds
        How the arrival column becomes seconds, from any origin.
    from_first
        Whether the first arrival is the start of the window.
    """

    name: str
    arrival: str
    input_tokens: str
    output_tokens: str
    adapter_id: str | None = None
    seconds: Callable[[Any], float] = float
    from_first: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that a file must have."""
        names = (self.arrival, self.adapter_id, self.input_tokens, self.output_tokens)
        return tuple(name for name in names if name is not None)


def _timestamp_s(text: str) -> float:
    """Return seconds of an ISO time, read as UTC where it names no zone; digits beyond microseconds go."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _milliseconds_s(value: float | str) -> float:
    return float(value) / 1e3


def _whole(value: float | str) -> int:
    """Return a whole number; `int` would cut the fraction of a JSON number off and say nothing."""
    whole = int(value)
    if isinstance(value, float) and whole != value:
        raise ValueError(value)
    return whole


TRACE_FORMATS = (
    TraceFormat(
        name="loadmaster",
        arrival="arrival_s",
        adapter_id="adapter_id",
        input_tokens="input_tokens",
        output_tokens="output_tokens",
    ),
    TraceFormat(name="seconds", arrival="t_s", input_tokens="input_tokens", output_tokens="output_tokens"),
    TraceFormat(
        name="azure",
        arrival="TIMESTAMP",
        input_tokens="ContextTokens",
        output_tokens="GeneratedTokens",
        seconds=_timestamp_s,
        from_first=True,
    ),
    TraceFormat(
        name="mooncake",
        arrival="timestamp",
        input_tokens="input_length",
        output_tokens="output_length",
        seconds=_milliseconds_s,
    ),
)
"""Ours; that of tables with seconds from the start (Azure and Mooncake as republished); Azure's own
CSV; Mooncake's own JSON lines, with milliseconds. The first whose columns are all there is taken."""

TRACE_COLUMNS = TRACE_FORMATS[0].columns


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests as a file has them, in order of arrival; ties stand as in the file.

    Attributes
    ----------
    arrival_ns
        (num_requests,) int64, sorted, from the start of the window.
    prompt_tokens, output_tokens
        (num_requests,) int32.
    adapter_ids
        Of each request; None where the file names none.
    """

    arrival_ns: NDArray[np.int64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    adapter_ids: tuple[str, ...] | None = None

    @property
    def num_requests(self) -> int:
        """How many requests the trace holds."""
        return self.arrival_ns.shape[0]


def read_trace(path: Path, adapter_ids: Sequence[str]) -> RequestStream:
    """Read requests to replay from a CSV with the columns of `TRACE_COLUMNS`, gzip or not.

    Parameters
    ----------
    path
        The file; arrivals in seconds from the window's start, in any order.
    adapter_ids
        The workload's adapters, in its order.

    Raises
    ------
    InvalidInputError
        Naming the line and the column.
    """
    row_of = {adapter_id: row for row, adapter_id in enumerate(adapter_ids)}
    return as_stream(read_any_trace(path, trace_format="loadmaster", known_ids=row_of), adapter_ids)


def read_any_trace(
    path: Path,
    *,
    trace_format: str | None = None,
    known_ids: Mapping[str, Any] | None = None,
    adapter_column: str | None = None,
) -> Trace:
    """Read a trace in one of `TRACE_FORMATS`, as CSV or JSON lines, gzip or not.

    Parameters
    ----------
    path
        The file, its requests in any order.
    trace_format
        Name of the format; None recognises it by its columns.
    known_ids
        If given, an adapter that is not in it is refused.
    adapter_column
        The column that names adapters, beside or in place of the format's own.

    Raises
    ------
    InvalidInputError
        Naming the line and the column.
    """
    try:
        with open_text(path) as stream:
            return _read(stream, path.name, trace_format, known_ids, adapter_column)
    except (UnicodeDecodeError, csv.Error, *UNPACKING_ERRORS) as error:
        raise InvalidInputError("trace", f"{path.name} must be text, gzip or not: {error}") from error


def _read(
    stream: TextIO,
    file_name: str,
    trace_format: str | None,
    known_ids: Mapping[str, Any] | None,
    adapter_column: str | None,
) -> Trace:
    names, records = _records(stream, file_name)
    if adapter_column is not None and adapter_column not in names:
        raise InvalidInputError(f"trace.{adapter_column}", f"is a column that {file_name} lacks")
    chosen = _format_of(names, trace_format, file_name)
    if adapter_column is not None:
        chosen = replace(chosen, adapter_id=adapter_column)
    columns: tuple[list[float], list[int], list[int]] = ([], [], [])
    ids: list[str] = []
    for line, record in records:
        _append(columns, record, chosen, line)
        if chosen.adapter_id is not None:
            ids.append(_id_of(record, chosen.adapter_id, known_ids, line))
    return _in_order(columns, ids, chosen)


def as_stream(trace: Trace, adapter_ids: Sequence[str]) -> RequestStream:
    """Return a trace that names adapters as the stream of a workload's adapters.

    Raises
    ------
    InvalidInputError
        When the trace names no adapters, or one that the workload lacks.
    """
    if trace.adapter_ids is None:
        raise InvalidInputError("trace.adapter_id", "is a column that the trace lacks")
    row_of = {adapter_id: row for row, adapter_id in enumerate(adapter_ids)}
    if unknown := set(trace.adapter_ids) - row_of.keys():
        raise InvalidInputError("trace.adapter_id", f"must be in the workload, got {min(unknown)!r}")
    return RequestStream(
        arrival_ns=trace.arrival_ns,
        adapter_of=np.array([row_of[name] for name in trace.adapter_ids], dtype=np.int32),
        prompt_tokens=trace.prompt_tokens,
        output_tokens=trace.output_tokens,
    )


def write_trace(path: Path, requests: RequestStream, adapter_ids: Sequence[str]) -> None:
    """Write a stream as our CSV, gzip where the name ends so; `read_trace` gives the same stream back."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(TRACE_COLUMNS)
        rows = zip(
            requests.arrival_ns.tolist(),
            requests.adapter_of.tolist(),
            requests.prompt_tokens.tolist(),
            requests.output_tokens.tolist(),
            strict=True,
        )
        for arrival_ns, row, prompt, output in rows:
            seconds, rest_ns = divmod(arrival_ns, 10**9)
            writer.writerow((f"{seconds}.{rest_ns:09d}", adapter_ids[row], prompt, output))


def cut_to_model(requests: RequestStream, max_model_len: int) -> tuple[RequestStream, int]:
    """Return the stream with requests cut as drawn ones are, and how many had to be.

    A server refuses a longer one: its prompt is cut to `max_model_len - 1`, then its output to what
    is left. Nothing is dropped.
    """
    prompt = np.minimum(requests.prompt_tokens, max_model_len - 1)
    output = np.minimum(requests.output_tokens, max_model_len - prompt)
    changed = (prompt != requests.prompt_tokens) | (output != requests.output_tokens)
    stream = RequestStream(
        arrival_ns=requests.arrival_ns,
        adapter_of=requests.adapter_of,
        prompt_tokens=prompt.astype(np.int32),
        output_tokens=output.astype(np.int32),
    )
    return stream, int(changed.sum())


def open_text(path: Path, *, errors: str = "strict") -> TextIO:
    """Open a text to read, unpacking it where it is gzip by its first bytes; see `UNPACKING_ERRORS`."""
    with path.open("rb") as stream:
        packed = stream.read(2) == GZIP_MAGIC
    if packed:
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8-sig", errors=errors, newline="")
    return path.open(newline="", encoding="utf-8-sig", errors=errors)


def _records(stream: TextIO, name: str) -> tuple[Sequence[str], Iterator[tuple[int, Mapping[str, Any]]]]:
    """Return the names of the columns, and the rows with their line numbers: CSV, or JSON lines."""
    first = stream.readline()
    if first.lstrip().startswith("{"):
        record = _json_record(first, 1)
        return tuple(record), _json_records(stream, record)
    reader = csv.DictReader(stream, fieldnames=next(csv.reader([first]), []))
    if not reader.fieldnames:
        raise InvalidInputError("trace", f"{name} must hold a header and requests; it is empty")
    return tuple(reader.fieldnames), ((reader.line_num + 1, row) for row in reader)


def _json_records(stream: TextIO, first: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    yield 1, first
    for line, text in enumerate(stream, start=2):
        if text.strip():
            yield line, _json_record(text, line)


def _json_record(text: str, line: int) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"trace line {line}", f"must be a JSON object: {error}") from error
    if not isinstance(record, dict):
        raise InvalidInputError(f"trace line {line}", f"must be a JSON object, got {text.strip()[:40]}")
    return record


def _format_of(names: Sequence[str], asked: str | None, file_name: str) -> TraceFormat:
    known = {candidate.name: candidate for candidate in TRACE_FORMATS}
    if asked is None:
        for candidate in TRACE_FORMATS:
            if set(candidate.columns) <= set(names):
                return candidate
        asked = TRACE_FORMATS[0].name
    if asked not in known:
        raise InvalidInputError("trace_format", f"must be one of {', '.join(known)}, got {asked!r}")
    if missing := [name for name in known[asked].columns if name not in names]:
        raise InvalidInputError(f"trace.{missing[0]}", f"is a column that {file_name} lacks")
    return known[asked]


def _id_of(record: Mapping[str, Any], name: str, known_ids: Mapping[str, Any] | None, line: int) -> str:
    """Return the adapter that a row names, or refuse it by line and column."""
    adapter_id = record.get(name)
    if not isinstance(adapter_id, str) or not adapter_id:
        raise InvalidInputError(f"trace line {line}, {name}", f"must name an adapter, got {adapter_id!r}")
    if known_ids is not None and adapter_id not in known_ids:
        raise InvalidInputError(f"trace line {line}, {name}", f"must be in the workload, got {adapter_id!r}")
    return adapter_id


def _append(
    columns: tuple[list[float], list[int], list[int]],
    record: Mapping[str, Any],
    chosen: TraceFormat,
    line: int,
) -> None:
    """Add one row to arrivals (seconds), prompts and outputs, or refuse it by line and column."""
    arrival_s = _number(record, chosen.arrival, chosen.seconds, line)
    earliest_s = -math.inf if chosen.from_first else 0.0
    latest_s = sys.float_info.max if chosen.from_first else MAX_TRACE_S
    if not earliest_s <= arrival_s <= latest_s:
        raise InvalidInputError(
            f"trace line {line}, {chosen.arrival}", f"must be >= 0 and within a year, got {arrival_s!r}"
        )
    columns[0].append(arrival_s)
    for values, name in zip(columns[1:], (chosen.input_tokens, chosen.output_tokens), strict=True):
        tokens = _number(record, name, _whole, line)
        if not 1 <= tokens <= MAX_TOKENS:
            raise InvalidInputError(f"trace line {line}, {name}", f"must be in 1..{MAX_TOKENS}, got {tokens}")
        values.append(tokens)


def _number(record: Mapping[str, Any], name: str, convert: Callable[[Any], Number], line: int) -> Number:
    try:
        return convert(record[name])
    except KeyError:
        raise InvalidInputError(f"trace line {line}, {name}", "is missing") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"trace line {line}, {name}", f"must be a number, got {record[name]!r}"
        ) from error


def _in_order(
    columns: tuple[list[float], list[int], list[int]], ids: list[str], chosen: TraceFormat
) -> Trace:
    arrival_s = np.array(columns[0], dtype=np.float64)
    if chosen.from_first and arrival_s.shape[0]:
        arrival_s -= arrival_s.min()
        if arrival_s.max() > MAX_TRACE_S:
            raise InvalidInputError(
                f"trace.{chosen.arrival}", f"must lie within a year, got {arrival_s.max()} s"
            )
    arrival_ns = np.round(arrival_s * 1e9).astype(np.int64)
    order = np.argsort(arrival_ns, kind="stable")
    prompt, output = (np.array(values, dtype=np.int32)[order] for values in columns[1:])
    named = tuple(ids[row] for row in order) if chosen.adapter_id is not None else None
    return Trace(arrival_ns=arrival_ns[order], prompt_tokens=prompt, output_tokens=output, adapter_ids=named)
