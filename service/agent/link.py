"""The agent's side of the service's HTTP: typed calls, and points that survive a service that is away."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import structlog

from service.agent.points import Point, PointFile
from service.client import Call, Client, LoadmasterError, ProblemError, Retries
from service.schemas.agents import (
    AddedSchema,
    AgentSchema,
    DriftSchema,
    HeartbeatRequest,
    HeartbeatSchema,
    MeasurementsRequest,
    PointSchema,
    PointsSchema,
    RegisteredSchema,
    SampleRequest,
    TaskSchema,
    WorkAnswerSchema,
    WorkOutcomeRequest,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from service.agent.settings import AgentSettings
    from service.schemas.agents import WorkSchema

PATIENT = Retries(deadline_s=20.0, timeout_s=10.0, tries=5)
"""For one call; what is not answered by then is tried again later."""

GONE = frozenset({404, 409})
"""Statuses of what is not ours any more, or of nobody any more."""

BATCH = 100

log = structlog.get_logger()


class Link:
    """Calls to the service, under an agent's key."""

    def __init__(self, settings: AgentSettings) -> None:
        self._agent_id = settings.agent_id
        self._client = Client(settings.url, key=settings.key, retries=PATIENT)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def register(self, agent: AgentSchema) -> RegisteredSchema:
        """Register; the same call twice is as once."""
        return self._client.send(_post("/agents", agent, RegisteredSchema))

    def heartbeat(self, job_id: str | None, progress: float) -> bool:
        """Tell that we live; False where the task is not ours any more."""
        told = HeartbeatRequest(job_id=job_id, progress=progress)
        path = f"/agents/{self._agent_id}/heartbeat"
        return self._client.send(_post(path, told, HeartbeatSchema)).keep

    def take_work(self) -> WorkSchema | None:
        """Return the task that is ours now, None where there is none."""
        path = f"/agents/{self._agent_id}/work"
        return self._client.send(Call(method="POST", path=path, answer=WorkAnswerSchema)).work

    def report(self, job_id: str, points: list[Point]) -> AddedSchema:
        """Report points; those that are known already stand."""
        told = MeasurementsRequest(
            agent_id=self._agent_id,
            job_id=job_id,
            points=[PointSchema(key=point.key, table=point.table, row=dict(point.row)) for point in points],
        )
        return self._client.send(_post("/measurements", told, AddedSchema))

    def known_points(self, job_id: str) -> dict[str, Point]:
        """Return what was measured for a job by key."""
        answer = self._client.send(Call(method="GET", path=f"/measurements/{job_id}", answer=PointsSchema))
        return {row["key"]: Point(**row) for row in answer.points}

    def report_sample(self, sample: SampleRequest) -> DriftSchema:
        """Report what a live server did; returns how its calibration stands."""
        return self._client.send(_post(f"/agents/{self._agent_id}/samples", sample, DriftSchema))

    def end_work(self, job_id: str, outcome: WorkOutcomeRequest) -> TaskSchema:
        """End the work for a job."""
        return self._client.send(_post(f"/agents/{self._agent_id}/work/{job_id}", outcome, TaskSchema))


def _post(path: str, body: BaseModel, answer: type) -> Call:
    return Call(method="POST", path=path, answer=answer, content=body.model_dump_json().encode())


class SpooledSink:
    """Points go to a file first, then to the service; while it is away they wait in the file.

    Parameters
    ----------
    link, job_id
        Where they go and for what.
    directory
        Of the file, one for each job.
    """

    def __init__(self, link: Link, job_id: str, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._link = link
        self._job_id = job_id
        self._path = directory / f"{quote(job_id, safe='')}.jsonl"
        self._file = PointFile(self._path)
        self._unsent = dict(self._file.known())

    @property
    def num_unsent(self) -> int:
        """Points that are not reported yet."""
        return len(self._unsent)

    def known(self) -> Mapping[str, Point]:
        """Return what the service knows, and what is still on its way to it."""
        return self._link.known_points(self._job_id) | self._unsent

    def add(self, point: Point) -> None:
        """Keep a point on disk and report it, with those before it that could not be reported."""
        self._file.add(point)
        self._unsent[point.key] = point
        try:
            self.flush()
        except LoadmasterError as error:
            log.warning("points_wait", points=self.num_unsent, reason=str(error)[:200])

    def flush(self) -> None:
        """Report what is not reported yet.

        Raises
        ------
        ProblemError
            The service refuses them. Where it says that their job is gone, nobody wants them any more.
        LoadmasterError
            The service is away; the points stay on disk.
        """
        try:
            self._report()
        except ProblemError as error:
            if error.status in GONE and error.field == "job_id":
                log.warning("points_unwanted", points=self.num_unsent, reason=str(error)[:200])
                self._unsent.clear()
            raise

    def _report(self) -> None:
        waiting = list(self._unsent.values())
        for start in range(0, len(waiting), BATCH):
            batch = waiting[start : start + BATCH]
            self._link.report(self._job_id, batch)
            for point in batch:
                self._unsent.pop(point.key, None)

    def forget(self) -> None:
        """Remove the file, unless points in it are not reported yet: they wait for the next sink."""
        if not self._unsent:
            self._path.unlink(missing_ok=True)
