"""Run the twin: validate, pack arrays, call the kernel, check conservation, unpack a report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twin.domain import LatencySummary, SimulationReport
from twin.errors import InvalidInputError
from twin.kernels import engine
from twin.kernels import report as kernel
from twin.kernels.front_end import count_from_the_client, front_end_ready_ns
from twin.latency import load_times_ns, scheduler_coefficients, step_coefficients
from twin.memory import kv_tokens, required_kv_tokens
from twin.workload import MAX_REQUESTS, generate_requests

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.domain import Calibration, ServerConfig, Workload
    from twin.workload import RequestStream

TWIN_VERSION = "2"
"""Changes whenever the same input gives other results: data sets carry it."""

STARVED_BELOW = 0.9
"""A server is starved when it completes less than this share of the tokens sent."""

SAMPLE_STRIDE = 97
"""The report keeps the engine's state of every so many steps; a prime avoids the block rhythm."""

MAX_SAMPLES = 4096

EXPECTED_MAX_RPS = 36
"""A limited client sends no more than its server finishes: the first guess at how many to draw."""

MIN_HORIZON_S = 1e-3
MAX_HORIZON_S = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConditions:
    """How a benchmark's start and client differ from a server in steady service.

    Attributes
    ----------
    cold_start
        Whether no adapter has been used before: the API server then stops for
        `LoadLaw.first_use_ms` at each adapter's first request.
    max_unfinished_requests
        The client's limit on requests it waits for; later ones are sent when one finishes. None:
        no limit.
    """

    cold_start: bool = False
    max_unfinished_requests: int | None = None

    def __post_init__(self) -> None:
        limit = self.max_unfinished_requests
        if limit is not None and limit < 1:
            raise InvalidInputError("max_unfinished_requests", f"must be >= 1, got {limit!r}")


STEADY_SERVICE = ClientConditions()


def simulate(
    workload: Workload,
    server: ServerConfig,
    calibration: Calibration,
    *,
    horizon_s: float = 3600.0,
    seed: int = 0,
    client: ClientConditions = STEADY_SERVICE,
) -> SimulationReport:
    """Return what one server does with a workload in a window; same arguments, same bytes.

    Parameters
    ----------
    workload, server, calibration
        Who sends, with which flags, on which measured server.
    horizon_s
        Window from an empty server, seconds, in (0, one week].
    seed
        Seed of arrivals and lengths.
    client
        Cold start and the client's limit, for comparison with benchmark runs.

    Raises
    ------
    InvalidInputError
        Naming the field: a rank above `max_lora_rank`, slots that leave no room for one request of
        `max_model_len`, a horizon out of range.
    """
    check_server(workload.rank, server, calibration)
    _check_horizon(horizon_s)
    max_model_len = required_kv_tokens(calibration, server.max_model_len)
    max_requests = MAX_REQUESTS
    if client.max_unfinished_requests is not None:
        max_requests = client.max_unfinished_requests + int(EXPECTED_MAX_RPS * horizon_s)
    while True:
        requests = generate_requests(
            workload, horizon_s=horizon_s, seed=seed, max_model_len=max_model_len, max_requests=max_requests
        )
        report = simulate_requests(
            requests, workload.rank, server, calibration, horizon_s=horizon_s, client=client
        )
        if requests.num_requests < max_requests or report.num_requests_sent < max_requests:
            return report
        max_requests *= 2


def check_server(rank: NDArray[np.int32], server: ServerConfig, calibration: Calibration) -> None:
    """Raise `InvalidInputError` where vLLM would not start or would refuse an adapter."""
    if server.max_lora_rank > calibration.max_known_rank:
        raise InvalidInputError(
            "max_lora_rank",
            f"must be <= {calibration.max_known_rank}, the largest that {calibration.calibration_id} "
            f"was measured with, got {server.max_lora_rank}",
        )
    if (rank > server.max_lora_rank).any():
        row = int(np.argmax(rank > server.max_lora_rank))
        raise InvalidInputError(
            f"adapters[{row}].rank", f"must be <= max_lora_rank ({server.max_lora_rank}), got {rank[row]}"
        )
    required = required_kv_tokens(calibration, server.max_model_len)
    available = kv_tokens(calibration, server.max_loras, server.max_lora_rank, server.block_size)
    if available < required:
        raise InvalidInputError(
            "max_loras",
            f"{server.max_loras} at max_lora_rank {server.max_lora_rank} leaves {available} KV tokens, "
            f"fewer than one request of max_model_len ({required})",
        )


