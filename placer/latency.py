"""The objective `min_latency`: so many GPUs, loads spread so that the slowest answers soonest.

A GPU's time is its predicted TTFT + ITL x the fleet's mean output tokens: what an answer of usual length
takes there, whatever lengths its own adapters have. Adapters go, the heaviest first, to
the GPU on which that is shortest with them; then adapters leave the slowest GPU for others as
long as the slowest gets faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.features import NUM_FEATURES
from placer.kernels.spreading import relieve, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from placer.kernels.acceptance import Oracle
    from placer.kernels.packing import Fleet, Items

MAX_ROUNDS = 400
"""Adapters that leave the slowest GPU, at most."""


def shortest_requests(oracle: Oracle, items: Items, rows: NDArray[np.int64], fleet: Fleet) -> int:
    """Spread rows over the GPUs of an empty fleet; return how many are in use.

    Adapters that no GPU takes, or none alone, are without one, with the packer's reason.
    """
    order = rows[np.argsort(-items.utilisation[rows], kind="stable")]
    scratch = np.empty(NUM_FEATURES, dtype=np.float32)
    rate, output_tokens = items.traffic[rows, 1], items.traffic[rows, 3]
    mean_tokens = float((rate * output_tokens).sum() / max(rate.sum(), 1e-300))
    used = int(spread(oracle, items, order, mean_tokens, fleet, scratch))
    relieve(oracle, items, fleet, used, MAX_ROUNDS, mean_tokens, scratch)
    return used
