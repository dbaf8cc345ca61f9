"""ServeGen's production clients as adapters: rates by 10-minute windows, burstiness, lengths.

Reads `servegen_clients.csv.gz` and, beside it, `servegen_client_length_quantiles.csv.gz` and
`servegen_client_rates_10min.parquet`. The last needs pyarrow, which the API process never imports.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from twin.domain import Adapter, Workload
from twin.errors import InvalidInputError
from twin.traces import UNPACKING_ERRORS, open_text
from twin.traffic import ARRIVAL_LAWS, MAX_CV, MAX_RATE_RPS, MAX_TOKENS, LengthQuantiles, RateSchedule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

WINDOW_S = 600.0

CLIENT_COLUMNS = ("category", "model", "client", "windows", "mean_rate")
"""By these a file of clients is recognised."""

WINDOW_COLUMNS = ("category", "model", "client", "t", "rate", "cv", "pat")
"""Of the windows: start in seconds, requests a second, coefficient of variation and law of the gaps."""

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServeGenClients:
    """Clients that can be adapters, the busiest first, and how many cannot.

    Attributes
    ----------
    adapters
        One for each client, rank 8, id ``category/model/client``, its whole trace as schedule.
    num_without_lengths, num_without_requests
        Clients left out: lengths of text unknown; nothing sent.
    num_windows_cut
        Windows of these clients whose coefficient of variation was cut to `MAX_CV`.
    """

    adapters: tuple[Adapter, ...]
    num_without_lengths: int
    num_without_requests: int
    num_windows_cut: int

    def workload(
        self, *, base_model: str = "any", gpu_type: str = "any", rate_scale: float = 1.0
    ) -> Workload:
        """Return the clients as one workload, all rates times `rate_scale`."""
        return Workload.from_adapters(
            [
                replace(
                    adapter,
                    rate_rps=adapter.rate_rps * rate_scale,
                    rate_schedule=_scaled(adapter.rate_schedule, rate_scale),
                )
                for adapter in self.adapters
            ],
            base_model=base_model,
            gpu_type=gpu_type,
        )


def is_client_file(path: Path) -> bool:
    """Whether a file is a table of ServeGen's clients, by its header."""
    with open_text(path, errors="replace") as stream:
        try:
            names = stream.readline().strip().split(",")
        except UNPACKING_ERRORS:  # a broken archive: reading it as a trace says so
            return False
    return set(CLIENT_COLUMNS) <= set(names)


def read_clients(path: Path, *, start_s: float = 0.0, model: str | None = None) -> ServeGenClients:
    """Read the clients of a table and the two files beside it.

    Parameters
    ----------
    path
        `servegen_clients.csv.gz`.
    start_s
        Where in the trace the window starts, seconds, a multiple of 600; clients that send nothing
        from then on are left out.
    model
        Only clients of this model of ServeGen's; None takes all.

    Raises
    ------
    InvalidInputError
        Naming the file, line or column.
    """
    if start_s < 0 or start_s % WINDOW_S != 0:
        raise InvalidInputError("start_s", f"must be a multiple of {WINDOW_S:g}, >= 0, got {start_s!r}")
    quantiles = {
        (*_key(row), row["field"]): row
        for row in _rows(path.with_name("servegen_client_length_quantiles.csv.gz"), ("field", "q02", "q98"))
    }
    windows, cut = _schedules(path.with_name("servegen_client_rates_10min.parquet"), start_s)
    adapters, num_without_lengths, num_silent, num_cut = [], 0, 0, 0
    for row in _rows(path, CLIENT_COLUMNS):
        if model is not None and row["model"] != model:
            continue
        laws = [_law(row, quantiles.get((*_key(row), field)), field) for field in _FIELDS]
        if laws[0] is None or laws[1] is None:
            num_without_lengths += 1
        elif _key(row) not in windows:
            num_silent += 1
        else:
            num_cut += cut[_key(row)]
            trace_s = _number(row, "windows") * WINDOW_S - start_s
            adapters.append(_adapter(_key(row), laws[0], laws[1], windows[_key(row)], trace_s))
    adapters.sort(key=lambda adapter: -adapter.rate_rps)
    if not adapters:
        raise InvalidInputError("model", f"has no client with requests and lengths in {path.name}")
    return ServeGenClients(
        adapters=tuple(adapters),
        num_without_lengths=num_without_lengths,
        num_without_requests=num_silent,
        num_windows_cut=num_cut,
    )


def with_clients(workload: Workload, clients: ServeGenClients) -> Workload:
    """Return the workload with the traffic of clients, the busiest first, one for each adapter.

    An adapter keeps its id, rank and mean rate; the client gives how the rate moves around its mean,
    burstiness, and lengths.

    Raises
    ------
    InvalidInputError
        When there are fewer clients than adapters.
    """
    if workload.num_adapters > len(clients.adapters):
        raise InvalidInputError(
            "trace",
            f"must hold a client for each of {workload.num_adapters} adapters, got {len(clients.adapters)}",
        )
    taken = clients.adapters[: workload.num_adapters]
    own = Workload.from_adapters(taken)
    return replace(
        own,
        base_model=workload.base_model,
        gpu_type=workload.gpu_type,
        adapter_ids=workload.adapter_ids,
        rank=workload.rank,
        rate_rps=workload.rate_rps,
        rate_schedules=tuple(
            _scaled(client.rate_schedule, rate / client.rate_rps)
            for client, rate in zip(taken, workload.rate_rps.tolist(), strict=True)
        ),
    )


_FIELDS = ("input_tokens", "output_tokens")


