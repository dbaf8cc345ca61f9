"""The seam between a recalibration and whatever measures live servers for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from service.errors import InvalidRequestError

MAX_NAME = 80

MeasuringState = Literal["waiting", "measuring", "done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringTarget:
    """The kind of server to measure."""

    base_model: str
    gpu_type: str
    engine_version: str

    def __post_init__(self) -> None:
        for name in ("base_model", "gpu_type", "engine_version"):
            value: str = getattr(self, name)
            is_part = value and value[0].isalnum() and value.replace(".", "").replace("-", "").isalnum()
            if not (is_part and value.isascii() and len(value) <= MAX_NAME):
                raise InvalidRequestError(
                    f"must be up to {MAX_NAME} letters, digits, dots and dashes, got {value[:MAX_NAME]!r}",
                    field=name,
                )

    @property
    def calibration_id(self) -> str:
        """Name of the calibration that the measurements lead to."""
        return f"{self.gpu_type}/{self.base_model}/{self.engine_version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringOutcome:
    """How measuring for a job stands.

    Attributes
    ----------
    state
        ``waiting``: nobody has begun; ``measuring``; ``done``: `set_id` is there; ``failed`` for good.
    progress
        Share that is measured, 0 to 1.
    reason
        A sentence for the job's reader: what is waited for, what is measured, or why it failed.
    set_id
        The measurement set (`service.services.measurements`), None until it is done.
    """

    state: MeasuringState
    progress: float = 0.0
    reason: str = ""
    set_id: str | None = None

    def __post_init__(self) -> None:
        if (self.state == "done") != (self.set_id is not None):
            raise ValueError(f"set_id: must be given when done and only then, got {self.set_id!r}")
        if not 0.0 <= self.progress <= 1.0:
            raise ValueError(f"progress: must be in [0, 1], got {self.progress!r}")


class Measuring(Protocol):
    """Whoever measures. Every call may be repeated; none waits for more than the store."""

    def ask(self, job_id: str, target: MeasuringTarget) -> None:
        """Ask for a measurement set, once for each job."""
        ...

    def outcome(self, job_id: str) -> MeasuringOutcome:
        """Return how it stands; `waiting` for a job that nobody asked for."""
        ...

    def withdraw(self, job_id: str) -> None:
        """Stop what is measured for a job: it was cancelled."""
        ...
