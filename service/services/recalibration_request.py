"""What is asked of recalibrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.services.measuring import MeasuringTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """What teaches a surrogate anew without measuring: a known calibration, and live servers to simulate.

    Attributes
    ----------
    calibration_digest
        Of the calibration (`service.storage.versions`).
    live_servers
        Directory of the servers (`service.storage.refreshes`).
    reason
        A sentence for the reader.
    """

    calibration_digest: str
    live_servers: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecalibrationRequest:
    """What is asked for; None takes what the installation does.

    Attributes
    ----------
    target
        Kind of server.
    measurement_set
        Id of a known set; None has agents measure, except for a refresh, whose candidate it helps to judge.
    num_rows, seed
        Servers to simulate, and the seed of all that is drawn.
    refresh
        Begins with simulating, from what it tells; None measures and fits first.
    """

    target: MeasuringTarget
    measurement_set: str | None = None
    num_rows: int | None = None
    seed: int = 0
    refresh: Refresh | None = None
