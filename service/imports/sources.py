"""Which source a word on the command line means."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import ImportSourceError
from service.imports.access_log import AccessLogs
from service.imports.peft import PeftFolder
from service.imports.prometheus import GATEWAYS, Counters, Prometheus
from service.imports.table import Table
from service.imports.tally import OVER_THE_WINDOW, RateRule
from service.imports.trace import TraceFile
from twin.traces import TRACE_FORMATS, UNPACKING_ERRORS, open_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from service.imports.observations import Source

KINDS = ("csv", "log", "peft", "prometheus", "trace")


@dataclass(frozen=True, slots=True, kw_only=True)
class HowToRead:
    """What sources are read with; see the sources for the meaning of each."""

    rule: RateRule = OVER_THE_WINDOW
    columns: Mapping[str, str] = field(default_factory=dict)
    line_pattern: str | None = None
    adapter_column: str | None = None
    counters: Counters | None = None
    selector: str = ""
    at_s: float | None = None
    token: str | None = None
    progress: Callable[[int], None] = lambda _num_bytes: None


def sources_of(words: Sequence[str], how: HowToRead) -> list[Source]:
    """Return the sources that words name, ``KIND:PLACE`` or a place alone; all logs are one source.

    A place alone is a Prometheus where it is an ``http`` address, adapters where it is a folder, a trace or a
    table where it is CSV, and else a log.

    Raises
    ------
    ImportSourceError
        Where there is no such file.
    """
    named = [_kind_and_place(word) for word in words]
    logs = _logs(named)
    sources: list[Source] = []
    for kind, place in named:
        if kind != "log":
            sources.append(_source(kind, place, how))
        elif not any(isinstance(source, AccessLogs) for source in sources):
            sources.append(
                AccessLogs(paths=logs, rule=how.rule, pattern=how.line_pattern, progress=how.progress)
            )
    return sources


def log_bytes(words: Sequence[str]) -> int:
    """Return how long the logs among the words are, for a progress bar."""
    return sum(path.stat().st_size for path in _logs([_kind_and_place(word) for word in words]))


def _logs(named: Sequence[tuple[str, str]]) -> tuple[Path, ...]:
    """Return the logs among kinds and places, each once however often it is named."""
    by_place = {Path(place).resolve(): Path(place) for kind, place in named if kind == "log"}
    return tuple(by_place.values())


def counters_of(name: str | None, custom: Counters | None) -> Counters | None:
    """Return a gateway's counters by name, or those given; None tries all that are known.

    Raises
    ------
    ImportSourceError
        For a name that is not known.
    """
    if custom is not None or name is None:
        return custom
    known = {counters.name: counters for counters in GATEWAYS}
    if name not in known:
        raise ImportSourceError(f"must be one of {', '.join(known)}, got {name!r}", field="--gateway")
    return known[name]


def _kind_and_place(word: str) -> tuple[str, str]:
    kind, _, place = word.partition(":")
    if kind in KINDS and place:
        _require_file(kind, place)
        return kind, place
    if word.startswith(("http://", "https://")):
        return "prometheus", word
    _require_file("", word)
    if Path(word).is_dir():
        return "peft", word
    return _kind_of_file(Path(word)), word


def _require_file(kind: str, place: str) -> None:
    if kind != "prometheus" and not Path(place).exists():
        raise ImportSourceError(f"{place}: there is no such file or folder")


def _kind_of_file(path: Path) -> str:
    """Return whether a file is a trace, a table of adapters or a log, by its first line."""
    try:
        with open_text(path, errors="replace") as stream:
            header = stream.readline()
    except UNPACKING_ERRORS as error:
        raise ImportSourceError(f"{path.name}: cannot be unpacked: {error}") from error
    names = {name.strip() for name in next(csv.reader([header]), [])}
    if any(set(known.columns) <= names for known in TRACE_FORMATS):
        return "trace"
    is_table = {".csv", ".tsv"} & set(path.suffixes)
    return "csv" if is_table and not header.lstrip().startswith("{") else "log"


def _source(kind: str, place: str, how: HowToRead) -> Source:
    if kind == "peft":
        return PeftFolder(path=Path(place))
    if kind == "prometheus":
        return Prometheus(
            url=place,
            counters=how.counters,
            rule=how.rule,
            selector=how.selector,
            at_s=how.at_s,
            token=how.token,
        )
    if kind == "trace":
        return TraceFile(path=Path(place), rule=how.rule, adapter_column=how.adapter_column)
    return Table(path=Path(place), columns=how.columns, window_s=how.rule.window_s)
