"""The client of a benchmark: how its start and its limits differ from steady service, and what it sees.

A benchmark sees a server through the API server in front of the engine. While that process renders
``/metrics`` for a scrape it passes nothing on: tokens of several steps arrive as one chunk, and requests
wait at the door. vLLM's ``lora_requests_info`` has a series for each set of running adapters ever seen,
so the text, and with it the pause, grows as a run goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twin.errors import InvalidInputError

if TYPE_CHECKING:
    from twin.domain import FrontEndLaw, SimulationReport

SERIES_OVERHEAD_NAMES = 20
"""A series costs as much as so many adapters' names beside those in its label."""

OUTPUT_CHUNK = 128
"""Answers that vLLM's API server takes from an engine step before it lets others run
(``VLLM_V1_OUTPUT_PROC_CHUNK_SIZE``). With more answers in a step none of their tokens merge."""

NUM_MOMENTS = 64
"""Moments of the window at which the pause is looked at: it grows linearly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConditions:
    """How a benchmark's start and client differ from a server in steady service.

    Attributes
    ----------
    cold_start
        Whether no adapter has been used before: the API server then stops for
        `FrontEndLaw.first_use_ms` at each adapter's first request.
    max_unfinished_requests
        The client's limit on requests it waits for; later ones are sent when one finishes. None:
        no limit.
    scrape_interval_s
        Pause between two scrapes of ``/metrics``, seconds. None: nobody scrapes.
    """

    cold_start: bool = False
    max_unfinished_requests: int | None = None
    scrape_interval_s: float | None = None

    def __post_init__(self) -> None:
        limit = self.max_unfinished_requests
        if limit is not None and limit < 1:
            raise InvalidInputError("max_unfinished_requests", f"must be >= 1, got {limit!r}")
        interval_s = self.scrape_interval_s
        if interval_s is not None and not (math.isfinite(interval_s) and interval_s > 0):
            raise InvalidInputError("scrape_interval_s", f"must be finite and > 0, got {interval_s!r}")


STEADY_SERVICE = ClientConditions()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientView:
    """Latencies as a client behind the API server measures them, milliseconds.

    Attributes
    ----------
    itl_ms
        Mean gap between chunks of an answer.
    ttft_ms
        Mean TTFT of completed requests.
    ttft_incl_unfinished_ms
        The same with every unfinished request counted as the whole window. Their number is the trend's,
        not that of one moment.
    """

    itl_ms: float
    ttft_ms: float
    ttft_incl_unfinished_ms: float


def client_view(report: SimulationReport, front_end: FrontEndLaw, client: ClientConditions) -> ClientView:
    """Return what a client measures of a simulated server."""
    itl_ms, delay_ms = report.itl.mean_ms, 0.0
    if client.scrape_interval_s is not None:
        pause_s = _last_pause_s(report, front_end)
        pauses_s = pause_s * (np.arange(NUM_MOMENTS) + 0.5) / NUM_MOMENTS
        cycles_s = client.scrape_interval_s + pauses_s
        # Of the steps in a pause all but one come without a chunk of their own.
        lost = float(np.mean(np.maximum(pauses_s - 1e-3 * itl_ms, 0.0) / cycles_s))
        itl_ms /= 1.0 - lost * _mergeable_share(report)
        # Half the pause on average for those who come in one, at the door and again with the answer.
        delay_ms = 1e3 * float(np.mean(pauses_s**2 / cycles_s))
    ttft_ms = report.ttft.mean_ms + delay_ms
    num_unfinished = report.num_unfinished_trend
    num_completed = max(report.num_requests_sent - num_unfinished, 0.0)
    total_ms = num_unfinished * report.horizon_s * 1e3
    if num_completed > 0 and not math.isnan(ttft_ms):
        total_ms += num_completed * ttft_ms
    num_sent = max(report.num_requests_sent, num_unfinished)
    return ClientView(
        itl_ms=itl_ms,
        ttft_ms=ttft_ms,
        ttft_incl_unfinished_ms=total_ms / num_sent if num_sent else math.nan,
    )


def _mergeable_share(report: SimulationReport) -> float:
    """Return the share of tokens that come from steps with few enough answers to merge."""
    decodes = report.state_samples[:, 0]
    total = int(decodes.sum())
    return float(decodes[decodes <= OUTPUT_CHUNK].sum()) / total if total else 1.0


def _last_pause_s(report: SimulationReport, front_end: FrontEndLaw) -> float:
    """Return how long a scrape at the window's end pauses the API server, seconds."""
    num_adapters = report.served_fraction.shape[0]
    num_series = float(report.num_arrival_steps + report.num_adapter_set_changes)
    active = min(report.mean_adapters_in_batch, num_adapters)
    num_sets = 2.0 ** min(num_adapters * _entropy_bits(active / num_adapters), 60.0)
    num_distinct = num_series * num_sets / (num_series + num_sets)
    return 1e-6 * front_end.label_us * num_distinct * (active + SERIES_OVERHEAD_NAMES)


def _entropy_bits(share: float) -> float:
    """Return the entropy of a coin, bits: n of them have about 2^(n x entropy) likely outcomes."""
    if not 0.0 < share < 1.0:
        return 0.0
    return -(share * math.log2(share) + (1.0 - share) * math.log2(1.0 - share))
