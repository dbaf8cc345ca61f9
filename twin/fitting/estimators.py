"""Mem_max, Lat_load and Lat_sched: fits of the estimators that single measurements identify."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from scipy.optimize import nnls

from twin.domain import LoadLaw, MemoryLaw, SchedulerLaw
from twin.errors import InvalidInputError, UnidentifiableError
from twin.fitting.tables import TABLES, column, full_column, read_rows
from twin.kernels.latency import FAR_QUEUE
from twin.latency import SCHEDULER_TERMS
from twin.measured import MEMORY_ERRORS
from twin.measurement_set import LOADS
from twin.memory import kv_bytes_per_token, lora_bytes_per_rank, lora_bytes_per_slot
from twin.metrics import mape_pct

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from twin.domain import ModelShape
    from twin.fitting.tables import TableRow

MIN_LAUNCHES = 3
Law = TypeVar("Law")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted(Generic[Law]):
    """A fitted law with its coefficients' standard errors and its error on the data, in %."""

    law: Law
    standard_errors: dict[str, float]
    error_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFit:
    """Mem_max, and how it agrees with the launches.

    Attributes
    ----------
    fitted
        The law; its error is the mean absolute error of KV tokens, %.
    verdict_accuracy
        Share of launches, failed ones included, whose `twin.memory.memory_verdict` the law predicts.
    max_known_rank
        Largest `max_lora_rank` that started.
    """

    fitted: Fitted[MemoryLaw]
    verdict_accuracy: float
    max_known_rank: int


def fit_memory(directory: Path, base_model: str, model: ModelShape) -> MemoryFit:
    """Fit the pool that KV cache and slots share, from launches (``memory_kv.csv``).

    Raises
    ------
    UnidentifiableError
        With fewer than three launches that started.
    """
    rows = [
        row
        for row in read_rows(directory, "memory_kv.csv")
        if row["model"] == base_model and (row["kv_tokens"] or row["error"] in MEMORY_ERRORS)
    ]
    slots, rank = full_column(rows, "max_loras"), full_column(rows, "max_lora_rank")
    measured = column(rows, "kv_tokens")
    slot_bytes = slots * (lora_bytes_per_slot(model) + lora_bytes_per_rank(model) * rank)
    started = ~np.isnan(measured)
    if started.sum() < MIN_LAUNCHES:
        raise UnidentifiableError(f"memory.pool_bytes needs {MIN_LAUNCHES} launches that started")
    pools = measured * kv_bytes_per_token(model) + slot_bytes
    pool_bytes = float(np.median(pools[started]))
    predicted = (pool_bytes - slot_bytes) / kv_bytes_per_token(model)
    verdicts = np.select(
        [predicted <= 0, predicted < model.max_model_len], ["no_memory", "kv_smaller_than_max_len"], "fits"
    )
    seen = np.array([MEMORY_ERRORS[row["error"]] if not row["kv_tokens"] else "fits" for row in rows])
    return MemoryFit(
        fitted=Fitted(
            law=MemoryLaw(pool_bytes=pool_bytes),
            standard_errors={"memory.pool_bytes": float(pools[started].std(ddof=1) / started.sum() ** 0.5)},
            error_pct=mape_pct(predicted, measured) or 0.0,
        ),
        verdict_accuracy=float(np.mean(verdicts == seen)),
        max_known_rank=int(rank[started].max()),
    )


def load_rows(directory: Path, base_model: str) -> list[TableRow]:
    """Return a base model's rows of ``load_times.csv``.

    Raises
    ------
    InvalidInputError
        Naming the line, where a load came from neither host memory nor disk.
    """
    rows = [row for row in read_rows(directory, LOADS) if row["model"] == base_model]
    for row in rows:
        if row["source"] not in {"cpu", "disk"}:
            raise InvalidInputError(f"{row.where}, source", f"must be cpu or disk, got {row['source']!r}")
    return rows


