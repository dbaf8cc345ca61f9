"""Measured runs of real servers: read a run table, and restate a run's configuration as twin input.

Only what was configured becomes an input; what came out of a run is kept apart as its outcome.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from twin.client import ClientConditions
from twin.domain import MAX_FLAG, MAX_RANK, Calibration, ServerConfig, Workload
from twin.errors import InvalidInputError
from twin.report import STARVED_BELOW
from twin.traffic import MAX_RATE_RPS, MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twin.memory import MemoryVerdict

Run = TypeVar("Run")

DEFAULT_GPU_TYPE = "h100-64gb"
DEFAULT_ENGINE_VERSION = "vllm-0.8.5"

MEMORY_ERRORS: Mapping[str, MemoryVerdict] = {
    "kv_smaller_than_max_len": "kv_smaller_than_max_len",
    "no_memory_for_kv_blocks": "no_memory",
    "oom_torch": "no_memory",
}
"""Failures that mean "does not fit", and what each says of memory; others are the infrastructure's."""

COUNTING_CLIENT = ClientConditions(cold_start=True, max_unfinished_requests=26_500, scrape_interval_s=2.0)
"""The client of runs that count what they sent: a server started anew, ports for so many requests."""

EARLIER_CLIENT = replace(COUNTING_CLIENT, max_unfinished_requests=24_900)
"""The client of the others: running plus waiting requests stay at about so many, to within a few."""

UNRECORDED_S = 3600.0
"""The window of a run that does not say."""

VLLM_BLOCK_SIZE = 16
"""Of servers whose runs do not say."""

MIN_DURATION_S, MAX_DURATION_S = 1.0, 7 * 24 * 3600.0
MAX_SENT = 2**31
"""Above any run's requests."""

_REQUIRED = (
    "model",
    "adapters",
    "max_loras",
    "max_lora_rank",
    "lora_rank_pool",
    "adapter_rate_counts",
    "pool_mean_input_len",
    "pool_mean_output_len",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What came out of a run; NaN where it was not recorded."""

    throughput_tok_s: float
    itl_ms: float
    itl_median_ms: float
    tpot_ms: float
    ttft_ms: float
    ttft_incl_unfinished_ms: float
    mean_num_requests_running: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """One hour of one real server.

    Attributes
    ----------
    run_id, model, group
        Names; `group` is the workload group, for leaving out.
    max_loras, max_lora_rank, max_cpu_loras
        The server's flags.
    rank_pool
        Ranks dealt round-robin over the adapters, then shuffled.
    rates_rps
        One Poisson rate for each adapter; empty where a failed run did not record them.
    input_len_mean, output_len_mean
        Mean requested lengths, tokens.
    duration_s
        The window; 3,600 s where it was not recorded.
    sent_requests
        Requests really sent, where it was counted.
    outcome
        None for a run that failed.
    error
        Name of the failure, empty for a run that ended.
    block_size
        The server's flag; vLLM's default where it was not recorded.
    """

    run_id: str
    model: str
    group: str
    max_loras: int
    max_lora_rank: int
    max_cpu_loras: int
    rank_pool: tuple[int, ...]
    rates_rps: tuple[float, ...]
    input_len_mean: float
    output_len_mean: float
    duration_s: float
    sent_requests: int | None
    outcome: RunOutcome | None
    error: str
    block_size: int = VLLM_BLOCK_SIZE

    @property
    def sum_rate_rps(self) -> float:
        """Requests a second that the client meant to send."""
        return math.fsum(self.rates_rps)

    @property
    def ideal_tok_s(self) -> float:
        """Tokens a second that the client meant to have served."""
        return self.sum_rate_rps * (self.input_len_mean + self.output_len_mean)

    @property
    def failed_for_memory(self) -> bool:
        """Whether the server did not start for want of memory."""
        return self.error in MEMORY_ERRORS

    def is_starved(self, throughput_tok_s: float) -> bool:
        """Judge a throughput, predicted or measured, against what the client meant to send."""
        return throughput_tok_s < STARVED_BELOW * self.ideal_tok_s


def read_runs(path: str | Path) -> tuple[MeasuredRun, ...]:
    """Read a run table (columns as in ``h100_vllm/runs.csv``).

    Raises
    ------
    InvalidInputError
        Naming the line and column that is missing or cannot be read.
    """
    runs = read_run_table(path, _REQUIRED, _read_run)
    if not runs:
        raise InvalidInputError("runs", f"must hold at least one run, {Path(path).name} has none")
    return runs


def read_run_table(
    path: str | Path, required: Sequence[str], read_run: Callable[[dict[str, str], int], Run]
) -> tuple[Run, ...]:
    """Return what `read_run` makes of each row of a CSV file and of its line's number.

    Raises
    ------
    InvalidInputError
        Naming ``runs``, or the required column that is missing; and what `read_run` raises.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInputError("runs", f"must be a CSV file, {path} is none")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in required if name not in (reader.fieldnames or ())]
            if missing:
                raise InvalidInputError(f"runs.{missing[0]}", f"is a column that {path.name} lacks")
            return tuple(read_run(row, line) for line, row in enumerate(reader, start=2))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError("runs", f"must be a CSV file, {path.name} is none: {error}") from error


