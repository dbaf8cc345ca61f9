"""The placer's answer: which adapter on which GPU, with which flags, and what could not be placed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from models.surrogate import Prediction

BindingConstraint = Literal["throughput", "slots", "kv_memory", "none"]
"""What a GPU would run out of first; ``none`` where it is far from every limit."""

BoundKind = Literal["load", "count", "share"]
"""Which lower bound is the largest: see `placer.bounds`."""

UnplacedCode = Literal["request_too_long", "memory", "overload", "starvation_risk", "max_ttft_ms", "max_gpus"]
"""Why an adapter has no GPU: see `Unplaced`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GpuPlan:
    """One GPU of a plan: one vLLM server and the adapters it serves.

    Attributes
    ----------
    gpu
        Its number in the plan, from 0.
    rows
        (num_adapters of this GPU,) int64, rows of the workload in the order of placing, heaviest first;
        read-only.
    max_loras, max_lora_rank
        Flags of the server.
    predicted
        What the surrogate says of it.
    binding_constraint
        What it would run out of first.
    head_room
        What is left of ``kv_memory``, ``slots`` and ``throughput``, each as a share of its limit, at the
        rates that the GPU is planned for.
    load_margin
        Load that it is planned for beyond the mean, as a share of the mean; 0 where rates are certain.
    """

    gpu: int
    rows: NDArray[np.int64]
    max_loras: int
    max_lora_rank: int
    predicted: Prediction
    binding_constraint: BindingConstraint
    head_room: Mapping[str, float] = field(default_factory=dict)
    load_margin: float = 0.0

    @property
    def max_cpu_loras(self) -> int:
        """Adapters kept in host memory: all of the GPU's, and as many as vLLM demands (`max_loras`)."""
        return max(len(self.rows), self.max_loras)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplaced:
    """An adapter without a GPU.

    Attributes
    ----------
    row
        Its row in the workload.
    code
        ``request_too_long``: its mean request is longer than the server takes; ``memory``: no
        `max_loras` leaves room for one request beside its slots; ``overload``: one GPU alone cannot
        serve it, even at best; ``starvation_risk``: alone on a GPU it starves too probably, with any
        `max_loras`; ``max_ttft_ms``: alone on a GPU its TTFT is too long; ``max_gpus``: every GPU allowed
        is full.
    reason
        The same for a reader, with the numbers.
    """

    row: int
    code: UnplacedCode
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """A plan. Every adapter of the workload is on one GPU or in `unplaced`.

    Attributes
    ----------
    gpus
        The servers, numbered from 0; none is empty.
    unplaced
        Adapters without a GPU, by row.
    lower_bound
        GPUs that no plan with every adapter placed goes below; see `placer.bounds`.
    bound_rests_on
        Which bound that is: ``load`` rests on the calibration and `max_rho`, ``share`` on what the placer
        accepts of a GPU, ``count`` on the adapters that a GPU may hold.
    rate_z
        Standard deviations of its load that each GPU is planned for beyond the mean; 0 where rates are
        certain.
    """

    gpus: tuple[GpuPlan, ...]
    unplaced: tuple[Unplaced, ...]
    lower_bound: int
    bound_rests_on: BoundKind = "load"
    rate_z: float = 0.0

    @property
    def feasible(self) -> bool:
        """Whether every adapter has a GPU."""
        return not self.unplaced

    @property
    def num_gpus(self) -> int:
        """How many GPUs the plan uses."""
        return len(self.gpus)

    @property
    def starvation_probability(self) -> float:
        """The chance that some GPU of the plan starves, as the surrogate sees it."""
        safe = 1.0
        for gpu in self.gpus:
            safe *= 1 - gpu.predicted.starvation_probability
        return 1 - safe

    @property
    def gap(self) -> int | None:
        """GPUs above the lower bound; None where some adapter has no GPU."""
        return self.num_gpus - self.lower_bound if self.feasible else None
