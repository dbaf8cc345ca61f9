"""The ranks vLLM accepts for `--max-lora-rank`, and which of them a GPU needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ACCEPTED_MAX_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of `--max-lora-rank` that every vLLM since 0.8 takes (newer ones also take 1)."""

_ACCEPTED = np.array(ACCEPTED_MAX_LORA_RANKS, dtype=np.int64)


def slot_rank(largest_rank: int) -> int:
    """Return the smallest accepted `max_lora_rank` that holds an adapter of this rank, 0 if none does."""
    index = int(np.searchsorted(_ACCEPTED, largest_rank))
    return ACCEPTED_MAX_LORA_RANKS[index] if index < len(ACCEPTED_MAX_LORA_RANKS) else 0


def slot_rank_classes(ranks: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return each rank's index in `ACCEPTED_MAX_LORA_RANKS`; their number where none holds it.

    Parameters
    ----------
    ranks
        (num_adapters,) integers.
    """
    return np.searchsorted(_ACCEPTED, ranks).astype(np.int64)