def _key(row: Mapping[str, str]) -> Key:
    return row["category"], row["model"], row["client"]


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.is_file():
        raise InvalidInputError("trace", f"needs {path.name} beside the table of clients")
    try:
        with open_text(path) as stream:
            reader = csv.DictReader(stream)
            if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
                raise InvalidInputError(f"trace.{missing[0]}", f"is a column that {path.name} lacks")
            return list(reader)
    except (UnicodeDecodeError, csv.Error, *UNPACKING_ERRORS) as error:
        raise InvalidInputError("trace", f"{path.name} must be text, gzip or not: {error}") from error


def _number(row: Mapping[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInputError(
            f"trace.{name}", f"must be a finite number, got {row[name]!r} for {'/'.join(_key(row))}"
        )
    return value


def _windows(path: Path) -> dict[str, NDArray[Any]]:
    """Return the columns of the clients' windows."""
    import pyarrow as pa  # noqa: PLC0415 (heavy, and the API process has no need of it)
    import pyarrow.parquet as pq  # noqa: PLC0415

    if not path.is_file():
        raise InvalidInputError("trace", f"needs {path.name} beside the table of clients")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError("trace", f"{path.name} must be a Parquet file: {error}") from error
    if missing := [name for name in WINDOW_COLUMNS if name not in table.column_names]:
        raise InvalidInputError(f"trace.{missing[0]}", f"is a column that {path.name} lacks")
    return {name: table[name].to_numpy() for name in WINDOW_COLUMNS}


def _schedules(path: Path, start_s: float) -> tuple[dict[Key, RateSchedule], dict[Key, int]]:
    """Return the schedule from `start_s` on of each client with a request there, and how many cv were cut."""
    columns = _windows(path)
    columns = {name: values[columns["t"] >= start_s] for name, values in columns.items()}
    keys = list(
        zip(
            columns["category"].tolist(),
            columns["model"].tolist(),
            columns["client"].astype(str).tolist(),
            strict=True,
        )
    )
    rows_of: dict[Key, list[int]] = {}
    for row, key in enumerate(keys):
        rows_of.setdefault(key, []).append(row)
    law = np.array([_law_code(name) for name in columns["pat"]], np.int8)
    schedules = {
        key: _schedule(columns["t"][rows] - start_s, columns["rate"][rows], columns["cv"][rows], law[rows])
        for key, rows in rows_of.items()
    }
    return schedules, {key: int((columns["cv"][rows] > MAX_CV).sum()) for key, rows in rows_of.items()}


def _law_code(name: object) -> int:
    law = str(name).lower()
    if law not in ARRIVAL_LAWS:
        raise InvalidInputError("trace.pat", f"must be one of {', '.join(ARRIVAL_LAWS)}, got {name!r}")
    return ARRIVAL_LAWS.index(law)


def _schedule(
    t_s: NDArray[np.float64], rate: NDArray[np.float64], cv: NDArray[np.float64], law: NDArray[np.int8]
) -> RateSchedule:
    """Return windows one behind another; one that the file lacks has rate 0, as has all after the last."""
    index = np.round(t_s / WINDOW_S).astype(np.int64)
    count = int(index.max()) + 2
    rates, cvs, laws = np.zeros(count), np.ones(count), np.zeros(count, np.int8)
    rates[index], cvs[index], laws[index] = np.minimum(rate, MAX_RATE_RPS), np.minimum(cv, MAX_CV), law
    return RateSchedule(
        start_s=np.linspace(0.0, (count - 1) * WINDOW_S, count),
        rate_rps=rates,
        arrival_cv=cvs,
        arrival_law=laws,
    )


def _law(row: Mapping[str, str], quantiles: Mapping[str, str] | None, field: str) -> LengthQuantiles | None:
    """Return a client's lengths: its quantiles, level 0.99 from its table, the end by its mean.

    The highest length is not published; it is put where the law's mean becomes the client's, at
    least at the 0.99 quantile.
    """
    if quantiles is None or not row.get(f"{field}_mean"):
        return None
    known = sorted(
        (int(name[1:]) / 100, _number(quantiles, name))
        for name in quantiles
        if name[:1] == "q" and name[1:].isdigit()
    )
    levels = [0.0, *(level for level, _ in known), 0.99, 1.0]
    tokens = [known[0][1], *(value for _, value in known), _number(row, f"{field}_p99")]
    tokens = np.clip(np.maximum.accumulate(np.maximum(tokens, 1.0)), 1.0, MAX_TOKENS).tolist()
    widths, middles = np.diff(levels[:-1]), (np.array(tokens[1:]) + tokens[:-1]) / 2
    last_width = levels[-1] - levels[-2]
    missing = _number(row, f"{field}_mean") - float(np.sum(widths * middles))
    longest = min(max(2.0 * missing / last_width - tokens[-1], tokens[-1]), float(MAX_TOKENS))
    return LengthQuantiles(levels=tuple(levels), tokens=(*tokens, longest))


def _adapter(
    key: Key, prompt: LengthQuantiles, output: LengthQuantiles, schedule: RateSchedule, trace_s: float
) -> Adapter:
    return Adapter(
        adapter_id="/".join(key),
        rank=8,
        rate_rps=schedule.mean_rate_rps(max(trace_s, float(schedule.start_s[-1]))),
        input_tokens_mean=prompt.mean_tokens,
        output_tokens_mean=output.mean_tokens,
        rate_schedule=schedule,
        input_tokens_quantiles=prompt,
        output_tokens_quantiles=output,
    )


def _scaled(schedule: RateSchedule | None, factor: float) -> RateSchedule | None:
    if schedule is None:
        return None
    return replace(schedule, rate_rps=np.minimum(schedule.rate_rps * factor, MAX_RATE_RPS))
