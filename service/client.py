"""A typed client of the service, with and without asyncio.

Every answer is a model of `service.schemas`, every problem an exception. Calls whose repetition does no harm
are tried again after a broken connection, 429 and 503, within one deadline. All of these are: they read,
plan, state absolute values, or queue what is queued once.

    with Client("http://127.0.0.1:8080") as client:
        print(client.place(workload).num_gpus)
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import httpx
import orjson
from pydantic import BaseModel, ValidationError

from service.schemas import (
    GpusNeededSchema,
    HealthSchema,
    JobListSchema,
    JobSchema,
    PlanSchema,
    WorkloadSchema,
)
from service.schemas_fleet import InForceListSchema
from service.schemas_recalibration import MeasurementSetSchema, WorkerListSchema
from service.schemas_versions import CalibrationListSchema, SurrogateListSchema, SurrogateSchema
from service.schemas_what_if import WhatIfSchema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T", bound="BaseModel | None")

RETRIED = frozenset({429, 502, 503, 504})
LASTING = frozenset({"no_plan"})
"""Of these, what a repetition within seconds does not change."""

MAX_PAUSE_S = 10.0
FIRST_PAUSE_S = 0.1
HTTP_ERRORS = 400


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and how long a call is tried.

    Attributes
    ----------
    deadline_s
        For a call with all its tries and pauses.
    timeout_s
        For one try.
    tries
        At most.
    """

    deadline_s: float = 60.0
    timeout_s: float = 30.0
    tries: int = 4


class _Attempts:
    """The tries of one call: whether there is another one, and the pause before it."""

    def __init__(self, retries: Retries, now_s: Callable[[], float]) -> None:
        self._retries = retries
        self._now_s = now_s
        self._ends_s = now_s() + retries.deadline_s
        self._made = 0

    def timeout_s(self) -> float:
        """Return how long the next try may take."""
        self._made += 1
        return max(0.001, min(self._retries.timeout_s, self._ends_s - self._now_s()))

    def pause_s(self, asked_s: float | None) -> float | None:
        """Return the pause before another try, None where there is none; half of it is jitter."""
        grown_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (self._made - 1))
        pause_s = grown_s * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)
        pause_s = max(pause_s, asked_s or 0.0)
        is_over = self._made >= self._retries.tries or self._now_s() + pause_s >= self._ends_s
        return None if is_over else pause_s

    def judge(
        self, call: Call[Any], outcome: httpx.Response | httpx.TransportError
    ) -> httpx.Response | float:
        """Return the response that answers a call, or the pause in seconds before its next try.

        Raises
        ------
        ProblemError, UnreachableError
            Where trying again is in vain, not allowed, or was done often enough.
        """
        failure: LoadmasterError
        asked_s = None
        if isinstance(outcome, httpx.TransportError):
            failure = UnreachableError(f"{call.method} {call.path}: {outcome!r}")
        elif outcome.status_code not in RETRIED:
            return outcome
        else:
            failure, asked_s = ProblemError(outcome), retry_after_s(outcome)
            if failure.code in LASTING:
                raise failure
        pause_s = self.pause_s(asked_s) if call.idempotent else None
        if pause_s is None:
            raise failure
        return pause_s


