"""Long work: ``POST /simulate``, ``GET /jobs``, ``GET /jobs/{job_id}``, cancel and retry."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.handlers.bodies import READING, describe_body, problems
from service.handlers.dependencies import answer_of, bodies_of, services_of
from service.schemas.jobs import JobListSchema, JobSchema
from service.schemas.simulation import SimulateRequest
from service.storage.jobs import JobRecord, JobState  # noqa: TC001 (FastAPI reads the annotations)

router = APIRouter(tags=["jobs"])

STORE_DOWN = "The store is not reachable, or too much waits; see Retry-After"
ACTING = problems(
    s404="There is no such job, or it has expired",
    s409="It has ended, or it did not fail",
    s422="Not an id",
    s503=STORE_DOWN,
)


def accepted(record: JobRecord) -> Response:
    """Return 202 with a job, and where it is followed."""
    return answer_of(JobSchema.from_record(record), 202, {"Location": f"/jobs/{record.job_id}"})


@router.post(
    "/simulate",
    status_code=202,
    summary="Run the twin of one GPU that serves a whole workload, as a job.",
    openapi_extra=describe_body(SimulateRequest),
    responses={202: {"model": JobSchema}} | problems(**READING, s503=STORE_DOWN),
)
async def simulate(request: Request) -> Response:
    """Queue the run, once however often it is asked for; `Location` is where its report will be."""
    services = services_of(request)
    async with bodies_of(request).read(request) as body:
        record = await services.context.store_pool.run(lambda: services.simulations.submit(body))
    return accepted(record)


@router.get(
    "/jobs",
    summary="The newest jobs.",
    responses={200: {"model": JobListSchema}}
    | problems(s422="`limit` is out of range, or `state` is none", s503=STORE_DOWN),
)
async def jobs(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    state: Annotated[
        JobState | None, Query(description="`failed` lists dead letters of batches and steps too.")
    ] = None,
) -> Response:
    """Answer up to `limit` jobs without their reports, the newest first."""
    services = services_of(request)
    records = await services.context.store_pool.run(lambda: services.jobs.latest(limit, state))
    listed = JobListSchema(jobs=[JobSchema.from_record(record) for record in records])
    return answer_of(listed)


@router.get(
    "/jobs/{job_id}",
    summary="One job, with its report once it finished.",
    responses={200: {"model": JobSchema}}
    | problems(s404="There is no such job, or its report expired", s422="Not an id", s503=STORE_DOWN),
)
async def job(request: Request, job_id: str) -> Response:
    """Answer how a job stands."""
    services = services_of(request)
    record = await services.context.store_pool.run(lambda: services.jobs.get(job_id))
    return answer_of(JobSchema.from_record(record))


@router.post(
    "/jobs/{job_id}/cancel",
    summary="End a job that waits or runs.",
    responses={200: {"model": JobSchema}} | ACTING,
)
async def cancel(request: Request, job_id: str) -> Response:
    """Answer the job; what a recalibration has published by then stays."""
    services = services_of(request)
    record = await services.context.store_pool.run(lambda: services.jobs.cancel(job_id))
    return answer_of(JobSchema.from_record(record))


@router.post(
    "/jobs/{job_id}/retry",
    summary="Try a job again that failed or was cancelled.",
    responses={200: {"model": JobSchema}} | ACTING,
)
async def retry(request: Request, job_id: str) -> Response:
    """Answer the job; a recalibration goes on at the stage where it was."""
    services = services_of(request)
    record = await services.context.store_pool.run(lambda: services.jobs.retry(job_id))
    return answer_of(JobSchema.from_record(record))
