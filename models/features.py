"""The features of one GPU: names, units, formulas, and how to fill them.

One table serves the data set, the teacher, the trees, the placer and the documentation. The code
that computes it is `models.kernels.features`; formulas use its words:

- sums run over the GPU's adapters; `rate`, `in`, `out` are an adapter's request rate and mean lengths;
- `context = (sum(rate E[in out]) + sum(rate E[out^2]) / 2) / sum(rate out) + block_size / 2`: KV tokens
  of a running request (long answers are met more often, hence the second moment);
- `B_max = min(KV / context, max_num_batched_tokens / (1 + in/out), max_num_seqs)`: the fullest batch;
- `active(tau) = sum(1 - exp(-rate out tau))`: adapters with a request running, tau seconds a token;
- `seen(B) = min(max_loras, active + 1 - active / num_adapters)` at tau = B / sum(rate out): adapters in
  the step of a request that meets B others;
- `step(B) = Lat_model + Lat_sched` of B + 1 requests of `seen(B)` adapters, with the prompt tokens that
  keep the batch full: what such a request's tokens take;
- `capacity = B_max (1 + in/out) / step(B_max - 1)`, and B at a given load is Little's law,
  `B = min(B_max, sum(rate out) step(B))`.

- `tau_s`: tau where slots suffice; else, for `share = min(max_loras / active, 1)`, the step of `max_loras`
  adapters with the batch that the share asks for, found in two rounds from share x B;
- `others = (active(tau_s / 4) - active(tau_s / 8)) / (tau_s / 8) / sum(rate out)`: the tokens of those that
  yield their slots.

The physical estimates that trees correct: served fraction `min(min(1, 1/rho) - residence_share,
served_by_slots)`, ITL
`step(B)`, TTFT `1.5 step(B) + prefill of one prompt + (1 - 1/rho) horizon / 2`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.kernels import features as kernel
from twin.domain import ServerConfig
from twin.latency import scheduler_coefficients, step_coefficients
from twin.memory import memory_vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.domain import Calibration, Workload


class Feature(NamedTuple):
    """One column that the trees read."""

    name: str
    unit: str
    formula: str


FEATURES: tuple[Feature, ...] = (
    Feature("rho", "1", "offered_tok_s / capacity = sum(rate out) step(B_max - 1) / B_max"),
    Feature(
        "served_by_formula",
        "1",
        "min(min(1, 1/rho) - residence_share, served_by_slots): what the tree corrects",
    ),
    Feature("slots_over_active", "1", "max_loras / active(B / sum(rate out))"),
    Feature(
        "slots_over_hot",
        "1",
        "max_loras / max(sum((1 - exp(-rate out tau / 4))^2), 1e-9), tau = B / sum(rate out)",
    ),
    Feature(
        "slots_over_stuck",
        "1",
        "max_loras / stuck, stuck = max(active(tau_s) / 20, sum((1 - exp(-rate out tau_s / 4))^4))",
    ),
    Feature(
        "served_by_slots",
        "1",
        "1 where active(step) <= max_loras, else min(max_loras / stuck, 1) (1 - others) + others x "
        "min((max_loras - stuck)+ / (active(tau_s) - stuck) / 0.2, 1)",
    ),
    Feature("slots_over_count", "1", "max_loras / num_adapters"),
    Feature("kv_pressure", "1", "max(B, rho B_max) context / KV"),
    Feature("budget_pressure", "1", "max(B, rho B_max) (1 + in/out) / max_num_batched_tokens"),
    Feature("seqs_pressure", "1", "max(B, rho B_max) / max_num_seqs"),
    Feature("batch", "requests", "B"),
    Feature("step_ms", "ms", "step(B)"),
    Feature("kv_requests", "requests", "KV / context"),
    Feature("residence_share", "1", "tokens of requests in flight at the window's end / tokens offered"),
    Feature(
        "load_share",
        "1",
        "(1 - max_loras / num_adapters)+ active'(tau) / output_tokens x load_ms / 1000 x (1 + max_loras / 6 "
        "x min((4 active(tau) / max_loras - 3)+, 1))",
    ),
    Feature(
        "scan_share", "1", "scanned_us sum(rate) horizon (1 - 1/rho)+ / 2 / step(B): a full scan of the queue"
    ),
    Feature("input_tokens", "tokens", "sum(rate in) / sum(rate)"),
    Feature("output_tokens", "tokens", "sum(rate out) / sum(rate)"),
    Feature("context_tokens", "tokens", "context"),
    Feature("output_cv", "1", "sqrt(sum(rate E[out^2]) / sum(rate) / output_tokens^2 - 1)"),
    Feature("rate_sum", "req/s", "sum(rate)"),
    Feature("rate_evenness", "adapters", "sum(rate)^2 / sum(rate^2)"),
    Feature("tokens_evenness", "adapters", "sum(rate (in + out))^2 / sum((rate (in + out))^2)"),
    Feature("max_rate_share", "1", "max(rate) / sum(rate)"),
    Feature("arrival_cv", "1", "sqrt(sum(rate arrival_cv^2) / sum(rate))"),
    Feature("num_adapters", "adapters", "count"),
    Feature("max_loras", "slots", "the server's flag"),
    Feature("max_lora_rank", "rank", "the server's flag"),
    Feature("rank_fill", "1", "mean(rank) / max_lora_rank"),
)
"""Columns of every feature matrix, in order."""

FEATURE_NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
NUM_FEATURES: int = kernel.NUM_FEATURES
NUM_AGGREGATES: int = kernel.NUM_AGGREGATES
HORIZON_S = 3600.0
"""The window that throughput and starvation are defined over."""


def calibration_vector(
    calibration: Calibration, server: ServerConfig | None = None, *, horizon_s: float = HORIZON_S
) -> NDArray[np.float64]:
    """Pack what the kernels need of a calibration and of the flags that surrogates hold fixed.

    Parameters
    ----------
    calibration
        The estimators of the server.
    server
        Its `max_num_seqs`, `max_num_batched_tokens` and `block_size` are read; None takes defaults.
    horizon_s
        The window of throughput, seconds.

    Returns
    -------
    (NUM_CALIBRATION,) float64.
    """
    flags = ServerConfig(max_loras=1, max_lora_rank=1) if server is None else server
    vector = np.concatenate(
        [
            step_coefficients(calibration.step),
            scheduler_coefficients(calibration.scheduler),
            memory_vector(calibration),
            [
                calibration.load.cpu_ms,
                flags.max_num_seqs,
                flags.max_num_batched_tokens,
                flags.block_size,
                horizon_s,
            ],
        ]
    ).astype(np.float64)
    assert vector.shape == (kernel.NUM_CALIBRATION,), "the vector's layout is the kernel's"
    return vector


def traffic_columns(workload: Workload) -> NDArray[np.float64]:
    """Return what `models.kernels.features.adapter_terms` takes of each adapter, (num_adapters, 7) float64.

    Rank, rate, mean prompt and output tokens, cv of both, cv of gaps; NaN is the shape of ShareGPT.
    """
    columns = [
        workload.rank.astype(np.float64),
        workload.rate_rps,
        workload.input_tokens_mean,
        workload.output_tokens_mean,
        workload.input_tokens_cv,
        workload.output_tokens_cv,
        workload.arrival_cv,
    ]
    return np.ascontiguousarray(np.stack(columns, axis=1))


def adapter_terms(workload: Workload, rate_rps: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Return every adapter's terms, (num_adapters, NUM_AGGREGATES) float64; sums, then two maxima.

    Parameters
    ----------
    workload
        The adapters.
    rate_rps
        (num_adapters,) float64, taken instead of the workload's own rates where given.
    """
    terms = np.empty((workload.num_adapters, NUM_AGGREGATES))
    kernel.fill_terms(
        terms,
        workload.rank,
        workload.rate_rps if rate_rps is None else rate_rps,
        workload.input_tokens_mean,
        workload.output_tokens_mean,
        workload.input_tokens_cv,
        workload.output_tokens_cv,
        workload.arrival_cv,
    )
    return terms


