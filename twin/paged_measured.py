"""Measured runs of real S-LoRA servers, and what the paged twin needs to restate them.

Only what was configured becomes an input; what came out of a run is kept apart as its outcome.

The client of these runs counts the pieces of answer that it receives. Under more load than it can
follow, several tokens come in one piece: requests of one fixed length count 230 tokens each where
load is light and fewer as the client's load grows. So the outcome holds the counted figures, and
figures restated for requests that each had all their tokens.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twin.domain import MAX_FLAG, MAX_RANK, Workload
from twin.errors import InvalidInputError
from twin.measured import MAX_DURATION_S, MAX_SENT, read_run_table
from twin.report import STARVED_BELOW
from twin.traffic import MAX_RATE_RPS

if TYPE_CHECKING:
    from twin.paged_domain import PagedCalibration

CUT_WINDOW_S = 1200.0
"""A run of this length was cut while its client was still sending; a longer one sent all prompts."""

WINDOW_TOLERANCE_S = 1.0

KEPT_UP = 0.995
"""A client that counts this share of the tokens of a request kept up with the server."""

QUEUE_FREE_TTFT_MS = 400.0
"""Runs with a longer median TTFT are near saturation: it is their queue's, not the step law's."""

_LENGTHS = re.compile(r"(\d+) in / (\d+) out")
_NUMBERS = (
    "adapters",
    "rate_per_adapter",
    "rank",
    "inter_num_prompts",
    "inter_duration",
    "inter_completed",
    "inter_total_output_tokens",
    "inter_input_throughput",
    "inter_output_throughput",
    "inter_mean_ttft_ms",
    "inter_median_ttft_ms",
    "inter_mean_itl_ms",
    "inter_median_itl_ms",
)
_REQUIRED = (*_NUMBERS, "model", "dataset", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedOutcome:
    """What came out of a run, as the client counted it.

    Attributes
    ----------
    completed_rps
        Requests completed in the window over the window.
    throughput_tok_s
        Prompt tokens and counted output tokens of completed requests over the window.
    counted_output_tokens
        Mean counted output tokens of a completed request.
    itl_mean_ms, itl_median_ms
        Of gaps between counted pieces.
    ttft_incl_unfinished_ms
        Mean over all requests sent, an unfinished one counted as the whole window.
    ttft_median_ms
        Median of the same.
    """

    completed_rps: float
    throughput_tok_s: float
    counted_output_tokens: float
    itl_mean_ms: float
    itl_median_ms: float
    ttft_incl_unfinished_ms: float
    ttft_median_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPagedRun:
    """One run of one S-LoRA server; every adapter has the same rate, rank and lengths.

    Attributes
    ----------
    model, num_adapters, rate_rps, rank, input_tokens, output_tokens
        What was configured; `output_tokens` as requested.
    duration_s
        The window.
    sent_requests
        Requests sent in the window where all were sent, else None.
    outcome
        None for a run that failed.
    """

    model: str
    num_adapters: int
    rate_rps: float
    rank: int
    input_tokens: int
    output_tokens: int
    duration_s: float
    sent_requests: int | None
    outcome: PagedOutcome | None

    @property
    def ideal_tok_s(self) -> float:
        """Tokens a second that the client meant to have served."""
        return self.num_adapters * self.rate_rps * (self.input_tokens + self.output_tokens)

    def is_starved(self, throughput_tok_s: float) -> bool:
        """Judge a throughput, predicted or measured, against what the client meant to send."""
        return throughput_tok_s < STARVED_BELOW * self.ideal_tok_s


def read_paged_runs(path: str | Path) -> tuple[MeasuredPagedRun, ...]:
    """Read a run table (columns as in ``slora/runs.csv``).

    Raises
    ------
    InvalidInputError
        Naming the line and column that is missing or cannot be read.
    """
    runs = read_run_table(path, _REQUIRED, _read_run)
    if not any(run.outcome for run in runs):
        raise InvalidInputError("runs", f"must hold at least one run that ended, {Path(path).name} has none")
    return runs


def paged_workload_of(run: MeasuredPagedRun, calibration: PagedCalibration) -> Workload:
    """Return the run's workload as the server saw it: Poisson arrivals, lengths that do not vary."""
    count = run.num_adapters
    sum_rate_rps = count * run.rate_rps
    if run.sent_requests is not None:
        sum_rate_rps = run.sent_requests / run.duration_s
    generated_tokens = run.output_tokens * calibration.generated_over_requested
    return Workload(
        base_model=run.model,
        gpu_type=calibration.gpu_type,
        adapter_ids=tuple(f"adapter-{row}" for row in range(count)),
        rank=np.full(count, run.rank, dtype=np.int32),
        rate_rps=np.full(count, sum_rate_rps / count),
        input_tokens_mean=np.full(count, float(run.input_tokens)),
        output_tokens_mean=np.full(count, generated_tokens),
        input_tokens_cv=np.zeros(count),
        output_tokens_cv=np.zeros(count),
        arrival_cv=np.ones(count),
    )