def client_of(run: MeasuredRun) -> ClientConditions:
    """Return the client that the run was made with."""
    return EARLIER_CLIENT if run.sent_requests is None else COUNTING_CLIENT


def server_of(run: MeasuredRun) -> ServerConfig:
    """Return the flags that the run's server was started with."""
    return ServerConfig(
        max_loras=run.max_loras,
        max_lora_rank=run.max_lora_rank,
        max_cpu_loras=max(run.max_cpu_loras, run.max_loras),
        block_size=run.block_size,
    )


def workload_of(run: MeasuredRun, calibration: Calibration, *, seed: int) -> Workload:
    """Return the run's workload as the server saw it.

    Text ends early, so outputs are shorter than requested by the calibration's ratio. Where the
    number of requests sent was counted, rates are scaled to it. Which rank got which rate is not
    recorded: ranks are shuffled by `seed`.
    """
    return workload_with(run, calibration.generated_over_requested, seed=seed)


def workload_with(run: MeasuredRun, generated_over_requested: float, *, seed: int) -> Workload:
    """Return the run's workload where text ends early by a known ratio; see `workload_of`."""
    count = len(run.rates_rps)
    ranks = np.resize(np.array(run.rank_pool, dtype=np.int64), count)
    np.random.default_rng(seed).shuffle(ranks)
    nan = np.full(count, math.nan)
    return Workload(
        base_model=run.model,
        gpu_type=DEFAULT_GPU_TYPE,
        adapter_ids=tuple(f"adapter-{row}" for row in range(count)),
        rank=ranks.astype(np.int32),
        rate_rps=np.array(run.rates_rps) * (sending_rate_rps(run) / run.sum_rate_rps),
        input_tokens_mean=np.full(count, run.input_len_mean),
        output_tokens_mean=np.full(count, max(run.output_len_mean * generated_over_requested, 1.0)),
        input_tokens_cv=nan,
        output_tokens_cv=nan,
        arrival_cv=np.ones(count),
    )


def sending_rate_rps(run: MeasuredRun) -> float:
    """Return the requests a second that the client tried to send: counted, else as configured."""
    if run.sent_requests is None:
        return run.sum_rate_rps
    return run.sent_requests / run.duration_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """One line of a run table; what cannot be read is refused by line and column."""

    row: Mapping[str, str]
    line: int

    def refused(self, name: str, rule: str) -> InvalidInputError:
        return InvalidInputError(
            f"runs line {self.line}, {name}", f"must be {rule}, got {self.row.get(name)!r}"
        )

    def number(self, name: str, default: float = math.nan) -> float:
        text = self.row.get(name) or ""
        if not text:
            return default
        try:
            return float(text)
        except ValueError as error:
            raise self.refused(name, "a number") from error

    def within(self, name: str, low: float, high: float, default: float = math.nan) -> float:
        value = self.number(name, default)
        if not low <= value <= high:
            raise self.refused(name, f"in [{low:g}, {high:g}]")
        return value

    def whole(self, name: str, low: int, high: int, default: float = math.nan) -> int:
        value = self.within(name, low, high, default)
        if value != int(value):
            raise self.refused(name, "a whole number")
        return int(value)

    def name(self, name: str) -> str:
        if not self.row.get(name):
            raise self.refused(name, "a name")
        return self.row[name]