def total(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the aggregates of adapters whose terms these are, (NUM_AGGREGATES,) float64."""
    sums = terms[:, : kernel.NUM_SUMS].sum(axis=0)
    return np.concatenate([sums, terms[:, kernel.NUM_SUMS :].max(axis=0)])


def aggregate(workload: Workload) -> NDArray[np.float64]:
    """Return the aggregates of one GPU that serves the whole workload, (NUM_AGGREGATES,) float64."""
    return total(adapter_terms(workload))


class Physics(NamedTuple):
    """What the formulas alone say of one GPU."""

    served_fraction: float
    itl_ms: float
    ttft_ms: float
    offered_tok_s: float


def features_of(
    aggregates: NDArray[np.float64], max_loras: int, max_lora_rank: int, calibration: NDArray[np.float64]
) -> tuple[NDArray[np.float32], Physics]:
    """Return the features, (NUM_FEATURES,) float32, and the physical estimates of one GPU.

    Parameters
    ----------
    aggregates
        (NUM_AGGREGATES,) float64 from `aggregate`.
    max_loras, max_lora_rank
        Flags of the server.
    calibration
        From `calibration_vector`.
    """
    out = np.empty(NUM_FEATURES, dtype=np.float32)
    return out, Physics(*kernel.fill_features(aggregates, max_loras, max_lora_rank, calibration, out))
