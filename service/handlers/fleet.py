"""The workload in force: ``PUT /workload``, ``GET /plan``, ``GET /gpus-needed``."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.handlers.bodies import describe_body, problems
from service.handlers.dependencies import bodies_of, json_response, ready_services, services_of
from service.schemas import GpusNeededSchema, PlanSchema, WorkloadSchema

router = APIRouter(tags=["fleet"])


@router.put(
    "/workload",
    summary="Put a workload in force and answer its plan.",
    openapi_extra=describe_body(WorkloadSchema),
    responses={200: {"model": PlanSchema}}
    | problems(
        s408="The body did not arrive in time",
        s413="The body is too large",
        s422="The request is not valid; `field` names what to mend",
        s503="Busy, starting, or the store is not reachable; the workload before stays in force",
    ),
)
async def put_workload(request: Request) -> Response:
    """Acknowledge once the store has it; what was in force before stays so until then."""
    services = ready_services(request)
    async with bodies_of(request).read(request) as body:
        return json_response(await services.fleet.put_workload(body))


@router.get(
    "/plan",
    summary="The plan in force.",
    responses={200: {"model": PlanSchema}} | problems(s503="No workload was ever put in force"),
)
async def plan(request: Request) -> Response:
    """Answer from memory."""
    return json_response(services_of(request).fleet.plan())


@router.get(
    "/gpus-needed",
    summary="How many GPUs the workload in force needs, for an autoscaler.",
    responses={200: {"model": GpusNeededSchema}}
    | problems(s503="There is no plan to answer from: fall back, do not scale to 0"),
)
async def gpus_needed(request: Request) -> Response:
    """Answer from memory; `stale` once the workload could not be confirmed for a while."""
    return json_response(services_of(request).fleet.gpus_needed())
