"""Run the twin: validate, pack arrays, call the kernel; `twin.report` unpacks what it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from twin.arrivals import MAX_REQUESTS
from twin.client import STEADY_SERVICE, ClientConditions
from twin.errors import InvalidInputError
from twin.kernels import engine
from twin.kernels.front_end import count_from_the_client, front_end_ready_ns
from twin.latency import load_times_ns, scheduler_coefficients, step_coefficients
from twin.memory import kv_tokens, memory_verdict, required_kv_tokens
from twin.paged import (
    check_paged_server,
    longest_request_tokens,
    require_paged,
    require_slotted,
    run_paged,
)
from twin.paged_domain import PagedServerConfig
from twin.report import SAMPLE_STRIDE, EngineRun, Window, make_report
from twin.workload import generate_requests

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.domain import Calibration, ServerConfig, SimulationReport, Workload
    from twin.paged_domain import PagedCalibration
    from twin.workload import RequestStream

TWIN_VERSION = "4"
"""Changes whenever the same input gives other results: data sets carry it."""

EXPECTED_MAX_RPS = 36
"""A limited client sends no more than its server finishes: the first guess at how many to draw."""

MIN_HORIZON_S = 1e-3
MAX_HORIZON_S = 7 * 24 * 3600.0


def simulate(  # noqa: PLR0913 (three nouns, and options that have defaults)
    workload: Workload,
    server: ServerConfig | PagedServerConfig,
    calibration: Calibration | PagedCalibration,
    *,
    horizon_s: float = 3600.0,
    warmup_s: float = 0.0,
    seed: int = 0,
    client: ClientConditions = STEADY_SERVICE,
) -> SimulationReport:
    """Return what one server does with a workload in a window; same arguments, same bytes.

    Parameters
    ----------
    workload, server, calibration
        Who sends, with which flags, on which measured server; `PagedServerConfig` and
        `PagedCalibration` go together and make it the paged engine (`twin.paged`).
    horizon_s, warmup_s
        The window measured, seconds, > 0, and the service simulated before it, seconds, >= 0: 0 starts
        from an empty server. One week at most together.
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
    window = _window(horizon_s, warmup_s)
    simulated_s = warmup_s + horizon_s
    max_model_len = _longest_request_tokens(workload.rank, server, calibration)
    max_requests = MAX_REQUESTS
    if client.max_unfinished_requests is not None:
        max_requests = client.max_unfinished_requests + int(EXPECTED_MAX_RPS * simulated_s)
    while True:
        requests = generate_requests(
            workload,
            horizon_s=simulated_s,
            seed=seed,
            max_model_len=max_model_len,
            max_requests=max_requests,
        )
        run = serve(requests, workload.rank, server, calibration, window, client)
        if requests.num_requests < max_requests or run.totals[engine.NUM_SENT] < max_requests:
            return report_of(requests, run, server, calibration, window)
        max_requests *= 2


def _longest_request_tokens(
    rank: NDArray[np.int32],
    server: ServerConfig | PagedServerConfig,
    calibration: Calibration | PagedCalibration,
) -> int:
    """Check the server and return the tokens of the longest request to draw for it."""
    if isinstance(server, PagedServerConfig):
        paged = require_paged(calibration)
        check_paged_server(rank, server, paged)
        return longest_request_tokens(rank, server, paged)
    known = require_slotted(calibration)
    check_server(rank, server, known)
    return required_kv_tokens(known, server.max_model_len)


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
    verdict = memory_verdict(calibration, server)
    if verdict == "fits":
        return
    available = _available(server, calibration)
    lacking = "no memory for a KV cache" if verdict == "no_memory" else f"{available} KV tokens"
    raise InvalidInputError(
        "max_loras",
        f"{server.max_loras} at max_lora_rank {server.max_lora_rank} leaves {lacking}, fewer than one "
        f"request of max_model_len ({required_kv_tokens(calibration, server.max_model_len)})",
    )


def _window(horizon_s: float, warmup_s: float) -> Window:
    if not MIN_HORIZON_S <= horizon_s <= MAX_HORIZON_S:
        raise InvalidInputError(
            "horizon_s", f"must be in [{MIN_HORIZON_S:g}, {MAX_HORIZON_S:g}], got {horizon_s!r}"
        )
    longest_s = MAX_HORIZON_S - horizon_s
    if not 0.0 <= warmup_s <= longest_s:
        raise InvalidInputError("warmup_s", f"must be in [0, {longest_s:g}], got {warmup_s!r}")
    return Window(warmup_s=warmup_s, horizon_s=horizon_s)


