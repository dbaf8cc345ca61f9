"""How far from every limit a GPU must stay: the numbers of acceptance that no tree knows.

They are measured, not derived: `loadmaster bench margins` replays plans of every family in the twin
for a row of values of each and prints how many GPUs starve and how many are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from placer.errors import InvalidProblemError


@dataclass(frozen=True, kw_only=True)
class Margins:
    """Limits that a GPU must keep beside `starvation_risk`; see ADR 10.

    Attributes
    ----------
    max_rho
        Offered load over the capacity that the formulas give, at most.
    max_kv_pressure, few_kv_requests
        KV tokens needed over KV tokens there, at most. A cache that holds about `few_kv_requests`
        requests, or fewer, may fill to a smaller share: its pressure p keeps
        ``p (1 + (few_kv_requests / requests)^2) <= max_kv_pressure``.
    min_slots_over_active, min_slots_over_hot
        Slots over adapters with a request running, and over those with many running nearly always, at
        least, where not every adapter has a slot. The first may wait for each other; a hot one holds
        its slot for good.
    min_served_fraction
        What the tree for throughput must predict, but for quiet GPUs; below 0.9 a server is starved.
    quiet_share
        A GPU that uses no more than this share of every limit is quiet. Only such a one may hold more
        adapters than any in training.
    risk_share
        Chance of starvation over what the tree for starvation says: of GPUs that keep the margins above,
        that many fewer starve than of all that the tree was trained on.
    risk_share_with_slots
        The same where every adapter of the GPU has a slot: no request waits for one, and what is served
        follows from the load, which the formulas know.
    """

    max_rho: float = 1.05
    max_kv_pressure: float = 1.03
    few_kv_requests: float = 80.0
    min_slots_over_active: float = 0.3
    min_slots_over_hot: float = 1.0
    min_served_fraction: float = 0.95
    quiet_share: float = 0.5
    risk_share: float = 0.2
    risk_share_with_slots: float = 0.05

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < np.inf:  # NaN fails too
                raise InvalidProblemError(f"margins.{field.name}", f"must be finite and >= 0, got {value!r}")

    @cached_property
    def vector(self) -> np.ndarray:
        """The margins in the order that `placer.kernels.acceptance` reads them, (9,) float64."""
        return np.array([getattr(self, field.name) for field in fields(self)], dtype=np.float64)

    def without_queues(self) -> Margins:
        """Return margins that leave requests next to nothing to wait for: capacity, KV cache and slots.

        A tree tells a mean TTFT of seconds badly where queues form, whose length is chance; beside
        these margins queues hardly form.
        """
        return replace(
            self,
            max_rho=min(self.max_rho, 0.95),
            max_kv_pressure=min(self.max_kv_pressure, 0.95),
            min_slots_over_active=max(self.min_slots_over_active, 1.25),
        )


DEFAULT_MARGINS = Margins()
