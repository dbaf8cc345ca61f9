"""What is asked of the placer: a workload, the server it runs on, and how sure the plan must be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.kernels import features as feature
from placer.errors import InvalidProblemError
from placer.margins import DEFAULT_MARGINS, Margins
from placer.ranks import ACCEPTED_MAX_LORA_RANKS, slot_rank_classes

if TYPE_CHECKING:
    from models.surrogate import Surrogate
    from twin.domain import Calibration, Workload

OBJECTIVES = ("min_gpus", "min_latency")

DEFAULT_STARVATION_RISK = 0.05

DEFAULT_NUM_TRIALS = 10_000
"""Some 50 ms, where the first plan does not meet its bound."""

DEFAULT_MAX_REPLICAS = 64

MAX_TRIALS = 10_000_000

MAX_GPUS = 1_000_000
"""A larger `max_gpus` is a mistake in units."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlacementProblem:
    """Place every adapter of a workload on some GPU so that no GPU starves or runs out of memory.

    Attributes
    ----------
    workload
        The adapters; its base model and GPU type are those of the calibration.
    calibration
        What one server costs in time and memory.
    surrogate
        The trees that predict starvation on that calibration.
    objective
        ``min_gpus``: the fewest GPUs; ``min_latency``: on `max_gpus` GPUs at most, the shortest requests
        of the slowest GPU.
    max_gpus
        GPUs at most; None is no limit.
    starvation_risk
        Largest predicted probability of starvation that one GPU may have, in (0, 1).
    max_ttft_ms
        Largest mean TTFT that one GPU may have, by prediction, milliseconds, > 0; GPUs then also keep
        the margins under which queues hardly form (`kept_margins`). None is no limit.
    max_model_len
        Longest request in tokens that every server takes; None takes the model's own.
    max_loras
        Slots of every server; None lets each have its own number.
    max_replicas
        Of one adapter that no single GPU carries, at most; 1 splits none. See `placer.replicas`.
    margins
        Limits that every GPU keeps beside `starvation_risk`.
    num_trials
        Adapters that the search for fewer GPUs may place anew, about; 0 is the first plan. The number,
        not a clock, ends the search.

    Raises
    ------
    InvalidProblemError
        Naming the field, adapters as ``adapters[i].rank``.
    """

    workload: Workload
    calibration: Calibration
    surrogate: Surrogate
    objective: str = "min_gpus"
    max_gpus: int | None = None
    starvation_risk: float = DEFAULT_STARVATION_RISK
    max_ttft_ms: float | None = None
    max_model_len: int | None = None
    max_loras: int | None = None
    max_replicas: int = DEFAULT_MAX_REPLICAS
    margins: Margins = DEFAULT_MARGINS
    num_trials: int = DEFAULT_NUM_TRIALS

    def __post_init__(self) -> None:
        self._check_objective()
        _require_integer("max_gpus", self.max_gpus, MAX_GPUS)
        longest = self.calibration.model.max_model_len
        _require_integer("max_model_len", self.max_model_len, longest)
        _require_integer("max_replicas", self.max_replicas, MAX_GPUS)
        if not 0 < self.starvation_risk < 1:  # NaN fails too
            raise InvalidProblemError("starvation_risk", f"must be in (0, 1), got {self.starvation_risk!r}")
        if self.max_ttft_ms is not None and not 0 < self.max_ttft_ms < math.inf:
            raise InvalidProblemError("max_ttft_ms", f"must be finite and > 0, got {self.max_ttft_ms!r}")
        if self.num_trials != 0:
            _require_integer("num_trials", self.num_trials, MAX_TRIALS)
        self._check_identity()
        self._check_max_loras()
        self._check_ranks()

    @property
    def kept_margins(self) -> Margins:
        """Margins that every GPU keeps: `margins`, and those of GPUs without queues where TTFT is limited."""
        return self.margins if self.max_ttft_ms is None else self.margins.without_queues()

    @property
    def longest_request_tokens(self) -> int:
        """Longest request that a server takes, tokens."""
        return self.calibration.model.max_model_len if self.max_model_len is None else self.max_model_len

    def _check_objective(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InvalidProblemError(
                "objective", f"must be one of {', '.join(OBJECTIVES)}, got {self.objective!r}"
            )
        if self.objective == "min_latency" and self.max_gpus is None:
            raise InvalidProblemError("max_gpus", "must be given with objective 'min_latency', got None")

    def _check_identity(self) -> None:
        for name in ("base_model", "gpu_type"):
            asked, known = getattr(self.workload, name), getattr(self.calibration, name)
            if asked != known:
                raise InvalidProblemError(name, f"must be {known!r}, the calibration's, got {asked!r}")
        if not self.surrogate.agrees_with(self.calibration):
            raise InvalidProblemError(
                "surrogate",
                f"must be trained on calibration {self.calibration.calibration_id!r} as it is, "
                f"got one of {self.surrogate.calibration_id!r}",
            )

    def _check_max_loras(self) -> None:
        """Refuse slots that the surrogate was not trained for: no extrapolation."""
        if self.max_loras is None:
            return
        least, greatest = self.surrogate.ranges[feature.MAX_LORAS].tolist()
        _require_integer("max_loras", self.max_loras, max(int(greatest), 1))
        if self.max_loras < least:
            raise InvalidProblemError("max_loras", f"must be >= {least:g}, got {self.max_loras}")

    def _check_ranks(self) -> None:
        """Refuse ranks whose slots would be larger than any that was measured: no extrapolation."""
        known = self.calibration.max_known_rank
        usable = sum(rank <= known for rank in ACCEPTED_MAX_LORA_RANKS)
        ranks = self.workload.rank
        refused = slot_rank_classes(ranks) >= usable
        if refused.any():
            row = int(np.argmax(refused))
            largest = ACCEPTED_MAX_LORA_RANKS[usable - 1] if usable else 0
            raise InvalidProblemError(
                f"adapters[{row}].rank",
                f"must be <= {largest}, the largest rank the calibration knows, got {ranks[row]}",
            )


def _require_integer(name: str, value: int | None, largest: int) -> None:
    if value is None:
        return
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or not 1 <= value <= largest:
        raise InvalidProblemError(name, f"must be an integer in 1..{largest}, got {value!r}")
