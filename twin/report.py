"""A report from what the kernels leave behind: means, shares, who starves and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twin.domain import (
    CONSTRAINTS,
    KV_MEMORY,
    NO_CONSTRAINT,
    SEQUENCES,
    SLOTS,
    TOKEN_BUDGET,
    AdapterOutcomes,
    LatencySummary,
    SimulationReport,
)
from twin.kernels import engine
from twin.kernels import report as kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from twin.workload import RequestStream

STARVED_BELOW = 0.9
"""A server, or an adapter, is starved when it completes less than this share of the tokens sent."""

MIN_REQUESTS_TO_STARVE = 20
"""With fewer requests sent, those in flight at the window's end decide an adapter's share."""

SAMPLE_STRIDE = 97
"""The report keeps the engine's state of every so many steps; a prime avoids the block rhythm."""

MAX_SAMPLES = 4096

CONSTRAINT_OF_STOP = {
    engine.STOP_QUEUE_EMPTY: NO_CONSTRAINT,
    engine.STOP_SLOTS: SLOTS,
    engine.STOP_KV: KV_MEMORY,
    engine.STOP_PREEMPTED: KV_MEMORY,
    engine.STOP_TOKENS: TOKEN_BUDGET,
    engine.STOP_SEQS: SEQUENCES,
}

BINDING_WORD = {
    NO_CONSTRAINT: "none",
    SLOTS: "slots",
    KV_MEMORY: "kv_memory",
    TOKEN_BUDGET: "throughput",
    SEQUENCES: "sequences",
}
"""What binds a whole server: with its token budget spent in every step it computes all it can."""


