"""The surrogate of one calibration: what the twin would answer, in nanoseconds.

Four trees correct the physical estimates of `models.features`; their leaves hold factors (for
throughput, ITL and TTFT) and calibrated probabilities (for starvation).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from models.features import FEATURE_NAMES, NUM_FEATURES, aggregate, calibration_vector
from models.kernels.surrogate import SurrogateArrays, evaluate_all
from models.tree import TreeArrays, checked, join

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.domain import Calibration, ServerConfig, Workload

TARGETS: tuple[str, ...] = ("throughput", "starvation", "itl", "ttft")
"""What the trees correct or predict, in the order of `SurrogateArrays.roots`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a surrogate says of one server.

    Attributes
    ----------
    throughput_tok_s, offered_tok_s
        Tokens served and tokens that arrive a second (prompts and generated).
    served_fraction
        The first over the second, in [0, 1].
    starvation_probability
        Chance that throughput is below 0.9 of what is offered.
    itl_ms, ttft_ms
        Means over completed requests.
    out_of_range
        Features, or flags of the server, that leave what the surrogate was trained on.
    """

    throughput_tok_s: float
    offered_tok_s: float
    served_fraction: float
    starvation_probability: float
    itl_ms: float
    ttft_ms: float
    out_of_range: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surrogate:
    """The trees of one calibration.

    Attributes
    ----------
    calibration_id
        Whose twin the trees learned from.
    calibration
        (NUM_CALIBRATION,) float64, see `models.features.calibration_vector`.
    throughput, starvation, itl, ttft
        One tree for each target.
    ranges
        (NUM_FEATURES, 2) float32: least and greatest value of each feature in training.
    version
        Hash of all of the above: equal versions predict equally.
    """

    calibration_id: str
    calibration: NDArray[np.float64]
    throughput: TreeArrays
    starvation: TreeArrays
    itl: TreeArrays
    ttft: TreeArrays
    ranges: NDArray[np.float32]
    version: str = field(init=False)
    _arrays: SurrogateArrays = field(init=False, repr=False)

    def __post_init__(self) -> None:
        trees = [checked(getattr(self, name), NUM_FEATURES, name) for name in TARGETS]
        nodes, roots = join(trees)
        arrays = SurrogateArrays(self.calibration, *nodes, roots)
        digest = hashlib.sha256(self.calibration_id.encode())
        for array in (*arrays, self.ranges):
            digest.update(array.tobytes())
        object.__setattr__(self, "version", digest.hexdigest()[:12])
        object.__setattr__(self, "_arrays", arrays)

    def kernel_args(self) -> SurrogateArrays:
        """Return what `models.kernels.surrogate.evaluate` takes as its first argument."""
        return self._arrays

    def agrees_with(self, calibration: Calibration, server: ServerConfig | None = None) -> bool:
        """Tell whether the trees were trained on the twin of exactly this calibration and flags."""
        return np.array_equal(self.calibration, calibration_vector(calibration, server))

    def predict(self, workload: Workload, server: ServerConfig) -> Prediction:
        """Return what the twin would say of one server that serves the whole workload.

        Memory is not checked: `twin.memory.fits_in_memory` says whether such a server starts.
        """
        return self.predict_aggregates(aggregate(workload), server)

    def predict_aggregates(self, aggregates: NDArray[np.float64], server: ServerConfig) -> Prediction:
        """Return the prediction for a GPU given by `models.features.aggregate`."""
        row = np.empty(NUM_FEATURES, dtype=np.float32)
        served, starvation, itl_ms, ttft_ms, offered_tok_s = evaluate_all(
            self._arrays, aggregates, server.max_loras, server.max_lora_rank, row
        )
        return Prediction(
            throughput_tok_s=served * offered_tok_s,
            offered_tok_s=offered_tok_s,
            served_fraction=served,
            starvation_probability=starvation,
            itl_ms=itl_ms,
            ttft_ms=ttft_ms,
            out_of_range=self.out_of_range(row) + self._foreign_flags(server),
        )

    def out_of_range(self, row: NDArray[np.float32]) -> tuple[str, ...]:
        """Return the names of the features of `row`, (NUM_FEATURES,), that training did not cover."""
        outside = (row < self.ranges[:, 0]) | (row > self.ranges[:, 1])
        return tuple(FEATURE_NAMES[column] for column in np.flatnonzero(outside))

    def _foreign_flags(self, server: ServerConfig) -> tuple[str, ...]:
        from models.kernels import features as kernel  # noqa: PLC0415 (placed beside its only use)

        trained = {
            "max_num_seqs": kernel.MAX_NUM_SEQS,
            "max_num_batched_tokens": kernel.MAX_NUM_BATCHED_TOKENS,
            "block_size": kernel.BLOCK_SIZE,
        }
        return tuple(
            name for name, place in trained.items() if getattr(server, name) != self.calibration[place]
        )
