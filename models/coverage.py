"""Where a surrogate was taught: how many of its twin runs are near a server."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.array_files import pack, unpack
from models.errors import ArtefactError
from models.features import FEATURE_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEAR_BY = ("rho", "slots_over_active", "num_adapters", "input_tokens", "output_tokens")
"""Features in which a run must be near a server: load, slots, adapters and lengths."""

NEAR_FACTOR = 2.0
"""Near is within this factor, in each of them."""

_COLUMNS = np.array([FEATURE_NAMES.index(name) for name in NEAR_BY])
_SMALLEST = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coverage:
    """Twin runs by the features of `NEAR_BY`.

    Attributes
    ----------
    places
        (num_rows, len(NEAR_BY)) float32, logarithms.
    weight
        (num_rows,) float32: for how many runs each row stands.
    """

    places: NDArray[np.float32]
    weight: NDArray[np.float32]

    def near(self, row: NDArray[np.float32]) -> float:
        """Return how many runs are near a server whose features are `row`, (NUM_FEATURES,)."""
        apart = np.abs(self.places - places_of(row[None, :]))
        return float(self.weight[(apart <= math.log(NEAR_FACTOR)).all(axis=1)].sum())

    def to_bytes(self) -> bytes:
        """Return it as an npz file."""
        return pack({"places": self.places, "weight": self.weight})


def places_of(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the places of rows of features, (num_rows, NUM_FEATURES), as `Coverage` has them."""
    return np.log(np.maximum(rows[:, _COLUMNS], _SMALLEST)).astype(np.float32)


def coverage_from_bytes(content: bytes, name: str) -> Coverage:
    """Return what `Coverage.to_bytes` gave; `name` stands in errors.

    Raises
    ------
    ArtefactError
        For anything else.
    """
    arrays = unpack(content, name)
    places, weight = arrays.get("places"), arrays.get("weight")
    is_sound = (
        places is not None
        and weight is not None
        and places.shape == (len(weight), len(NEAR_BY))
        and bool(np.isfinite(places).all() and (weight >= 0).all())
    )
    if not is_sound or places is None or weight is None:
        raise ArtefactError(f"{name}: tells not where a surrogate was taught")
    return Coverage(places=places, weight=weight)
