"""The calls of the service: for each route what is sent, and the model of its answer.

`service.client` has a method for each of them, with and without asyncio.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

import orjson
from pydantic import BaseModel, RootModel, ValidationError

from service.schemas.agents import AgentListSchema, DriftListSchema
from service.schemas.fleet import GpusNeededSchema, HistorySchema, InForceListSchema
from service.schemas.health import HealthSchema
from service.schemas.jobs import JobListSchema, JobSchema
from service.schemas.plan import DeltaSchema, PlanOutcomeSchema, PlanSchema
from service.schemas.recalibration import (
    MeasurementSetListSchema,
    MeasurementSetSchema,
    RefreshListSchema,
    WorkerListSchema,
)
from service.schemas.versions import CalibrationListSchema, SurrogateListSchema, SurrogateSchema
from service.schemas.what_if import WhatIfSchema
from service.schemas.workload import ColumnarWorkloadSchema, WorkloadSchema

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

T = TypeVar("T", bound="BaseModel | None")

HTTP_ERRORS = 400
MAX_SECONDS_DIGITS = 5

AnyWorkload = WorkloadSchema | ColumnarWorkloadSchema


class WorkloadAnswer(RootModel[AnyWorkload]):
    """A workload as it was put: by rows or by columns."""


class LoadmasterError(Exception):
    """Root of what a call may raise."""


class UnreachableError(LoadmasterError):
    """No answer came: the service is away, or the deadline passed."""


class UnexpectedAnswerError(LoadmasterError):
    """What came is no answer of this service."""


class ProblemError(LoadmasterError):
    """The service refused.

    Attributes
    ----------
    status, code, detail
        As in the problem it answered.
    field
        The part of the request to mend, None where there is none.
    retry_after_s
        Seconds after which it may succeed, None where it did not say.
    request_id
        For the service's logs.
    """

    def __init__(self, response: httpx.Response) -> None:
        problem = _problem(response)
        self.status = response.status_code
        self.code = str(problem.get("code", "unknown"))
        self.detail = str(problem.get("detail", response.text[:200]))
        self.field: str | None = problem.get("field")
        self.retry_after_s = retry_after_s(response)
        self.request_id = response.headers.get("x-request-id")
        super().__init__(f"{self.status} {self.code}: {self.detail}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One call: what is sent, the model of its answer (`NoneType`: no body), whether it may be repeated."""

    method: str
    path: str
    answer: type[T]
    content: bytes | None = None
    params: Mapping[str, str | int] | None = None
    idempotent: bool = True

    def read(self, response: httpx.Response) -> T:
        """Return the answer, or raise what it tells."""
        if response.status_code >= HTTP_ERRORS:
            raise ProblemError(response)
        if self.answer is NoneType:
            return None  # type: ignore[return-value]
        try:
            return self.answer.model_validate_json(response.content)  # type: ignore[union-attr]
        except ValidationError as error:
            raise UnexpectedAnswerError(f"{self.method} {self.path}: {error}") from error


def place(workload: Any) -> Call[PlanSchema]:
    """Return ``POST /place``."""
    return Call(method="POST", path="/place", answer=PlanSchema, content=_body(workload))


def re_place(request: Any) -> Call[DeltaSchema]:
    """Return ``POST /re-place``."""
    return Call(method="POST", path="/re-place", answer=DeltaSchema, content=_body(request))


def what_if(request: Any) -> Call[WhatIfSchema]:
    """Return ``POST /what-if``."""
    return Call(method="POST", path="/what-if", answer=WhatIfSchema, content=_body(request))


def plan_outcome(plan_id: str) -> Call[PlanOutcomeSchema]:
    """Return ``GET /plans/{plan_id}``."""
    return Call(method="GET", path=f"/plans/{_segment(plan_id)}", answer=PlanOutcomeSchema)


def put_workload(workload: Any) -> Call[PlanSchema]:
    """Return ``PUT /workload``."""
    return Call(method="PUT", path="/workload", answer=PlanSchema, content=_body(workload))


def patch_rates(
    rates: Mapping[str, float], rates_std: Mapping[str, float], which: Mapping[str, str]
) -> Call[PlanSchema]:
    """Return ``PATCH /workload``."""
    errors = {"rates_std": dict(rates_std)} if rates_std else {}
    content = orjson.dumps({"rates": dict(rates)} | errors)
    return Call(method="PATCH", path="/workload", answer=PlanSchema, content=content, params=which)


def workload(which: Mapping[str, str]) -> Call[WorkloadAnswer]:
    """Return ``GET /workload``."""
    return Call(method="GET", path="/workload", answer=WorkloadAnswer, params=which)


def withdraw_workload(which: Mapping[str, str]) -> Call[None]:
    """Return ``DELETE /workload``."""
    return Call(method="DELETE", path="/workload", answer=NoneType, params=which)


def workloads() -> Call[InForceListSchema]:
    """Return ``GET /workloads``."""
    return Call(method="GET", path="/workloads", answer=InForceListSchema)


def plan(which: Mapping[str, str]) -> Call[PlanSchema]:
    """Return ``GET /plan``."""
    return Call(method="GET", path="/plan", answer=PlanSchema, params=which)


