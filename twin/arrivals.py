"""When requests arrive, and for which adapter.

Adapters that are Poisson throughout are one process with random owners. Every other adapter is a
renewal process of its own, in each piece of its schedule a stationary one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from twin.errors import InvalidInputError
from twin.kernels import requests as kernel
from twin.traffic import ARRIVAL_LAWS, REFERENCE_LOGNORMAL, SMALLEST_CV

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from twin.domain import Workload

MAX_REQUESTS = 20_000_000
"""A longer stream is refused: it would take more than 2 GB."""

SMALLEST_RATE_RPS = 1e-100
"""Nothing comes at a smaller rate, whose mean gap would overflow."""

LOGNORMAL = ARRIVAL_LAWS.index("lognormal")

KERNEL_LAW = np.array(
    [kernel.GAMMA, kernel.WEIBULL, kernel.LOGNORMAL, kernel.REFERENCE_LOGNORMAL], dtype=np.int8
)
"""The kernel's law for each of `ARRIVAL_LAWS` and for `REFERENCE_LOGNORMAL`."""


def arrivals_of(
    workload: Workload, rng: np.random.Generator, *, horizon_s: float, max_requests: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Draw the arrivals of one window.

    Parameters
    ----------
    workload
        The adapters with their rates and laws.
    rng
        Source of all randomness.
    horizon_s
        Length of the window, seconds, > 0.
    max_requests
        The stream ends after so many requests, if the window holds more.

    Returns
    -------
    arrival_ns
        (num_requests,) int64, sorted.
    adapter_of
        (num_requests,) int32.

    Raises
    ------
    InvalidInputError
        When the window would hold more than `MAX_REQUESTS` requests.
    """
    poisson = _always_poisson(workload)
    expected = float(workload.rate_rps[poisson].sum()) * horizon_s
    if expected > MAX_REQUESTS and max_requests >= MAX_REQUESTS:
        raise InvalidInputError("rate_rps", f"gives {expected:.3g} requests in the window, more than 2e7")
    if poisson.all():
        return _poisson_arrivals(workload, poisson, rng, horizon_s, max_requests)
    arrival_ns, adapter_of = _renewal_arrivals(workload, ~poisson, rng, horizon_s)
    if poisson.any():  # drawn last: a limit on requests moves no other draw
        more_ns, more_of = _poisson_arrivals(workload, poisson, rng, horizon_s, max_requests)
        arrival_ns = np.concatenate((arrival_ns, more_ns))
        adapter_of = np.concatenate((adapter_of, more_of))
    arrival_ns, adapter_of = kernel.sort_by_arrival(arrival_ns, adapter_of)
    return arrival_ns[:max_requests], adapter_of[:max_requests]


def _always_poisson(workload: Workload) -> NDArray[np.bool_]:
    poisson = (workload.arrival_cv == 1.0) & (workload.arrival_law != LOGNORMAL)
    for row, schedule in enumerate(workload.rate_schedules):
        poisson[row] &= schedule is None
    return poisson


def _poisson_arrivals(
    workload: Workload,
    poisson: NDArray[np.bool_],
    rng: np.random.Generator,
    horizon_s: float,
    max_requests: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    rows = np.flatnonzero(poisson).astype(np.int32)
    if rows.shape[0] == 0:
        return np.empty(0, np.int64), np.empty(0, np.int32)
    rate_rps = workload.rate_rps[rows]
    total_rps = float(rate_rps.sum())
    keep, alias = kernel.alias_table(rate_rps / total_rps)
    expected = total_rps * horizon_s
    capacity = int(min(expected + 6.0 * expected**0.5 + 16.0, float(max_requests)))
    arrival_ns, owner = kernel.poisson_arrivals(
        rng, total_rps, keep, alias, float(horizon_s), max_requests, max(capacity, 1)
    )
    return arrival_ns, owner if rows.shape[0] == workload.num_adapters else rows[owner]


def _renewal_arrivals(
    workload: Workload, chosen: NDArray[np.bool_], rng: np.random.Generator, horizon_s: float
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    owner_of, start_s, end_s, rate_rps, cv, named_law = _pieces(workload, chosen, horizon_s)
    law = _kernel_laws(named_law, cv)
    live = (rate_rps > SMALLEST_RATE_RPS) & (end_s > start_s)
    has_rate = live & (law != kernel.REFERENCE_LOGNORMAL)
    expected = float(np.sum(rate_rps[has_rate] * (end_s - start_s)[has_rate]))
    if expected > MAX_REQUESTS:
        raise InvalidInputError("rate_rps", f"gives {expected:.3g} requests in the window, more than 2e7")
    arrival_ns, adapter_of = kernel.renewal_arrivals(
        rng, owner_of[live], start_s[live], end_s[live], law[live], rate_rps[live], cv[live], MAX_REQUESTS
    )
    if arrival_ns.shape[0] > MAX_REQUESTS:
        raise InvalidInputError("rate_rps", "gives more than 2e7 requests in the window")
    return arrival_ns, adapter_of


def _pieces(
    workload: Workload, chosen: NDArray[np.bool_], horizon_s: float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return owner, start, end, rate, cv and law of all pieces; an adapter without a schedule is one."""
    scheduled = [(row, schedule) for row, schedule in enumerate(workload.rate_schedules) if schedule]
    steady = chosen.copy()
    steady[[row for row, _ in scheduled]] = False
    rows = np.flatnonzero(steady).astype(np.int32)
    columns = [
        (
            rows,
            np.zeros(rows.shape[0]),
            np.full(rows.shape[0], horizon_s, np.float64),
            workload.rate_rps[rows],
            workload.arrival_cv[rows],
            workload.arrival_law[rows],
        )
    ]
    columns += [
        (
            np.full(schedule.start_s.shape[0], row, np.int32),
            schedule.start_s,
            schedule.ends_s(horizon_s),
            schedule.rate_rps,
            schedule.arrival_cv,
            schedule.arrival_law,
        )
        for row, schedule in scheduled
    ]
    owner_of, start_s, end_s, rate_rps, cv, law = map(np.concatenate, zip(*columns, strict=True))
    return owner_of, start_s, end_s, rate_rps, cv, law


def _kernel_laws(law: NDArray[np.int8], cv: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return the kernel's law of each piece: gamma and Weibull of cv 1 are Poisson, cv 0 a fixed gap."""
    laws = KERNEL_LAW[law]
    laws[(cv == 1.0) & (law < LOGNORMAL)] = kernel.POISSON
    laws[(cv < SMALLEST_CV) & (law != REFERENCE_LOGNORMAL)] = kernel.FIXED
    return laws