def fit_load(directory: Path, base_model: str) -> Fitted[LoadLaw]:
    """Fit the time to load an adapter, from medians by rank and source (``load_times.csv``)."""
    rows = load_rows(directory, base_model)
    from_cpu = [row for row in rows if row["source"] == "cpu"]
    from_disk = [row for row in rows if row["source"] == "disk"]
    padded = full_column(from_cpu, "adapter_rank") < full_column(from_cpu, "max_lora_rank")
    if padded.all() or not padded.any() or len(from_disk) <= MIN_LAUNCHES:
        raise UnidentifiableError(
            "load.cpu_padding_ms needs loads of full and of smaller rank, from disk too"
        )
    cpu, cpu_errors = _least_squares(
        np.column_stack((np.ones(len(from_cpu)), padded.astype(np.float64))),
        full_column(from_cpu, "median_ms"),
    )
    cpu_ms = cpu[0] + cpu[1] * (
        full_column(from_disk, "adapter_rank") < full_column(from_disk, "max_lora_rank")
    )
    disk, disk_errors = _least_squares(
        np.column_stack((np.ones(len(from_disk)), column(from_disk, "adapter_rank"))),
        full_column(from_disk, "median_ms") - cpu_ms,
    )
    law = LoadLaw(
        cpu_ms=cpu[0], cpu_padding_ms=cpu[1], disk_ms=max(disk[0], 0.0), disk_rank_ms=max(disk[1], 0.0)
    )
    predicted = np.concatenate(
        (
            law.cpu_ms + law.cpu_padding_ms * padded,
            cpu_ms + law.disk_ms + law.disk_rank_ms * column(from_disk, "adapter_rank"),
        )
    )
    measured = np.concatenate((column(from_cpu, "median_ms"), column(from_disk, "median_ms")))
    names = ("cpu_ms", "cpu_padding_ms", "disk_ms", "disk_rank_ms")
    errors = (*cpu_errors, *disk_errors)
    return Fitted(
        law=law,
        standard_errors={f"load.{name}": error for name, error in zip(names, errors, strict=True)},
        error_pct=mape_pct(predicted, measured) or 0.0,
    )


SLOT_BOUND_SHARE = 0.85
"""A run whose batches hold this share of its slots' adapters, fewer than there are, walks the queue."""


def fit_scheduler(directory: Path) -> Fitted[SchedulerLaw]:
    """Fit the scheduler's time in a step (``scheduler_time.csv``; Python code, any base model).

    Only runs where the number of requests that the scan passes is known are used: the whole queue
    where the slots bind, none where nothing waits.
    """
    rows = read_rows(directory, "scheduler_time.csv")
    slots, adapters, running, waiting, sched_ms, in_batch = (
        column(rows, name) for name in TABLES["scheduler_time.csv"]
    )
    slot_bound = (in_batch >= SLOT_BOUND_SHARE * slots) & (adapters > slots)
    idle_queue = waiting < 1.0
    used = (slot_bound | idle_queue) & (sched_ms > 0) & np.isfinite(running)
    slot_bound &= used
    if slot_bound.sum() < MIN_LAUNCHES:
        raise UnidentifiableError("scheduler.scanned_us needs runs that the slots bind")
    if (waiting[slot_bound] > FAR_QUEUE).sum() < MIN_LAUNCHES:
        raise UnidentifiableError(f"scheduler.far_us needs such runs with over {FAR_QUEUE} waiting")
    measured = 1e3 * sched_ms[used]
    scanned = np.where(slot_bound[used], waiting[used], 0.0)
    regressors = np.column_stack(
        (np.ones(used.sum()), running[used], scanned, np.maximum(scanned - FAR_QUEUE, 0.0))
    )
    coefficients, _ = nnls(regressors / measured[:, None], np.ones(used.sum()))
    predicted = regressors @ coefficients
    errors = _standard_errors(regressors / measured[:, None], predicted / measured - 1.0)
    law = SchedulerLaw(**{name: float(c) for name, c in zip(SCHEDULER_TERMS, coefficients, strict=True)})
    return Fitted(
        law=law,
        standard_errors={f"scheduler.{n}": error for n, error in zip(SCHEDULER_TERMS, errors, strict=True)},
        error_pct=mape_pct(predicted, measured) or 0.0,
    )


def _least_squares(
    regressors: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[list[float], list[float]]:
    coefficients, *_ = np.linalg.lstsq(regressors, values, rcond=None)
    errors = _standard_errors(regressors, regressors @ coefficients - values)
    return [float(value) for value in coefficients], errors


def _standard_errors(regressors: NDArray[np.float64], residuals: NDArray[np.float64]) -> list[float]:
    """Return each coefficient's standard error from least squares with equal weights."""
    freedom = max(regressors.shape[0] - regressors.shape[1], 1)
    variance = float(residuals @ residuals) / freedom
    covariance = variance * np.linalg.pinv(regressors.T @ regressors)
    return [float(value) for value in np.sqrt(np.maximum(np.diag(covariance), 0.0))]
