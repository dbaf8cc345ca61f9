"""Every kind of job under one roof: how it stands, ended, tried again."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from service.storage.jobs import JobRecord, JobState
from service.storage.recalibrations import PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.services.recalibration import RecalibrationService
    from service.storage.jobs import JobStore
    from service.storage.recalibrations import Recalibration, Stage

STATES: Mapping[Stage, JobState] = {
    "requested": "queued",
    "measuring": "started",
    "fitting": "started",
    "simulating": "started",
    "training": "started",
    "validating": "started",
    "published": "finished",
    "rejected": "finished",
    "failed": "failed",
    "cancelled": "cancelled",
}
SEARCHED = 1000
"""Jobs looked at for those of one state."""


class JobService:
    """Tells of jobs in the queue and of recalibrations alike."""

    def __init__(self, jobs: JobStore, recalibrations: RecalibrationService) -> None:
        self._jobs = jobs
        self._recalibrations = recalibrations

    def get(self, job_id: str) -> JobRecord:
        """Return one job.

        Raises
        ------
        NotFoundError
            There is none of this id, or it has expired.
        """
        if job_id.startswith(PREFIX):
            return record_of(self._recalibrations.get(job_id))
        return self._jobs.get(job_id)

    def latest(self, limit: int, state: JobState | None = None) -> tuple[JobRecord, ...]:
        """Return up to `limit` jobs without their reports, the newest first; of one state if given.

        Failed ones are complete: dead letters of batches and steps are among them.
        """
        num_searched = limit if state is None else SEARCHED
        found = [
            *self._jobs.latest(num_searched),
            *(record_of(one, with_report=False) for one in self._recalibrations.latest(num_searched)),
        ]
        if state == "failed":
            known = {job.job_id for job in found}
            found += [job for job in self._jobs.dead_letters() if job.job_id not in known]
        if state is not None:
            found = [job for job in found if job.state == state]
        found.sort(key=lambda job: job.created_at or datetime.min.replace(tzinfo=UTC), reverse=True)
        return tuple(found[:limit])

    def cancel(self, job_id: str) -> JobRecord:
        """End a job that waits or runs, and return it.

        Raises
        ------
        NotFoundError, ConflictError
            There is none of this id; it has ended.
        """
        if job_id.startswith(PREFIX):
            return record_of(self._recalibrations.cancel(job_id))
        return self._jobs.cancel(job_id)

    def retry(self, job_id: str) -> JobRecord:
        """Try a job again that failed or was cancelled, and return it.

        Raises
        ------
        NotFoundError, ConflictError
            There is none of this id; it did not fail.
        """
        if job_id.startswith(PREFIX):
            return record_of(self._recalibrations.retry(job_id))
        return self._jobs.retry(job_id)


def record_of(one: Recalibration, *, with_report: bool = True) -> JobRecord:
    """Return a recalibration as a job."""
    begun = [stage for stage in one.stages if stage.stage != "requested"]
    return JobRecord(
        job_id=one.job_id,
        kind="recalibrate",
        request_id=one.request_id,
        state=STATES[one.stage],
        created_at=_calendar(one.requested_at_s),
        started_at=_calendar(begun[0].started_at_s) if begun else None,
        ended_at=_calendar(one.stages[-1].ended_at_s) if one.has_ended else None,
        report=one.report if with_report else None,
        error=one.error,
        stage=one.stage,
        progress=one.stages[-1].progress,
        detail=one.stages[-1].detail,
        stages=tuple(asdict(stage) for stage in one.stages),
        calibration_id=one.target.calibration_id,
        measurement_set=one.measurement_set,
        surrogate_version=one.surrogate_version,
        reason=one.reason or None,
    )


def _calendar(at_s: float | None) -> datetime | None:
    return None if at_s is None else datetime.fromtimestamp(at_s, UTC)