def _read_run(row: dict[str, str], line: int) -> MeasuredRun:
    cells = _Cells(row=row, line=line)
    error = (row.get("error") or "unknown") if _has_failed(row, line) else ""

    def mean_tokens(name: str) -> float:
        """A failed run need not say what it would have served."""
        return math.nan if error and not row.get(name) else cells.within(name, 1, MAX_TOKENS)

    rates = row["adapter_rate_counts"] or ""
    return MeasuredRun(
        run_id=row.get("run_id") or f"line-{line}",
        model=cells.name("model"),
        group=row.get("workload") or "",
        max_loras=cells.whole("max_loras", 1, MAX_FLAG),
        max_lora_rank=cells.whole("max_lora_rank", 1, MAX_RANK),
        max_cpu_loras=cells.whole("max_cpu_loras", 0, MAX_FLAG, cells.number("adapters")),
        rank_pool=_rank_pool(row["lora_rank_pool"] or "", line),
        rates_rps=() if error and not rates else _rates(rates, line),
        input_len_mean=mean_tokens("pool_mean_input_len"),
        output_len_mean=mean_tokens("pool_mean_output_len"),
        duration_s=cells.within("duration_s", MIN_DURATION_S, MAX_DURATION_S, UNRECORDED_S),
        sent_requests=cells.whole("sent_requests", 1, MAX_SENT) if row.get("sent_requests") else None,
        outcome=None if error else _outcome(cells),
        error=error,
        block_size=cells.whole("block_size", 1, MAX_FLAG, VLLM_BLOCK_SIZE),
    )


def _outcome(cells: _Cells) -> RunOutcome:
    return RunOutcome(
        throughput_tok_s=cells.number("tot_tok_s"),
        itl_ms=cells.number("mean_itl_ms"),
        itl_median_ms=cells.number("median_itl_ms"),
        tpot_ms=cells.number("mean_tpot_ms"),
        ttft_ms=cells.number("mean_ttft_ms"),
        ttft_incl_unfinished_ms=cells.number("ttft_incl_unfinished_ms"),
        mean_num_requests_running=cells.number("mean_running"),
    )


def _has_failed(row: dict[str, str], line: int) -> bool:
    text = (row.get("failed") or "False").lower()
    if text not in {"true", "false"}:
        raise InvalidInputError(f"runs line {line}, failed", f"must be True or False, got {text!r}")
    return text == "true"


def _rank_pool(text: str, line: int) -> tuple[int, ...]:
    ranks = text.split()
    if not ranks or not all(rank.isdecimal() and 1 <= int(rank) <= MAX_RANK for rank in ranks):
        raise InvalidInputError(
            f"runs line {line}, lora_rank_pool", f"must be ranks in 1..{MAX_RANK}, got {text!r}"
        )
    return tuple(int(rank) for rank in ranks)


def _rates(text: str, line: int) -> tuple[float, ...]:
    """Parse ``rate x count; …`` into one rate for each adapter."""
    rates: list[float] = []
    for part in text.split(";"):
        try:
            rate_text, count_text = part.split("x")
            rate_rps, count = float(rate_text), int(count_text)
        except ValueError:
            rate_rps, count = math.nan, 0
        if not (0 < rate_rps <= MAX_RATE_RPS and 1 <= count <= MAX_FLAG):
            raise InvalidInputError(
                f"runs line {line}, adapter_rate_counts", f"must be 'rate x count; …', got {text[:80]!r}"
            )
        rates.extend([rate_rps] * count)
    return tuple(rates)
