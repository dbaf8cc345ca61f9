"""Jobs and the stages of a recalibration."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from service.storage.jobs import JobRecord


class StageSchema(BaseModel):
    """A stage of a recalibration: when it was entered and left, in seconds since the epoch, how far it is."""

    stage: str
    started_at_s: float
    ended_at_s: float | None
    progress: float
    detail: str


class JobSchema(BaseModel):
    """A job. `report` is there once it finished, `error` once it failed; a recalibration has stages."""

    job_id: str
    kind: str
    request_id: str | None = Field(description="Of the request that queued it; the logs carry it.")
    state: Literal["queued", "started", "finished", "failed", "cancelled"]
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    report: dict[str, Any] | None
    error: str | None
    stage: str | None = Field(
        default=None,
        description="requested, measuring, fitting, simulating, training, validating, published, rejected, "
        "failed or cancelled.",
    )
    progress: float | None = Field(default=None, description="Of the stage, 0 to 1.")
    detail: str | None = Field(default=None, description="What the stage does, or why it ended so.")
    stages: list[StageSchema] = Field(
        default_factory=list, description="Those entered, the present one last."
    )
    calibration_id: str | None = None
    measurement_set: str | None = None
    surrogate_version: str | None = Field(default=None, description="The candidate's.")
    reason: str | None = Field(
        default=None,
        description="Why it was begun: for a refresh, where plans leave what was taught.",
    )

    @classmethod
    def from_record(cls, record: JobRecord) -> Self:
        """Return the answer for a job."""
        return cls.model_validate(record, from_attributes=True)


class JobListSchema(BaseModel):
    """The newest jobs, without their reports."""

    jobs: list[JobSchema]
