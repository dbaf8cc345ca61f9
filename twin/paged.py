"""One S-LoRA server on arrays: check, pack, call the kernel. `twin.simulate` makes the report.

`simulate` takes a `PagedServerConfig` with a `PagedCalibration` as it takes vLLM's pair. In the
report, `kv_tokens` is the whole pool and KV usage is the pool's, adapters included; `num_loads`
counts adapters brought into the pool; `num_preemptions` is 0, and nothing passes over a request, so
the scanned requests of `state_samples` are those admitted. What binds is what ended the last look at
WAITING while anyone waits: the pool, the tokens of a prefill, or `running_max_req_size`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from twin.errors import InvalidInputError
from twin.kernels.paged import run_paged_engine
from twin.paged_domain import PagedCalibration, PagedStepLaw

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.domain import Calibration
    from twin.paged_domain import PagedServerConfig
    from twin.report import EngineRun
    from twin.workload import RequestStream

PAGED_STEP_TERMS = tuple(field.name for field in fields(PagedStepLaw))

IDLE_POLL_NS = 10_000_000
"""An idle router looks for requests at this interval."""


def require_paged(calibration: Calibration | PagedCalibration) -> PagedCalibration:
    """Return the calibration, or raise `InvalidInputError` where it is of an engine with slots."""
    if isinstance(calibration, PagedCalibration):
        return calibration
    raise InvalidInputError("calibration", f"must be of a paged engine, {calibration.calibration_id} is not")


def require_slotted(calibration: Calibration | PagedCalibration) -> Calibration:
    """Return the calibration, or raise `InvalidInputError` where it is of a paged engine."""
    if not isinstance(calibration, PagedCalibration):
        return calibration
    raise InvalidInputError(
        "calibration", f"must be of an engine with slots, {calibration.calibration_id} is not"
    )


def check_paged_server(
    rank: NDArray[np.int32], server: PagedServerConfig, calibration: PagedCalibration
) -> None:
    """Raise `InvalidInputError` for a pool or a rank that the calibration does not know."""
    if server.max_total_token_num > calibration.pool_tokens:
        raise InvalidInputError(
            "max_total_token_num",
            f"must be <= {calibration.pool_tokens}, the pool that {calibration.calibration_id} was "
            f"measured with, got {server.max_total_token_num}",
        )
    if (rank > calibration.max_known_rank).any():
        row = int(np.argmax(rank > calibration.max_known_rank))
        raise InvalidInputError(
            f"adapters[{row}].rank",
            f"must be <= {calibration.max_known_rank}, the largest that {calibration.calibration_id} "
            f"was measured with, got {rank[row]}",
        )
    longest = longest_request_tokens(rank, server, calibration)
    if longest < 2:  # noqa: PLR2004 (a prompt and an answer)
        raise InvalidInputError(
            "max_total_token_num",
            f"{server.max_total_token_num} leaves no room for a request beside an adapter of rank "
            f"{int(rank.max())}",
        )


def longest_request_tokens(
    rank: NDArray[np.int32], server: PagedServerConfig, calibration: PagedCalibration
) -> int:
    """Return the tokens of the longest request that is sure to be admitted to an empty server.

    The pool must hold more than the request and the largest adapter.
    """
    beside_adapter = server.max_total_token_num - 1 - calibration.adapter_tokens_per_rank * int(rank.max())
    return min(server.max_req_total_len, beside_adapter)


def declared_tokens(requests: RequestStream, server: PagedServerConfig) -> NDArray[np.int32]:
    """Return the limit on generated tokens that each request declares, (num_requests,) int32."""
    if server.max_new_tokens is None:
        return requests.output_tokens
    return np.maximum(requests.output_tokens, np.int32(server.max_new_tokens))


def run_paged(  # noqa: PLR0913 (a kernel and its world)
    requests: RequestStream,
    rank: NDArray[np.int32],
    server: PagedServerConfig,
    calibration: PagedCalibration,
    *,
    horizon_ns: int,
    run: EngineRun,
    sample_stride: int,
) -> None:
    """Serve the requests until the horizon; `run` receives the result.

    Raises
    ------
    InvalidInputError
        Naming the field: an unknown adapter, or a request that the server can never admit.
    """
    check_paged_server(rank, server, calibration)
    declared = declared_tokens(requests, server)
    _check_requests(requests, declared, rank, server, calibration)
    for times_ns in (run.first_token_ns, run.finish_ns, run.sent_ns, run.admitted_ns):
        times_ns.fill(-1)
    pool_tokens_of = calibration.adapter_tokens_per_rank * rank.astype(np.int64)
    load_ns_of = (1e6 * calibration.load.load_rank_ms * rank).astype(np.int64)
    run_paged_engine(
        requests.arrival_ns,
        requests.adapter_of,
        requests.prompt_tokens,
        requests.output_tokens,
        declared,
        rank,
        pool_tokens_of,
        load_ns_of,
        _flags(server),
        paged_step_coefficients(calibration.step),
        horizon_ns,
        run.first_token_ns,
        run.finish_ns,
        run.sent_ns,
        run.admitted_ns,
        run.gap_counts,
        run.stop_ns,
        run.totals,
        run.samples,
        sample_stride,
    )


def paged_step_coefficients(law: PagedStepLaw) -> NDArray[np.float64]:
    """Return the coefficients in the order that the kernel takes them, (7,) float64."""
    return np.array([getattr(law, name) for name in PAGED_STEP_TERMS], dtype=np.float64)


def _flags(server: PagedServerConfig) -> NDArray[np.int64]:
    return np.array(
        [
            server.max_total_token_num,
            server.prefill_budget_tokens,
            server.running_max_req_size,
            server.max_wait_tokens,
            IDLE_POLL_NS,
        ],
        dtype=np.int64,
    )


def _check_requests(
    requests: RequestStream,
    declared: NDArray[np.int32],
    rank: NDArray[np.int32],
    server: PagedServerConfig,
    calibration: PagedCalibration,
) -> None:
    if requests.num_requests == 0:
        return
    largest_row = int(requests.adapter_of.max())
    if largest_row >= rank.shape[0]:
        raise InvalidInputError("adapter_of", f"must be < {rank.shape[0]}, got {largest_row}")
    longest = int((requests.prompt_tokens.astype(np.int64) + declared).max())
    most = longest_request_tokens(rank, server, calibration)
    if longest > most:
        raise InvalidInputError(
            "prompt_tokens", f"and declared output tokens together must be <= {most}, got {longest}"
        )