def gpus_needed(which: Mapping[str, str]) -> Call[GpusNeededSchema]:
    """Return ``GET /gpus-needed``."""
    return Call(method="GET", path="/gpus-needed", answer=GpusNeededSchema, params=which)


def gpus_needed_history(which: Mapping[str, str]) -> Call[HistorySchema]:
    """Return ``GET /gpus-needed/history``."""
    return Call(method="GET", path="/gpus-needed/history", answer=HistorySchema, params=which)


def put_gpus_running(gpus_running: int, which: Mapping[str, str]) -> Call[None]:
    """Return ``PUT /gpus-running``."""
    content = orjson.dumps({"gpus_running": gpus_running})
    return Call(method="PUT", path="/gpus-running", answer=NoneType, content=content, params=which)


def simulate(request: Any) -> Call[JobSchema]:
    """Return ``POST /simulate``."""
    return Call(method="POST", path="/simulate", answer=JobSchema, content=_body(request))


def job(job_id: str) -> Call[JobSchema]:
    """Return ``GET /jobs/{job_id}``."""
    return Call(method="GET", path=f"/jobs/{_segment(job_id)}", answer=JobSchema)


def cancel(job_id: str) -> Call[JobSchema]:
    """Return ``POST /jobs/{job_id}/cancel``; not tried again, for what has ended cannot be."""
    path = f"/jobs/{_segment(job_id)}/cancel"
    return Call(method="POST", path=path, answer=JobSchema, idempotent=False)


def retry(job_id: str) -> Call[JobSchema]:
    """Return ``POST /jobs/{job_id}/retry``; not tried again, for it might queue it twice."""
    path = f"/jobs/{_segment(job_id)}/retry"
    return Call(method="POST", path=path, answer=JobSchema, idempotent=False)


def jobs(limit: int) -> Call[JobListSchema]:
    """Return ``GET /jobs``."""
    return Call(method="GET", path="/jobs", answer=JobListSchema, params={"limit": limit})


def surrogates() -> Call[SurrogateListSchema]:
    """Return ``GET /surrogates``."""
    return Call(method="GET", path="/surrogates", answer=SurrogateListSchema)


def calibrations() -> Call[CalibrationListSchema]:
    """Return ``GET /calibrations``."""
    return Call(method="GET", path="/calibrations", answer=CalibrationListSchema)


def activate(surrogate_version: str) -> Call[SurrogateSchema]:
    """Return ``POST /surrogates/{surrogate_version}/activate``."""
    path = f"/surrogates/{_segment(surrogate_version)}/activate"
    return Call(method="POST", path=path, answer=SurrogateSchema)


def roll_back(calibration_id: str) -> Call[SurrogateSchema]:
    """Return ``POST /surrogates/roll-back``; twice goes back twice."""
    content = orjson.dumps({"calibration_id": calibration_id})
    return Call(
        method="POST", path="/surrogates/roll-back", answer=SurrogateSchema, content=content, idempotent=False
    )


def recalibrate(request: Any) -> Call[JobSchema]:
    """Return ``POST /recalibrate``."""
    return Call(method="POST", path="/recalibrate", answer=JobSchema, content=_body(request))


def add_measurement_set(tables: Mapping[str, str]) -> Call[MeasurementSetSchema]:
    """Return ``POST /measurement-sets``."""
    content = orjson.dumps({"tables": dict(tables)})
    return Call(method="POST", path="/measurement-sets", answer=MeasurementSetSchema, content=content)


def measurement_sets() -> Call[MeasurementSetListSchema]:
    """Return ``GET /measurement-sets``."""
    return Call(method="GET", path="/measurement-sets", answer=MeasurementSetListSchema)


def workers() -> Call[WorkerListSchema]:
    """Return ``GET /workers``."""
    return Call(method="GET", path="/workers", answer=WorkerListSchema)


def agents() -> Call[AgentListSchema]:
    """Return ``GET /agents``."""
    return Call(method="GET", path="/agents", answer=AgentListSchema)


def drift() -> Call[DriftListSchema]:
    """Return ``GET /drift``."""
    return Call(method="GET", path="/drift", answer=DriftListSchema)


def refreshes() -> Call[RefreshListSchema]:
    """Return ``GET /refreshes``."""
    return Call(method="GET", path="/refreshes", answer=RefreshListSchema)


def health() -> Call[HealthSchema]:
    """Return ``GET /readyz``."""
    return Call(method="GET", path="/readyz", answer=HealthSchema)


def _body(document: Any) -> bytes:
    if isinstance(document, bytes):
        return document
    if isinstance(document, BaseModel):
        return document.model_dump_json(exclude_unset=True).encode()
    return orjson.dumps(document)


def _segment(name: str) -> str:
    """Return a name as one part of a path, whatever is in it."""
    return quote(name, safe="")


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        value = orjson.loads(response.content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def retry_after_s(response: httpx.Response) -> float | None:
    """Return the seconds that an answer asks to wait, None where it does not say."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() and len(text) <= MAX_SECONDS_DIGITS else None