def simulate_requests(  # noqa: PLR0913 (as `simulate`)
    requests: RequestStream,
    rank: NDArray[np.int32],
    server: ServerConfig | PagedServerConfig,
    calibration: Calibration | PagedCalibration,
    *,
    horizon_s: float,
    warmup_s: float = 0.0,
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
    window = _window(horizon_s, warmup_s)
    run = serve(requests, rank, server, calibration, window, client)
    return report_of(requests, run, server, calibration, window)


def serve(
    requests: RequestStream,
    rank: NDArray[np.int32],
    server: ServerConfig | PagedServerConfig,
    calibration: Calibration | PagedCalibration,
    window: Window,
    client: ClientConditions,
) -> EngineRun:
    """Return what the kernel of the server's kind makes of the requests; see `simulate_requests`."""
    if isinstance(server, PagedServerConfig):
        return _serve_paged(requests, rank, server, require_paged(calibration), window, client)
    return _serve_slotted(requests, rank, server, require_slotted(calibration), window, client)


def _serve_paged(
    requests: RequestStream,
    rank: NDArray[np.int32],
    server: PagedServerConfig,
    calibration: PagedCalibration,
    window: Window,
    client: ClientConditions,
) -> EngineRun:
    if client != STEADY_SERVICE:
        raise InvalidInputError("client", f"must be steady for a paged engine, got {client}")
    if window.start_ns > 0:
        raise InvalidInputError("warmup_s", f"must be 0 for a paged engine, got {window.warmup_s!r}")
    run = EngineRun(requests.num_requests, rank.shape[0])
    run_paged(
        requests, rank, server, calibration, horizon_ns=window.end_ns, run=run, sample_stride=SAMPLE_STRIDE
    )
    return run


def _serve_slotted(
    requests: RequestStream,
    rank: NDArray[np.int32],
    server: ServerConfig,
    calibration: Calibration,
    window: Window,
    client: ClientConditions,
) -> EngineRun:
    check_server(rank, server, calibration)
    num_adapters = rank.shape[0]
    available = _available(server, calibration)
    _check_requests(requests, num_adapters, available)
    run = EngineRun(requests.num_requests, num_adapters)
    cpu_load_ns, disk_load_ns = load_times_ns(calibration.load, rank, server.max_lora_rank)
    ready_ns = requests.arrival_ns
    if client.cold_start:
        first_use_ns = round(calibration.front_end.first_use_ms * 1e6)
        ready_ns = front_end_ready_ns(ready_ns, requests.adapter_of, num_adapters, first_use_ns)
    order, place = _touch_order(num_adapters)
    engine.run_engine(
        ready_ns,
        place[requests.adapter_of],
        requests.prompt_tokens,
        requests.output_tokens,
        cpu_load_ns[order],
        disk_load_ns[order],
        _flags(server, num_adapters, available, client.max_unfinished_requests),
        step_coefficients(calibration.step),
        scheduler_coefficients(calibration.scheduler),
        window.start_ns,
        window.end_ns,
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
    run.slots_wait_ns = run.slots_wait_ns[place]
    _count_from_the_client(requests.arrival_ns, ready_ns, run, window.end_ns, client)
    return run


def _touch_order(num_adapters: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the adapters in the order in which a step touches them, and each one's place in it.

    vLLM walks over a set of adapters: the order is a hash's, the same in every step and unrelated to
    the workload's.
    """
    hashed = np.arange(num_adapters, dtype=np.uint64) * np.uint64(2_654_435_761) % np.uint64(2**32)
    order = np.argsort(hashed, kind="stable")
    place = np.empty(num_adapters, np.int32)
    place[order] = np.arange(num_adapters, dtype=np.int32)
    return order, place


def report_of(
    requests: RequestStream,
    run: EngineRun,
    server: ServerConfig | PagedServerConfig,
    calibration: Calibration | PagedCalibration,
    window: Window,
) -> SimulationReport:
    """Return the report of what `serve` left."""
    if isinstance(server, PagedServerConfig):
        one_token = 1
        return make_report(requests, run, window, kv_tokens=server.max_total_token_num, block_size=one_token)
    available = _available(server, require_slotted(calibration))
    return make_report(requests, run, window, kv_tokens=available, block_size=server.block_size)


def _available(server: ServerConfig, calibration: Calibration) -> int:
    return kv_tokens(calibration, server.max_loras, server.max_lora_rank, server.block_size)


def _count_from_the_client(
    arrival_ns: NDArray[np.int64],
    ready_ns: NDArray[np.int64],
    run: EngineRun,
    end_ns: int,
    client: ClientConditions,
) -> None:
    """Move `sent_ns` from the engine's door to the client's, and count what still stands between."""
    if ready_ns is arrival_ns:
        return
    count_from_the_client(arrival_ns, ready_ns, run.sent_ns, int(run.totals[engine.NUM_SENT]))
    if client.max_unfinished_requests is None:
        num_sent = int(np.searchsorted(arrival_ns, end_ns))
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
