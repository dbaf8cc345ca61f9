"""What came of one simulated server: latencies, adapters, the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """Mean and quantiles of one latency, milliseconds; NaN where nothing was measured."""

    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


CONSTRAINTS = ("none", "slots", "kv_memory", "token_budget", "sequences")
"""What ends a step's admission: an empty queue, `max_loras`, KV blocks, `max_num_batched_tokens`,
`max_num_seqs`."""

NO_CONSTRAINT, SLOTS, KV_MEMORY, TOKEN_BUDGET, SEQUENCES = range(len(CONSTRAINTS))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdapterOutcomes:
    """What a window was for each adapter, held as columns in the workload's order.

    Attributes
    ----------
    num_requests_sent, num_requests_completed
        (num_adapters,) int64.
    served_fraction
        (num_adapters,) float64, tokens completed over tokens sent, at most 1; 1 where none was sent.
    mean_wait_ms, max_wait_ms
        (num_adapters,) float64, from being sent to the first admission, over requests sent in the
        window; those never admitted wait to its end. 0 where none was sent.
    slots_wait_share
        (num_adapters,) float64 in [0, 1], the share of its requests' waiting in the window that they
        spent passed over, with all slots taken by other adapters.
    starving
        (num_adapters,) bool, served less than 0.9 of the tokens sent, of 20 requests or more.
    cause
        (num_adapters,) int8, index into `CONSTRAINTS` of what a starving adapter waited for: slots
        where they are half of its waiting or more, else what ended admission most of the time for all
        adapters alike. 0 where it does not starve.
    """

    num_requests_sent: NDArray[np.int64]
    num_requests_completed: NDArray[np.int64]
    served_fraction: NDArray[np.float64]
    mean_wait_ms: NDArray[np.float64]
    max_wait_ms: NDArray[np.float64]
    slots_wait_share: NDArray[np.float64]
    starving: NDArray[np.bool_]
    cause: NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulationReport:
    """What one simulated server did in its window. Definitions equal the measured runs'.

    Attributes
    ----------
    horizon_s, warmup_s
        The window, and the simulated service before it, which counts for nothing below: 0 is an empty
        server.
    num_requests_sent, num_requests_completed, num_requests_carried_over
        Requests that reached the server in the window, those finished in it, and those unfinished when
        it opened, which may finish in it too.
    throughput_in_tok_s, throughput_out_tok_s, throughput_tok_s
        Tokens of completed requests over the window.
    offered_tok_s
        Tokens of the requests sent over the window.
    starved
        ``throughput_tok_s < 0.9 * offered_tok_s``.
    ttft, itl, tpot, e2e
        Of completed requests (ITL quantiles: of all steps, weighted by tokens emitted).
    ttft_incl_unfinished_ms
        Mean TTFT with every unfinished request counted as the whole window.
    num_unfinished_trend
        Requests unfinished at the window's end, by a straight line through their number in its last
        fifth: the number at one moment is one draw of many.
    served_fraction
        (num_adapters,) float64, as in `adapters`.
    adapters
        How each adapter was served, which starve, and why.
    fairness
        Jain's index of the served fractions of adapters that sent anything: 1 when all are served
        alike, 1 / (number of adapters) when one alone is; NaN where nothing was served.
    binding_constraint
        What ended admission in most of the busy time: ``none`` (nobody was left waiting), ``slots``,
        ``kv_memory``, ``throughput`` (the token budget), ``sequences`` (`max_num_seqs`).
    constraint_shares
        The share of busy time in which each of `CONSTRAINTS` ended admission.
    mean_num_requests_running, mean_num_requests_waiting, max_num_requests_waiting
        Time-weighted means, and the maximum.
    mean_kv_usage, max_kv_usage
        Share of KV blocks in use.
    kv_tokens
        Size of the KV cache, tokens.
    num_steps, num_preemptions, num_loads
        Engine steps, preempted requests, adapters brought into a slot.
    num_arrival_steps, num_adapter_set_changes
        Steps before which a request came, and those that an adapter entered or before which one left.
    mean_adapters_in_batch
        Distinct adapters in a step, time-weighted mean.
    state_samples
        (num_samples, 7) int64, the engine's state at regular steps: decodes, prompt tokens, context
        tokens, distinct adapters, scanned requests, the step's duration in nanoseconds, requests in
        prefill.
    """

    horizon_s: float
    warmup_s: float
    num_requests_sent: int
    num_requests_completed: int
    num_requests_carried_over: int
    throughput_in_tok_s: float
    throughput_out_tok_s: float
    throughput_tok_s: float
    offered_tok_s: float
    starved: bool
    ttft: LatencySummary
    itl: LatencySummary
    tpot: LatencySummary
    e2e: LatencySummary
    ttft_incl_unfinished_ms: float
    num_unfinished_trend: float
    served_fraction: NDArray[np.float64]
    adapters: AdapterOutcomes
    fairness: float
    binding_constraint: str
    constraint_shares: Mapping[str, float]
    mean_num_requests_running: float
    mean_num_requests_waiting: float
    max_num_requests_waiting: int
    mean_kv_usage: float
    max_kv_usage: float
    kv_tokens: int
    num_steps: int
    num_preemptions: int
    num_loads: int
    num_arrival_steps: int
    num_adapter_set_changes: int
    mean_adapters_in_batch: float
    state_samples: NDArray[np.int64]

    def __post_init__(self) -> None:
        num_known = self.num_requests_sent + self.num_requests_carried_over
        assert self.num_requests_completed <= num_known, "completed requests were sent"
        assert self.max_kv_usage <= 1, "KV blocks in use never exceed KV blocks"
