"""A typed client of the service, with and without asyncio.

Every answer is a model of `service.schemas`, every problem an exception. Calls whose repetition does no harm
are tried again after a broken connection, 429, 502, 503 and 504, within one deadline. Nearly all are: they
read, plan, state absolute values, or queue what is queued once.

    with Client("http://127.0.0.1:8080") as client:
        print(client.place(workload).num_gpus)
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from service import calls
from service.attempts import Attempts, Retries
from service.calls import (
    Call,
    LoadmasterError,
    ProblemError,
    UnexpectedAnswerError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import BaseModel

    from service.calls import AnyWorkload
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

T = TypeVar("T", bound="BaseModel | None")

__all__ = [
    "AsyncClient",
    "Call",
    "Client",
    "LoadmasterError",
    "ProblemError",
    "Retries",
    "UnexpectedAnswerError",
    "UnreachableError",
]


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
        attempts = Attempts(self._retries, time.monotonic)
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
        return self.send(calls.place(workload))

    def re_place(self, request: Any) -> DeltaSchema:
        """Return how to get from the plan in force, which the request has as `current`, to one that holds."""
        return self.send(calls.re_place(request))

    def what_if(self, request: Any) -> WhatIfSchema:
        """Return what changes would ask for; without adapters, of the workload in force."""
        return self.send(calls.what_if(request))

    def plan_outcome(self, plan_id: str) -> PlanOutcomeSchema:
        """Return how the replay of an answered plan stands."""
        return self.send(calls.plan_outcome(plan_id))

    def put_workload(self, workload: Any) -> PlanSchema:
        """Put a workload in force and return its plan."""
        return self.send(calls.put_workload(workload))

    def patch_rates(
        self, rates: Mapping[str, float], *, rates_std: Mapping[str, float] | None = None, **which: str
    ) -> PlanSchema:
        """Give adapters of the workload in force new rates, with errors or not, and return the new plan."""
        return self.send(calls.patch_rates(rates, rates_std or {}, which))

    def workload(self, **which: str) -> AnyWorkload:
        """Return the workload in force; `which` names ``base_model`` and ``gpu_type`` of several."""
        return self.send(calls.workload(which)).root

    def withdraw_workload(self, **which: str) -> None:
        """Take a workload out of force."""
        self.send(calls.withdraw_workload(which))

    def workloads(self) -> InForceListSchema:
        """Return what is in force."""
        return self.send(calls.workloads())

    def plan(self, **which: str) -> PlanSchema:
        """Return the plan in force."""
        return self.send(calls.plan(which))

    def gpus_needed(self, **which: str) -> GpusNeededSchema:
        """Return how many GPUs to ask for."""
        return self.send(calls.gpus_needed(which))

    def gpus_needed_history(self, **which: str) -> HistorySchema:
        """Return how many GPUs were needed, planned and running until now."""
        return self.send(calls.gpus_needed_history(which))

    def put_gpus_running(self, gpus_running: int, **which: str) -> None:
        """Tell how many GPUs of the workload in force run."""
        self.send(calls.put_gpus_running(gpus_running, which))

    def simulate(self, request: Any) -> JobSchema:
        """Queue a twin run and return its job."""
        return self.send(calls.simulate(request))

    def job(self, job_id: str) -> JobSchema:
        """Return how a job stands."""
        return self.send(calls.job(job_id))

    def cancel(self, job_id: str) -> JobSchema:
        """End a job that waits or runs, and return it."""
        return self.send(calls.cancel(job_id))

    def retry(self, job_id: str) -> JobSchema:
        """Queue a job that failed or was cancelled once more, and return it."""
        return self.send(calls.retry(job_id))

    def jobs(self, limit: int = 50) -> JobListSchema:
        """Return the newest jobs."""
        return self.send(calls.jobs(limit))

    def surrogates(self) -> SurrogateListSchema:
        """Return every surrogate version."""
        return self.send(calls.surrogates())

    def calibrations(self) -> CalibrationListSchema:
        """Return every calibration that a surrogate was trained on."""
        return self.send(calls.calibrations())

    def activate(self, surrogate_version: str) -> SurrogateSchema:
        """Put a version in force and return it."""
        return self.send(calls.activate(surrogate_version))

    def roll_back(self, calibration_id: str) -> SurrogateSchema:
        """Put in force what was so before, and return it; not tried again, for it would go back further."""
        return self.send(calls.roll_back(calibration_id))

    def recalibrate(self, request: Any) -> JobSchema:
        """Queue a recalibration and return its job."""
        return self.send(calls.recalibrate(request))

    def add_measurement_set(self, tables: Mapping[str, str]) -> MeasurementSetSchema:
        """Keep measured tables (CSV text by file name) and return their id."""
        return self.send(calls.add_measurement_set(tables))

    def measurement_sets(self) -> MeasurementSetListSchema:
        """Return the measurement sets that the service keeps."""
        return self.send(calls.measurement_sets())

    def workers(self) -> WorkerListSchema:
        """Return the workers on the store."""
        return self.send(calls.workers())

    def agents(self) -> AgentListSchema:
        """Return the agents that measure."""
        return self.send(calls.agents())

    def drift(self) -> DriftListSchema:
        """Return how far samples of running servers are from their calibrations."""
        return self.send(calls.drift())

    def refreshes(self) -> RefreshListSchema:
        """Return how plans in force stand beside what their surrogates were taught."""
        return self.send(calls.refreshes())

    def health(self) -> HealthSchema:
        """Return whether the service is ready, once it is."""
        return self.send(calls.health())


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
        attempts = Attempts(self._retries, time.monotonic)
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
        return await self.send(calls.place(workload))

    async def re_place(self, request: Any) -> DeltaSchema:
        """Return how to get from the plan in force, which the request has as `current`, to one that holds."""
        return await self.send(calls.re_place(request))

    async def what_if(self, request: Any) -> WhatIfSchema:
        """Return what changes would ask for; without adapters, of the workload in force."""
        return await self.send(calls.what_if(request))

    async def plan_outcome(self, plan_id: str) -> PlanOutcomeSchema:
        """Return how the replay of an answered plan stands."""
        return await self.send(calls.plan_outcome(plan_id))

    async def put_workload(self, workload: Any) -> PlanSchema:
        """Put a workload in force and return its plan."""
        return await self.send(calls.put_workload(workload))

    async def patch_rates(
        self, rates: Mapping[str, float], *, rates_std: Mapping[str, float] | None = None, **which: str
    ) -> PlanSchema:
        """Give adapters of the workload in force new rates, with errors or not, and return the new plan."""
        return await self.send(calls.patch_rates(rates, rates_std or {}, which))

    async def workload(self, **which: str) -> AnyWorkload:
        """Return the workload in force; `which` names ``base_model`` and ``gpu_type`` of several."""
        return (await self.send(calls.workload(which))).root

    async def withdraw_workload(self, **which: str) -> None:
        """Take a workload out of force."""
        await self.send(calls.withdraw_workload(which))

    async def workloads(self) -> InForceListSchema:
        """Return what is in force."""
        return await self.send(calls.workloads())

    async def plan(self, **which: str) -> PlanSchema:
        """Return the plan in force."""
        return await self.send(calls.plan(which))

    async def gpus_needed(self, **which: str) -> GpusNeededSchema:
        """Return how many GPUs to ask for."""
        return await self.send(calls.gpus_needed(which))

    async def gpus_needed_history(self, **which: str) -> HistorySchema:
        """Return how many GPUs were needed, planned and running until now."""
        return await self.send(calls.gpus_needed_history(which))

    async def put_gpus_running(self, gpus_running: int, **which: str) -> None:
        """Tell how many GPUs of the workload in force run."""
        await self.send(calls.put_gpus_running(gpus_running, which))

    async def simulate(self, request: Any) -> JobSchema:
        """Queue a twin run and return its job."""
        return await self.send(calls.simulate(request))

    async def job(self, job_id: str) -> JobSchema:
        """Return how a job stands."""
        return await self.send(calls.job(job_id))

    async def cancel(self, job_id: str) -> JobSchema:
        """End a job that waits or runs, and return it."""
        return await self.send(calls.cancel(job_id))

    async def retry(self, job_id: str) -> JobSchema:
        """Queue a job that failed or was cancelled once more, and return it."""
        return await self.send(calls.retry(job_id))

    async def jobs(self, limit: int = 50) -> JobListSchema:
        """Return the newest jobs."""
        return await self.send(calls.jobs(limit))

    async def surrogates(self) -> SurrogateListSchema:
        """Return every surrogate version."""
        return await self.send(calls.surrogates())

    async def calibrations(self) -> CalibrationListSchema:
        """Return every calibration that a surrogate was trained on."""
        return await self.send(calls.calibrations())

    async def activate(self, surrogate_version: str) -> SurrogateSchema:
        """Put a version in force and return it."""
        return await self.send(calls.activate(surrogate_version))

    async def roll_back(self, calibration_id: str) -> SurrogateSchema:
        """Put in force what was so before, and return it; not tried again, for it would go back further."""
        return await self.send(calls.roll_back(calibration_id))

    async def recalibrate(self, request: Any) -> JobSchema:
        """Queue a recalibration and return its job."""
        return await self.send(calls.recalibrate(request))

    async def add_measurement_set(self, tables: Mapping[str, str]) -> MeasurementSetSchema:
        """Keep measured tables (CSV text by file name) and return their id."""
        return await self.send(calls.add_measurement_set(tables))

    async def measurement_sets(self) -> MeasurementSetListSchema:
        """Return the measurement sets that the service keeps."""
        return await self.send(calls.measurement_sets())

    async def workers(self) -> WorkerListSchema:
        """Return the workers on the store."""
        return await self.send(calls.workers())

    async def agents(self) -> AgentListSchema:
        """Return the agents that measure."""
        return await self.send(calls.agents())

    async def drift(self) -> DriftListSchema:
        """Return how far samples of running servers are from their calibrations."""
        return await self.send(calls.drift())

    async def refreshes(self) -> RefreshListSchema:
        """Return how plans in force stand beside what their surrogates were taught."""
        return await self.send(calls.refreshes())

    async def health(self) -> HealthSchema:
        """Return whether the service is ready, once it is."""
        return await self.send(calls.health())


def _headers(key: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    return headers if key is None else headers | {"Authorization": f"Bearer {key}"}