class EngineRun:
    """The arrays that the kernel fills; shapes as in `twin.kernels.engine.run_engine`."""

    __slots__ = (
        *("sent_ns", "admitted_ns", "first_token_ns", "finish_ns", "slots_wait_ns"),
        *("gap_counts", "stop_ns", "totals", "samples"),
    )

    def __init__(self, num_requests: int, num_adapters: int) -> None:
        self.sent_ns = np.empty(num_requests, np.int64)
        self.admitted_ns = np.empty(num_requests, np.int64)
        self.first_token_ns = np.empty(num_requests, np.int64)
        self.finish_ns = np.empty(num_requests, np.int64)
        self.slots_wait_ns = np.zeros(num_adapters, np.float64)
        self.gap_counts = np.zeros(engine.NUM_GAP_BINS, np.int64)
        self.stop_ns = np.zeros(engine.NUM_STOPS, np.int64)
        self.totals = np.zeros(engine.NUM_TOTALS, np.float64)
        self.samples = np.empty((MAX_SAMPLES, engine.NUM_SAMPLED), np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What is measured: `horizon_s` seconds that follow `warmup_s` seconds of simulated service."""

    warmup_s: float
    horizon_s: float

    @property
    def start_ns(self) -> int:
        """When the window opens."""
        return round(self.warmup_s * 1e9)

    @property
    def end_ns(self) -> int:
        """When the window and the simulation end."""
        return self.start_ns + round(self.horizon_s * 1e9)


def make_report(
    requests: RequestStream, run: EngineRun, window: Window, *, kv_tokens: int, block_size: int
) -> SimulationReport:
    """Return the report of a run that the kernel has filled in."""
    sums, quantiles_ms, by_adapter, unfinished = _summarise(requests, run, window)
    totals = run.totals
    horizon_s, window_ns = window.horizon_s, float(window.end_ns - window.start_ns)
    num_completed = int(sums[kernel.NUM_COMPLETED])
    num_unfinished = int(sums[kernel.NUM_UNFINISHED])
    in_tok_s = float(sums[kernel.COMPLETED_PROMPT_TOKENS]) / horizon_s
    out_tok_s = float(sums[kernel.COMPLETED_OUTPUT_TOKENS]) / horizon_s
    offered_tok_s = float(sums[kernel.SENT_TOKENS]) / horizon_s
    ttft_ns, decode_ns = sums[kernel.TTFT_NS], sums[kernel.DECODE_NS]
    shares = _constraint_shares(run)
    outcomes = _adapter_outcomes(by_adapter, run.slots_wait_ns, shares)
    num_steps = int(totals[engine.NUM_STEPS])
    return SimulationReport(
        horizon_s=horizon_s,
        warmup_s=window.warmup_s,
        num_requests_sent=int(sums[kernel.NUM_SENT]),
        num_requests_completed=num_completed,
        num_requests_carried_over=int(sums[kernel.NUM_UNFINISHED_BEFORE]),
        throughput_in_tok_s=in_tok_s,
        throughput_out_tok_s=out_tok_s,
        throughput_tok_s=in_tok_s + out_tok_s,
        offered_tok_s=offered_tok_s,
        starved=in_tok_s + out_tok_s < STARVED_BELOW * offered_tok_s,
        ttft=_latency(quantiles_ms[0], ttft_ns, num_completed),
        itl=LatencySummary(
            mean_ms=_mean_ms(decode_ns, sums[kernel.NUM_GAPS]),
            p50_ms=_gap_quantile_ms(run.gap_counts, 0.5),
            p95_ms=_gap_quantile_ms(run.gap_counts, 0.95),
            p99_ms=_gap_quantile_ms(run.gap_counts, 0.99),
        ),
        tpot=_latency(quantiles_ms[1], sums[kernel.TPOT_NS], sums[kernel.NUM_WITH_GAPS]),
        e2e=_latency(quantiles_ms[2], ttft_ns + decode_ns, num_completed),
        ttft_incl_unfinished_ms=_mean_ms(
            ttft_ns + num_unfinished * window_ns, num_completed + num_unfinished
        ),
        num_unfinished_trend=_trend_at_the_end(unfinished),
        served_fraction=outcomes.served_fraction,
        adapters=outcomes,
        fairness=_jains_index(outcomes.served_fraction[outcomes.num_requests_sent > 0]),
        binding_constraint=BINDING_WORD[max(shares, key=lambda constraint: shares[constraint])],
        constraint_shares={CONSTRAINTS[constraint]: share for constraint, share in shares.items()},
        mean_num_requests_running=float(totals[engine.RUNNING_NS] / window_ns),
        mean_num_requests_waiting=float(totals[engine.WAITING_NS] / window_ns),
        max_num_requests_waiting=int(totals[engine.MAX_WAITING]),
        mean_kv_usage=float(totals[engine.KV_BLOCK_NS] / window_ns * block_size / kv_tokens),
        max_kv_usage=float(totals[engine.MAX_KV_BLOCKS] * block_size / kv_tokens),
        kv_tokens=kv_tokens,
        num_steps=num_steps,
        num_preemptions=int(totals[engine.NUM_PREEMPTIONS]),
        num_loads=int(totals[engine.NUM_LOADS_CPU] + totals[engine.NUM_LOADS_DISK]),
        num_arrival_steps=int(totals[engine.NUM_ARRIVAL_STEPS]),
        num_adapter_set_changes=int(totals[engine.NUM_SET_CHANGES]),
        mean_adapters_in_batch=float(totals[engine.ADAPTER_NS] / window_ns),
        state_samples=run.samples[: num_steps // SAMPLE_STRIDE],
    )


def _summarise(
    requests: RequestStream, run: EngineRun, window: Window
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    sums, quantiles_ms = np.zeros(kernel.NUM_SUMS), np.empty((3, 3))
    by_adapter = np.zeros((run.slots_wait_ns.shape[0], kernel.NUM_BY_ADAPTER))
    unfinished = np.zeros(kernel.NUM_LATE, np.int64)
    kernel.summarise(
        run.sent_ns,
        run.admitted_ns,
        run.first_token_ns,
        run.finish_ns,
        requests.adapter_of,
        requests.prompt_tokens,
        requests.output_tokens,
        int(run.totals[engine.NUM_SENT]),
        window.start_ns,
        window.end_ns,
        sums,
        quantiles_ms,
        by_adapter,
        unfinished,
    )
    return sums, quantiles_ms, by_adapter, unfinished


def _trend_at_the_end(counts: NDArray[np.int64]) -> float:
    """Return what a straight line through equally spaced counts says of the last one, at least 0."""
    moments = np.arange(counts.shape[0]) - 0.5 * (counts.shape[0] - 1)
    slope = float(moments @ counts) / float(moments @ moments)
    return max(float(counts.mean()) + slope * float(moments[-1]), 0.0)


def _mean_ms(total_ns: float, count: float) -> float:
    return float(total_ns * 1e-6 / count) if count else math.nan


def _latency(quantiles_ms: NDArray[np.float64], total_ns: float, count: float) -> LatencySummary:
    p50, p95, p99 = quantiles_ms.tolist()
    return LatencySummary(mean_ms=_mean_ms(total_ns, count), p50_ms=p50, p95_ms=p95, p99_ms=p99)


def _gap_quantile_ms(gap_counts: NDArray[np.int64], level: float) -> float:
    cumulative = np.cumsum(gap_counts)
    if cumulative[-1] == 0:
        return math.nan
    index = int(np.searchsorted(cumulative, level * cumulative[-1]))
    return 1e-3 * math.exp((index + 0.5) / engine.GAP_BINS_PER_E_FOLD)


def _constraint_shares(run: EngineRun) -> dict[int, float]:
    """Return the share of busy time in which each constraint ended admission; all 0 if never busy."""
    shares = dict.fromkeys(range(len(CONSTRAINTS)), 0.0)
    busy_ns = max(float(run.totals[engine.BUSY_NS]), 1.0)
    for stop, constraint in CONSTRAINT_OF_STOP.items():
        shares[constraint] += float(run.stop_ns[stop]) / busy_ns
    return shares


def _adapter_outcomes(
    by_adapter: NDArray[np.float64], slots_wait_ns: NDArray[np.float64], shares: Mapping[int, float]
) -> AdapterOutcomes:
    sent, waited_ns = by_adapter[:, kernel.ADAPTER_SENT], by_adapter[:, kernel.ADAPTER_WINDOW_WAIT_NS]
    served = _ratio(
        by_adapter[:, kernel.ADAPTER_COMPLETED_TOKENS], by_adapter[:, kernel.ADAPTER_SENT_TOKENS], 1.0
    )
    slots_wait_share = np.minimum(_ratio(slots_wait_ns, waited_ns, 0.0), 1.0)
    starving = (sent >= MIN_REQUESTS_TO_STARVE) & (served < STARVED_BELOW)
    return AdapterOutcomes(
        num_requests_sent=sent.astype(np.int64),
        num_requests_completed=by_adapter[:, kernel.ADAPTER_COMPLETED].astype(np.int64),
        served_fraction=np.minimum(served, 1.0),
        mean_wait_ms=_ratio(by_adapter[:, kernel.ADAPTER_WAIT_NS], sent, 0.0) * 1e-6,
        max_wait_ms=by_adapter[:, kernel.ADAPTER_MAX_WAIT_NS] * 1e-6,
        slots_wait_share=slots_wait_share,
        starving=starving,
        cause=np.where(starving, _causes(slots_wait_share, shares), NO_CONSTRAINT).astype(np.int8),
    )


def _causes(slots_wait_share: NDArray[np.float64], shares: Mapping[int, float]) -> NDArray[np.integer]:
    """Name what each adapter waited for most: slots, or what all adapters wait for alike.

    Slots are the one constraint that holds for some adapters and not for others. The rest of an
    adapter's waiting is behind requests that were stopped by what ended admission most of the time.
    """
    shared = max((KV_MEMORY, TOKEN_BUDGET, SEQUENCES), key=lambda constraint: shares[constraint])
    if shares[shared] == 0.0:
        return np.where(slots_wait_share > 0.0, SLOTS, NO_CONSTRAINT)
    mostly = 0.5
    return np.where(slots_wait_share >= mostly, SLOTS, shared)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64], otherwise: float) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(part.shape[0], otherwise), where=whole > 0)


def _jains_index(shares: NDArray[np.float64]) -> float:
    """Return (sum x)^2 / (n sum x^2): 1 when all are served alike, 1/n when one alone is."""
    squares = float((shares**2).sum())
    return float(shares.sum()) ** 2 / (shares.shape[0] * squares) if squares > 0 else math.nan