def _check_horizon(horizon_s: float) -> None:
    if not MIN_HORIZON_S <= horizon_s <= MAX_HORIZON_S:
        raise InvalidInputError(
            "horizon_s", f"must be in [{MIN_HORIZON_S:g}, {MAX_HORIZON_S:g}], got {horizon_s!r}"
        )


def simulate_requests(
    requests: RequestStream,
    rank: NDArray[np.int32],
    server: ServerConfig,
    calibration: Calibration,
    *,
    horizon_s: float,
    client: ClientConditions = STEADY_SERVICE,
) -> SimulationReport:
    """Return what one server does with given requests; see `simulate`.

    Parameters
    ----------
    requests
        The stream; lengths are taken as they are.
    rank
        (num_adapters,) int32, of the adapters that `requests.adapter_of` points to.
    """
    _check_horizon(horizon_s)
    check_server(rank, server, calibration)
    num_adapters = rank.shape[0]
    available = kv_tokens(calibration, server.max_loras, server.max_lora_rank, server.block_size)
    _check_requests(requests, num_adapters, available)
    run = EngineRun(requests.num_requests, num_adapters)
    cpu_load_ns, disk_load_ns = load_times_ns(calibration.load, rank, server.max_lora_rank)
    horizon_ns = round(horizon_s * 1e9)
    ready_ns = requests.arrival_ns
    if client.cold_start:
        first_use_ns = round(calibration.load.first_use_ms * 1e6)
        ready_ns = front_end_ready_ns(ready_ns, requests.adapter_of, num_adapters, first_use_ns)
    engine.run_engine(
        ready_ns,
        requests.adapter_of,
        requests.prompt_tokens,
        requests.output_tokens,
        cpu_load_ns,
        disk_load_ns,
        _flags(server, num_adapters, available, client.max_unfinished_requests),
        step_coefficients(calibration.step),
        scheduler_coefficients(calibration.scheduler),
        0,
        horizon_ns,
        run.sent_ns,
        run.admitted_ns,
        run.first_token_ns,
        run.finish_ns,
        run.slots_wait_ns,
        run.gap_counts,
        run.stop_ns,
        run.totals,
        run.samples,
        SAMPLE_STRIDE,
    )
    _count_from_the_client(requests.arrival_ns, ready_ns, run, horizon_ns, client)
    return _report(requests, run, num_adapters, available, server.block_size, horizon_s)


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
        self.samples = np.zeros((MAX_SAMPLES, engine.NUM_SAMPLED), np.int64)


def _count_from_the_client(
    arrival_ns: NDArray[np.int64],
    ready_ns: NDArray[np.int64],
    run: EngineRun,
    horizon_ns: int,
    client: ClientConditions,
) -> None:
    """Move `sent_ns` from the engine's door to the client's, and count what still stands between."""
    if ready_ns is arrival_ns:
        return
    count_from_the_client(arrival_ns, ready_ns, run.sent_ns, int(run.totals[engine.NUM_SENT]))
    if client.max_unfinished_requests is None:
        num_sent = int(np.searchsorted(arrival_ns, horizon_ns))
        run.sent_ns[:num_sent] = arrival_ns[:num_sent]
        run.totals[engine.NUM_SENT] = num_sent


def _check_requests(requests: RequestStream, num_adapters: int, available: int) -> None:
    if requests.num_requests == 0:
        return
    largest_row = int(requests.adapter_of.max())
    if largest_row >= num_adapters:
        raise InvalidInputError("adapter_of", f"must be < {num_adapters}, got {largest_row}")
    longest = int(np.add(requests.prompt_tokens, requests.output_tokens, dtype=np.int64).max())
    if longest > available:
        raise InvalidInputError(
            "prompt_tokens", f"and output_tokens together must be <= {available} KV tokens, got {longest}"
        )


def _flags(
    server: ServerConfig, num_adapters: int, available: int, max_unfinished_requests: int | None
) -> NDArray[np.int64]:
    max_cpu_loras = max(num_adapters, server.max_loras)
    if server.max_cpu_loras is not None:
        max_cpu_loras = server.max_cpu_loras
    return np.array(
        [
            server.max_loras,
            server.max_lora_rank,
            max_cpu_loras,
            server.max_num_seqs,
            server.max_num_batched_tokens,
            server.block_size,
            available // server.block_size,
            max_unfinished_requests or 0,
            1,
        ],
        dtype=np.int64,
    )


def _gap_quantile_ms(gap_counts: NDArray[np.int64], level: float) -> float:
    cumulative = np.cumsum(gap_counts)
    if cumulative[-1] == 0:
        return math.nan
    index = int(np.searchsorted(cumulative, level * cumulative[-1]))
    return 1e-3 * math.exp((index + 0.5) / engine.GAP_BINS_PER_E_FOLD)


