"""``POST /recalibrate``, ``/measurement-sets``, ``GET /workers``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from structlog.contextvars import get_contextvars

from service.handlers.bodies import READING, describe_body, problems
from service.handlers.dependencies import answer_of, bodies_of, services_of
from service.handlers.jobs import STORE_DOWN, accepted
from service.schemas.border import parse
from service.schemas.jobs import JobSchema
from service.schemas.recalibration import (
    MeasurementSetListSchema,
    MeasurementSetRequest,
    MeasurementSetSchema,
    RecalibrateRequest,
    RefreshListSchema,
    RefreshSchema,
    WorkerListSchema,
)
from service.services.jobs import record_of

if TYPE_CHECKING:
    from service.storage.recalibrations import Recalibration

router = APIRouter(tags=["recalibration"])


@router.post(
    "/recalibrate",
    status_code=202,
    summary="Measure, fit, simulate, train, validate and publish, as a job.",
    openapi_extra=describe_body(RecalibrateRequest),
    responses={202: {"model": JobSchema}}
    | problems(
        **READING,
        s404="There is no such measurement set",
        s409="A job of the same target is under way with other measurements, size or seed",
        s503=f"{STORE_DOWN}, or no such workload is in force",
    ),
)
async def recalibrate(request: Request) -> Response:
    """Begin, or join the job of the same target that is under way; `Location` is where it is followed.

    A refresh is of the workload of this base model and GPU type that is in force.
    """
    services, actor = services_of(request), request.state.actor
    request_id = get_contextvars().get("request_id")

    def submit(body: bytes) -> Recalibration:
        told = parse(RecalibrateRequest, body)
        asked = told.to_request()
        if told.refresh:
            plan = services.fleet.plan_of(told.base_model, told.gpu_type)
            return services.refresh.ask(plan, asked, actor=actor, request_id=request_id)
        return services.recalibrations.submit(asked, actor=actor, request_id=request_id)

    async with bodies_of(request).read(request) as body:
        begun = await services.context.store_pool.run(lambda: submit(body))
    return accepted(record_of(begun))


@router.get(
    "/refreshes",
    summary="Plans in force beside what their surrogates were taught.",
    responses={200: {"model": RefreshListSchema}} | problems(s503=STORE_DOWN),
)
async def refreshes(request: Request) -> Response:
    """Answer what the last looks at the plans in force found."""
    services = services_of(request)
    known = await services.context.store_pool.run(services.refresh.known)
    return answer_of(RefreshListSchema(refreshes=[RefreshSchema.from_state(one) for one in known]))


@router.post(
    "/measurement-sets",
    status_code=201,
    summary="Keep measured tables for recalibrations.",
    openapi_extra=describe_body(MeasurementSetRequest),
    responses={201: {"model": MeasurementSetSchema}}
    | problems(
        s408="The body did not arrive in time",
        s413="The body or a table is too large",
        s422="A table is missing or cannot be read; `field` names table, line and column",
        s503=STORE_DOWN,
    ),
)
async def add_measurement_set(request: Request) -> Response:
    """Answer its id, a hash of the tables: the same tables given twice are one set."""
    services = services_of(request)
    async with bodies_of(request).read(request) as body:
        added = await services.context.store_pool.run(
            lambda: services.measurements.add(MeasurementSetRequest.read(body))
        )
    return answer_of(MeasurementSetSchema.from_set(added), 201)


@router.get(
    "/measurement-sets",
    summary="Every measurement set.",
    responses={200: {"model": MeasurementSetListSchema}} | problems(s503=STORE_DOWN),
)
async def measurement_sets(request: Request) -> Response:
    """Answer the sets that disk and store have."""
    services = services_of(request)
    sets = await services.context.store_pool.run(services.measurements.known)
    listed = MeasurementSetListSchema(measurement_sets=[MeasurementSetSchema.from_set(one) for one in sets])
    return answer_of(listed)


@router.get(
    "/workers",
    summary="Workers and queues.",
    responses={200: {"model": WorkerListSchema}} | problems(s503=STORE_DOWN),
)
async def workers(request: Request) -> Response:
    """Answer the workers that the store has heard from lately, and how long the queues are."""
    services = services_of(request)
    listed = await services.context.store_pool.run(services.workers.listing)
    return answer_of(WorkerListSchema.model_validate(listed))