class Client:
    """The service, called and waited for.

    Parameters
    ----------
    url
        Such as ``http://127.0.0.1:8080``.
    key
        An API key, where the service asks for one.
    retries
        How often and how long a call is tried.
    transport, sleep
        For tests: how requests are carried, and how a pause is made.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http = httpx.Client(base_url=url, headers=_headers(key), transport=transport)
        self._retries = retries or Retries()
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, call: Call[T]) -> T:
        """Return the answer of a call.

        Raises
        ------
        ProblemError, UnreachableError, UnexpectedAnswerError
            The service refused, did not answer, or something else answered.
        """
        attempts = _Attempts(self._retries, time.monotonic)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = self._http.request(
                    call.method,
                    call.path,
                    content=call.content,
                    params=call.params,
                    timeout=attempts.timeout_s(),
                )
            except httpx.TransportError as error:
                outcome = error
            told = attempts.judge(call, outcome)
            if isinstance(told, httpx.Response):
                return call.read(told)
            self._sleep(told)

    def place(self, workload: Any) -> PlanSchema:
        """Return a plan for a workload (a schema, a mapping or JSON)."""
        return self.send(place_call(workload))

    def what_if(self, request: Any) -> WhatIfSchema:
        """Return what changes would ask for; without adapters, of the workload in force."""
        return self.send(what_if_call(request))

    def put_workload(self, workload: Any) -> PlanSchema:
        """Put a workload in force and return its plan."""
        return self.send(put_workload_call(workload))

    def patch_rates(self, rates: Mapping[str, float], **which: str) -> PlanSchema:
        """Give adapters of the workload in force new rates and return the new plan."""
        return self.send(patch_rates_call(rates, which))

    def workload(self, **which: str) -> WorkloadSchema:
        """Return the workload in force; `which` names ``base_model`` and ``gpu_type`` of several."""
        return self.send(Call(method="GET", path="/workload", answer=WorkloadSchema, params=which))

    def withdraw_workload(self, **which: str) -> None:
        """Take a workload out of force."""
        self.send(Call(method="DELETE", path="/workload", answer=NoneType, params=which))

    def workloads(self) -> InForceListSchema:
        """Return what is in force."""
        return self.send(Call(method="GET", path="/workloads", answer=InForceListSchema))

    def plan(self, **which: str) -> PlanSchema:
        """Return the plan in force."""
        return self.send(Call(method="GET", path="/plan", answer=PlanSchema, params=which))

    def gpus_needed(self, **which: str) -> GpusNeededSchema:
        """Return how many GPUs to ask for."""
        return self.send(Call(method="GET", path="/gpus-needed", answer=GpusNeededSchema, params=which))

    def simulate(self, request: Any) -> JobSchema:
        """Queue a twin run and return its job."""
        return self.send(simulate_call(request))

    def job(self, job_id: str) -> JobSchema:
        """Return how a job stands."""
        return self.send(job_call(job_id))

    def jobs(self, limit: int = 50) -> JobListSchema:
        """Return the newest jobs."""
        return self.send(Call(method="GET", path="/jobs", answer=JobListSchema, params={"limit": limit}))

    def surrogates(self) -> SurrogateListSchema:
        """Return every surrogate version."""
        return self.send(Call(method="GET", path="/surrogates", answer=SurrogateListSchema))

    def calibrations(self) -> CalibrationListSchema:
        """Return every calibration that a surrogate was trained on."""
        return self.send(Call(method="GET", path="/calibrations", answer=CalibrationListSchema))

    def activate(self, surrogate_version: str) -> SurrogateSchema:
        """Put a version in force and return it."""
        return self.send(activate_call(surrogate_version))

    def roll_back(self, calibration_id: str) -> SurrogateSchema:
        """Put in force what was so before, and return it; not tried again, for it would go back further."""
        return self.send(roll_back_call(calibration_id))

    def add_measurement_set(self, tables: Mapping[str, str]) -> MeasurementSetSchema:
        """Keep measured tables (CSV text by file name) and return their id."""
        content = orjson.dumps({"tables": dict(tables)})
        path, answer = "/measurement-sets", MeasurementSetSchema
        return self.send(Call(method="POST", path=path, answer=answer, content=content))

    def recalibrate(self, request: Any) -> JobSchema:
        """Begin a recalibration, or join the one of its target; returns the job."""
        path, content = "/recalibrate", _body(request)
        return self.send(Call(method="POST", path=path, answer=JobSchema, content=content))

    def cancel(self, job_id: str) -> JobSchema:
        """End a job; not tried again, for what has ended cannot be."""
        path = f"/jobs/{job_id}/cancel"
        return self.send(Call(method="POST", path=path, answer=JobSchema, idempotent=False))

    def retry(self, job_id: str) -> JobSchema:
        """Try a job again that failed or was cancelled; sent once."""
        path = f"/jobs/{job_id}/retry"
        return self.send(Call(method="POST", path=path, answer=JobSchema, idempotent=False))

    def workers(self) -> WorkerListSchema:
        """Return workers and queues."""
        return self.send(Call(method="GET", path="/workers", answer=WorkerListSchema))

    def health(self) -> HealthSchema:
        """Return whether the service is ready, once it is."""
        return self.send(Call(method="GET", path="/readyz", answer=HealthSchema))


class AsyncClient:
    """The service, awaited; see `Client`."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(key), transport=transport)
        self._retries = retries or Retries()
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        """Return the answer of a call; raises as `Client.send`."""
        attempts = _Attempts(self._retries, time.monotonic)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self._http.request(
                    call.method,
                    call.path,
                    content=call.content,
                    params=call.params,
                    timeout=attempts.timeout_s(),
                )
            except httpx.TransportError as error:
                outcome = error
            told = attempts.judge(call, outcome)
            if isinstance(told, httpx.Response):
                return call.read(told)
            await self._sleep(told)

    async def place(self, workload: Any) -> PlanSchema:
        """Return a plan for a workload (a schema, a mapping or JSON)."""
        return await self.send(place_call(workload))

    async def what_if(self, request: Any) -> WhatIfSchema:
        """Return what changes would ask for; without adapters, of the workload in force."""
        return await self.send(what_if_call(request))

    async def put_workload(self, workload: Any) -> PlanSchema:
        """Put a workload in force and return its plan."""
        return await self.send(put_workload_call(workload))

    async def patch_rates(self, rates: Mapping[str, float], **which: str) -> PlanSchema:
        """Give adapters of the workload in force new rates and return the new plan."""
        return await self.send(patch_rates_call(rates, which))

    async def plan(self, **which: str) -> PlanSchema:
        """Return the plan in force."""
        return await self.send(Call(method="GET", path="/plan", answer=PlanSchema, params=which))

    async def gpus_needed(self, **which: str) -> GpusNeededSchema:
        """Return how many GPUs to ask for."""
        return await self.send(Call(method="GET", path="/gpus-needed", answer=GpusNeededSchema, params=which))

    async def simulate(self, request: Any) -> JobSchema:
        """Queue a twin run and return its job."""
        return await self.send(simulate_call(request))

    async def job(self, job_id: str) -> JobSchema:
        """Return how a job stands."""
        return await self.send(job_call(job_id))