def restated_itl_ms(outcome: PagedOutcome, generated_tokens: float) -> float:
    """Return the mean ITL that a client would have counted which sees each token by itself.

    The time from a request's first piece to its last does not depend on how it is cut.
    """
    return outcome.itl_mean_ms * (outcome.counted_output_tokens - 1) / (generated_tokens - 1)


def restated_throughput_tok_s(run: MeasuredPagedRun, outcome: PagedOutcome, generated_tokens: float) -> float:
    """Return prompt and generated tokens of completed requests over the window, none uncounted."""
    return outcome.completed_rps * (run.input_tokens + generated_tokens)


def kept_up(outcome: PagedOutcome, generated_tokens: float) -> bool:
    """Whether the client saw practically every token by itself."""
    return outcome.counted_output_tokens >= KEPT_UP * generated_tokens


def _read_run(row: dict[str, str], line: int) -> MeasuredPagedRun:
    def number(name: str) -> float:
        try:
            value = float(row[name])
        except (TypeError, ValueError) as error:  # a line that ends too early has None
            raise InvalidInputError(
                f"runs line {line}, {name}", f"must be a number, got {row[name]!r}"
            ) from error
        if not math.isfinite(value):
            raise InvalidInputError(f"runs line {line}, {name}", f"must be finite, got {value!r}")
        return value

    def within(name: str, low: float, high: float) -> float:
        value = number(name)
        if not low <= value <= high:
            raise InvalidInputError(
                f"runs line {line}, {name}", f"must be in [{low:g}, {high:g}], got {row[name]!r}"
            )
        return value

    lengths = _LENGTHS.search(row["dataset"] or "")
    if lengths is None:
        raise InvalidInputError(
            f"runs line {line}, dataset", f"must hold 'N in / M out', got {row['dataset']!r}"
        )
    has_failed = row["failed"] == "True"
    duration_s = CUT_WINDOW_S if has_failed else within("inter_duration", 1.0, MAX_DURATION_S)
    was_cut = abs(duration_s - CUT_WINDOW_S) <= WINDOW_TOLERANCE_S
    return MeasuredPagedRun(
        model=row["model"],
        num_adapters=int(within("adapters", 1, MAX_FLAG)),
        rate_rps=within("rate_per_adapter", 1e-9, MAX_RATE_RPS),
        rank=int(within("rank", 1, MAX_RANK)),
        input_tokens=int(lengths[1]),
        output_tokens=int(lengths[2]),
        duration_s=duration_s,
        sent_requests=None if was_cut else int(within("inter_num_prompts", 1, MAX_SENT)),
        outcome=None
        if has_failed
        else PagedOutcome(
            completed_rps=within("inter_completed", 1, MAX_SENT) / duration_s,
            throughput_tok_s=number("inter_input_throughput") + number("inter_output_throughput"),
            counted_output_tokens=number("inter_total_output_tokens")
            / within("inter_completed", 1, MAX_SENT),
            itl_mean_ms=number("inter_mean_itl_ms"),
            itl_median_ms=number("inter_median_itl_ms"),
            ttft_incl_unfinished_ms=number("inter_mean_ttft_ms"),
            ttft_median_ms=number("inter_median_ttft_ms"),
        ),
    )
