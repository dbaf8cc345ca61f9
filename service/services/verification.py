"""Replays of answered plans, behind the answer: queued as jobs, looked up by plan."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

from pydantic import ValidationError

from service.errors import NotFoundError, ServiceError
from service.observability import UNQUEUED_VERIFICATIONS
from service.schemas.plan import PlanOutcomeSchema, PlanSchema, VerificationSchema

if TYPE_CHECKING:
    from service.services.bounded import BoundedPool
    from service.services.placement import Plan
    from service.settings import Settings
    from service.storage.jobs import JobRecord, JobStore

JOB_FUNCTION = "service.worker.jobs.run_verification"
NUM_REMEMBERED = 1000
"""Plans that this process has queued lately and does not offer again."""


class VerificationService:
    """Queues the replay of a plan once it is answered, and tells how it stands."""

    def __init__(self, jobs: JobStore, settings: Settings, pool: BoundedPool) -> None:
        self._jobs = jobs
        self._settings = settings
        self._pool = pool
        self._queued: OrderedDict[str, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, plan: Plan, document: bytes) -> None:
        """Queue the replay of a plan that was not verified, without making anybody wait.

        What cannot be queued is counted: the store is away, or enough plans wait already.
        """
        if plan.verification["status"] != "not_asked" or plan.plan_id in self._queued:
            return
        self._queued[plan.plan_id] = None
        while len(self._queued) > NUM_REMEMBERED:
            self._queued.popitem(last=False)
        task = asyncio.get_running_loop().create_task(self._submit(plan, document))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _submit(self, plan: Plan, document: bytes) -> None:
        try:
            await self._pool.run(lambda: self._queue(plan, document))
        except ServiceError as error:
            self._queued.pop(plan.plan_id, None)
            UNQUEUED_VERIFICATIONS.labels(error.code).inc()

    def _queue(self, plan: Plan, document: bytes) -> None:
        if self._jobs.num_waiting >= self._settings.max_queued_verifications:
            self._queued.pop(plan.plan_id, None)
            UNQUEUED_VERIFICATIONS.labels("enough_waiting").inc()
            return
        payload = {
            "document": document.decode(),
            "calibration_id": plan.problem.calibration.calibration_id,
            "surrogate_version": plan.problem.surrogate.version,
        }
        self._jobs.submit(job_id=job_of(plan.plan_id), kind="verify", function=JOB_FUNCTION, payload=payload)

    def outcome(self, plan_id: str) -> bytes:
        """Return how the replay of a plan stands, encoded (`PlanOutcomeSchema`).

        Raises
        ------
        NotFoundError
            No replay of it was queued, or its outcome has expired.
        """
        try:
            record = self._jobs.get(job_of(plan_id))
        except NotFoundError:
            raise NotFoundError("names no plan whose replay was queued", field="plan_id") from None
        return _outcome(plan_id, record).model_dump_json().encode()


def job_of(plan_id: str) -> str:
    """Return the id of the job that replays a plan."""
    return f"verify-{plan_id}"


def _outcome(plan_id: str, record: JobRecord) -> PlanOutcomeSchema:
    try:
        plan = None if record.report is None else PlanSchema.model_validate(record.report)
    except ValidationError:  # a report of another version of this service
        raise NotFoundError("names a plan whose outcome an older version wrote", field="plan_id") from None
    if plan is not None:
        verification = plan.verification
    elif record.state == "finished":  # its report has expired
        raise NotFoundError("names no plan whose replay was queued", field="plan_id")
    else:
        verification = VerificationSchema(status="failed" if record.state == "cancelled" else record.state)
    return PlanOutcomeSchema(plan_id=plan_id, verification=verification, plan=plan, error=record.error)