def place_call(workload: Any) -> Call[PlanSchema]:
    """Return ``POST /place``."""
    return Call(method="POST", path="/place", answer=PlanSchema, content=_body(workload))


def what_if_call(request: Any) -> Call[WhatIfSchema]:
    """Return ``POST /what-if``."""
    return Call(method="POST", path="/what-if", answer=WhatIfSchema, content=_body(request))


def put_workload_call(workload: Any) -> Call[PlanSchema]:
    """Return ``PUT /workload``."""
    return Call(method="PUT", path="/workload", answer=PlanSchema, content=_body(workload))


def patch_rates_call(rates: Mapping[str, float], which: Mapping[str, str]) -> Call[PlanSchema]:
    """Return ``PATCH /workload``."""
    content = orjson.dumps({"rates": dict(rates)})
    return Call(method="PATCH", path="/workload", answer=PlanSchema, content=content, params=which)


def activate_call(surrogate_version: str) -> Call[SurrogateSchema]:
    """Return ``POST /surrogates/{surrogate_version}/activate``."""
    path = f"/surrogates/{surrogate_version}/activate"
    return Call(method="POST", path=path, answer=SurrogateSchema)


def roll_back_call(calibration_id: str) -> Call[SurrogateSchema]:
    """Return ``POST /surrogates/roll-back``."""
    return Call(
        method="POST",
        path="/surrogates/roll-back",
        answer=SurrogateSchema,
        content=orjson.dumps({"calibration_id": calibration_id}),
        idempotent=False,
    )


def simulate_call(request: Any) -> Call[JobSchema]:
    """Return ``POST /simulate``."""
    return Call(method="POST", path="/simulate", answer=JobSchema, content=_body(request))


def job_call(job_id: str) -> Call[JobSchema]:
    """Return ``GET /jobs/{job_id}``."""
    return Call(method="GET", path=f"/jobs/{job_id}", answer=JobSchema)


def _body(document: Any) -> bytes:
    if isinstance(document, bytes):
        return document
    if isinstance(document, BaseModel):
        return document.model_dump_json().encode()
    return orjson.dumps(document)


def _headers(key: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    return headers if key is None else headers | {"Authorization": f"Bearer {key}"}


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        value = orjson.loads(response.content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def retry_after_s(response: httpx.Response) -> float | None:
    """Return the seconds that an answer asks to wait, None where it does not say."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() and len(text) < 6 else None  # noqa: PLR2004 (a day is enough)