class _Summary:
    """What `twin.kernels.report.summarise` makes of a run, in a report's units."""

    def __init__(self, requests: RequestStream, run: EngineRun, num_adapters: int, horizon_ns: int) -> None:
        self.sums = np.zeros(kernel.NUM_SUMS)
        self.quantiles_ms = np.empty((3, 3))
        self.sent_tokens = np.zeros(num_adapters)
        self.completed_tokens = np.zeros(num_adapters)
        kernel.summarise(
            run.sent_ns,
            run.first_token_ns,
            run.finish_ns,
            requests.adapter_of,
            requests.prompt_tokens,
            requests.output_tokens,
            int(run.totals[engine.NUM_SENT]),
            horizon_ns,
            self.sums,
            self.quantiles_ms,
            self.sent_tokens,
            self.completed_tokens,
        )

    def mean_ms(self, total_ns: float, count: float) -> float:
        return float(total_ns * 1e-6 / count) if count else math.nan

    def latency(self, row: int, total_ns: float, count: float) -> LatencySummary:
        p50, p95, p99 = self.quantiles_ms[row].tolist()
        return LatencySummary(mean_ms=self.mean_ms(total_ns, count), p50_ms=p50, p95_ms=p95, p99_ms=p99)

    def served_fraction(self) -> NDArray[np.float64]:
        served = np.ones(self.sent_tokens.shape[0])
        return np.divide(self.completed_tokens, self.sent_tokens, out=served, where=self.sent_tokens > 0)


def _report(
    requests: RequestStream,
    run: EngineRun,
    num_adapters: int,
    available: int,
    block_size: int,
    horizon_s: float,
) -> SimulationReport:
    horizon_ns = round(horizon_s * 1e9)
    totals = run.totals
    num_sent = int(totals[engine.NUM_SENT])
    made = _Summary(requests, run, num_adapters, horizon_ns)
    sums = made.sums
    num_completed = int(sums[kernel.NUM_COMPLETED])
    in_tok_s = float(sums[kernel.COMPLETED_PROMPT_TOKENS]) / horizon_s
    out_tok_s = float(sums[kernel.COMPLETED_OUTPUT_TOKENS]) / horizon_s
    offered_tok_s = float(sums[kernel.SENT_TOKENS]) / horizon_s
    ttft_ns, decode_ns = sums[kernel.TTFT_NS], sums[kernel.DECODE_NS]
    window_ns = float(horizon_ns)
    return SimulationReport(
        horizon_s=horizon_s,
        num_requests_sent=num_sent,
        num_requests_completed=num_completed,
        throughput_in_tok_s=in_tok_s,
        throughput_out_tok_s=out_tok_s,
        throughput_tok_s=in_tok_s + out_tok_s,
        offered_tok_s=offered_tok_s,
        starved=in_tok_s + out_tok_s < STARVED_BELOW * offered_tok_s,
        ttft=made.latency(0, ttft_ns, num_completed),
        itl=LatencySummary(
            mean_ms=made.mean_ms(decode_ns, sums[kernel.NUM_GAPS]),
            p50_ms=_gap_quantile_ms(run.gap_counts, 0.5),
            p95_ms=_gap_quantile_ms(run.gap_counts, 0.95),
            p99_ms=_gap_quantile_ms(run.gap_counts, 0.99),
        ),
        tpot=made.latency(1, sums[kernel.TPOT_NS], sums[kernel.NUM_WITH_GAPS]),
        e2e=made.latency(2, ttft_ns + decode_ns, num_completed),
        ttft_incl_unfinished_ms=made.mean_ms(ttft_ns + (num_sent - num_completed) * window_ns, num_sent),
        served_fraction=made.served_fraction(),
        mean_num_requests_running=float(totals[engine.RUNNING_NS] / window_ns),
        mean_num_requests_waiting=float(totals[engine.WAITING_NS] / window_ns),
        max_num_requests_waiting=int(totals[engine.MAX_WAITING]),
        mean_kv_usage=float(totals[engine.KV_BLOCK_NS] / window_ns * block_size / available),
        max_kv_usage=float(totals[engine.MAX_KV_BLOCKS] * block_size / available),
        kv_tokens=available,
        num_steps=int(totals[engine.NUM_STEPS]),
        num_preemptions=int(totals[engine.NUM_PREEMPTIONS]),
        num_loads=int(totals[engine.NUM_LOADS_CPU] + totals[engine.NUM_LOADS_DISK]),
        mean_adapters_in_batch=float(totals[engine.ADAPTER_NS] / window_ns),
        state_samples=run.samples[: int(totals[engine.NUM_STEPS]) // SAMPLE_STRIDE],
    )
