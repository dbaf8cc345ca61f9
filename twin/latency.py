"""The latency laws as arrays for kernels."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np

from twin.domain import LoadLaw, SchedulerLaw, StepLaw

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.domain import Calibration

STEP_TERMS = tuple(field.name for field in fields(StepLaw))
SCHEDULER_TERMS = tuple(field.name for field in fields(SchedulerLaw))


def step_coefficients(law: StepLaw) -> NDArray[np.float64]:
    """Return the coefficients in the order `twin.kernels.latency.step_ms` takes them, (11,) float64."""
    return np.array([getattr(law, name) for name in STEP_TERMS], dtype=np.float64)


def with_slower_steps(calibration: Calibration, factor: float) -> Calibration:
    """Return the calibration of a server whose steps take `factor` times as long."""
    step = StepLaw(**{term: getattr(calibration.step, term) * factor for term in STEP_TERMS})
    return replace(calibration, step=step)


def scheduler_coefficients(law: SchedulerLaw) -> NDArray[np.float64]:
    """Return the coefficients in the order `scheduler_us` takes them, (4,) float64."""
    return np.array([getattr(law, name) for name in SCHEDULER_TERMS], dtype=np.float64)


def load_times_ns(
    law: LoadLaw, rank: NDArray[np.int32], max_lora_rank: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the time to bring each adapter into a slot, from host memory and from disk.

    An adapter below `max_lora_rank` is padded, which costs more than its own bytes save.

    Parameters
    ----------
    law
        The load law.
    rank
        (num_adapters,) int32.
    max_lora_rank
        The server's flag.

    Returns
    -------
    Two (num_adapters,) int64 arrays, nanoseconds.
    """
    cpu_ms = law.cpu_ms + np.where(rank < max_lora_rank, law.cpu_padding_ms, 0.0)
    disk_ms = law.disk_ms + law.disk_rank_ms * rank
    return (cpu_ms * 1e6).astype(np.int64), ((cpu_ms + disk_ms) * 1e6).astype(np.int64)
