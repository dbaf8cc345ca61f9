"""The workloads in force: ``/workload``, ``GET /workloads``, ``GET /plan``, ``GET /gpus-needed``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.handlers.bodies import READING, describe_body, problems
from service.handlers.dependencies import answer_of, bodies_of, json_response, ready_services, services_of
from service.schemas.border import parse
from service.schemas.fleet import (
    GpusNeededSchema,
    HistorySchema,
    InForceListSchema,
    InForceSchema,
    RatesRequest,
    RunningRequest,
)
from service.schemas.plan import PlanSchema
from service.schemas.workload import ColumnarWorkloadSchema, WorkloadSchema
from service.storage.history import MAX_POINTS

router = APIRouter(tags=["fleet"])

BaseModelQuery = Annotated[
    str | None,
    Query(max_length=256, description="Needed where workloads of several base models are in force."),
]
GpuTypeQuery = Annotated[
    str | None,
    Query(max_length=256, description="Needed where workloads of several GPU types are in force."),
]

AMBIGUOUS = "Several workloads are in force: `field` names the query parameter to give"
NONE_IN_FORCE = "No such workload is in force"
READING_FOR_ONE = READING | {
    "s422": "The request is not valid, or several workloads are in force; `field` names what to mend"
}
WRITING_PROBLEMS = problems(
    **READING_FOR_ONE,
    s409="Others write the same workload; try again",
    s503="Busy, starting, no workload in force, or the store is not reachable; nothing has changed",
)


@router.put(
    "/workload",
    summary="Put a workload in force and answer its plan.",
    openapi_extra=describe_body(WorkloadSchema, ColumnarWorkloadSchema),
    responses={200: {"model": PlanSchema}} | WRITING_PROBLEMS,
)
async def put_workload(request: Request) -> Response:
    """Acknowledge once the store has it; what was in force before stays so until then.

    It replaces the workload of its base model and GPU type; those of others stay in force.
    """
    services = ready_services(request)
    async with bodies_of(request).read(request) as body:
        return json_response(await services.fleet.put_workload(body))


@router.patch(
    "/workload",
    summary="Give adapters of the workload in force new rates and answer the new plan.",
    openapi_extra=describe_body(RatesRequest),
    responses={200: {"model": PlanSchema}} | WRITING_PROBLEMS,
)
async def patch_workload(
    request: Request, base_model: BaseModelQuery = None, gpu_type: GpuTypeQuery = None
) -> Response:
    """Acknowledge once the store has it. Rates are absolute: the same call twice is as once."""
    services = ready_services(request)
    async with bodies_of(request).read(request) as body:
        rates = await services.context.place_pool.run(
            lambda: RatesRequest.read(body, services.context.settings)
        )
        key = services.fleet.chosen(base_model, gpu_type)
        return json_response(await services.fleet.patch_rates(key, rates))


@router.get(
    "/workload",
    summary="The workload in force, as it was put, with the rates of now.",
    responses={200: {"model": WorkloadSchema | ColumnarWorkloadSchema}}
    | problems(s422=AMBIGUOUS, s503=NONE_IN_FORCE),
)
async def get_workload(
    request: Request, base_model: BaseModelQuery = None, gpu_type: GpuTypeQuery = None
) -> Response:
    """Answer from memory."""
    fleet = services_of(request).fleet
    return json_response(fleet.document(fleet.chosen(base_model, gpu_type)))


@router.delete(
    "/workload",
    status_code=204,
    summary="Take a workload out of force.",
    responses=problems(
        s409="Others write the same workload; try again",
        s422=AMBIGUOUS,
        s503="Busy, no such workload is in force, or the store is not reachable",
    ),
)
async def delete_workload(
    request: Request, base_model: BaseModelQuery = None, gpu_type: GpuTypeQuery = None
) -> Response:
    """Acknowledge once the store has it; from then on there is no plan and no number of GPUs for it."""
    services = ready_services(request)
    await services.fleet.withdraw(services.fleet.chosen(base_model, gpu_type))
    return Response(status_code=204)


@router.get("/workloads", summary="The workloads in force.", responses={200: {"model": InForceListSchema}})
async def workloads(request: Request) -> Response:
    """Answer from memory: at most one for each base model and GPU type."""
    listed = [
        InForceSchema(
            base_model=current.key.base_model,
            gpu_type=current.key.gpu_type,
            version=current.version,
            num_adapters=len(current.plan.adapter_ids),
            offered_tok_s=current.plan.problem.workload.offered_tok_s,
            num_gpus=current.plan.placement.num_gpus,
            plan_id=current.plan.plan_id,
            feasible=current.plan.placement.feasible,
            as_of=current.confirmed_at,
        )
        for current in services_of(request).fleet.in_force
    ]
    return answer_of(InForceListSchema(workloads=listed))


@router.get(
    "/plan",
    summary="The plan in force.",
    responses={200: {"model": PlanSchema}} | problems(s422=AMBIGUOUS, s503=NONE_IN_FORCE),
)
async def plan(
    request: Request, base_model: BaseModelQuery = None, gpu_type: GpuTypeQuery = None
) -> Response:
    """Answer from memory."""
    fleet = services_of(request).fleet
    return json_response(fleet.plan(fleet.chosen(base_model, gpu_type)))


@router.get(
    "/gpus-needed",
    summary="How many GPUs to ask for, for an autoscaler.",
    responses={200: {"model": GpusNeededSchema}}
    | problems(s422=AMBIGUOUS, s503="There is no plan to answer from: fall back, do not scale to 0"),
)
async def gpus_needed(
    request: Request, base_model: BaseModelQuery = None, gpu_type: GpuTypeQuery = None
) -> Response:
    """Answer from memory: up at once, down to the largest number of a window.

    `raw` is the plan's own number; `stale` once the workload could not be confirmed for a while.
    """
    fleet = services_of(request).fleet
    return json_response(fleet.gpus_needed(fleet.chosen(base_model, gpu_type)))


@router.get(
    "/gpus-needed/history",
    summary="How many GPUs were needed, planned and running: a point for each change.",
    responses={200: {"model": HistorySchema}}
    | problems(
        s422="`limit` is out of range, or several workloads are in force: `field` names what to give",
        s503="No such workload is in force, or the store is not reachable",
    ),
)
async def gpus_needed_history(
    request: Request,
    base_model: BaseModelQuery = None,
    gpu_type: GpuTypeQuery = None,
    limit: Annotated[int, Query(ge=1, le=MAX_POINTS)] = MAX_POINTS,
) -> Response:
    """Answer the newest points, the oldest of them first: whatever process on the store observed them."""
    services = services_of(request)
    return json_response(await services.history.points(services.fleet.chosen(base_model, gpu_type), limit))


@router.put(
    "/gpus-running",
    status_code=204,
    summary="Report how many GPUs of a workload run, for the history.",
    openapi_extra=describe_body(RunningRequest),
    responses=problems(**READING_FOR_ONE, s503="No such workload is in force, or the store is not reachable"),
)
async def put_gpus_running(
    request: Request, base_model: BaseModelQuery = None, gpu_type: GpuTypeQuery = None
) -> Response:
    """Remember it for a quarter of an hour; it changes neither a plan nor the number that is asked for."""
    services = services_of(request)
    async with bodies_of(request).read(request) as body:
        running = await services.context.place_pool.run(lambda: parse(RunningRequest, body))
    await services.history.report_running(services.fleet.chosen(base_model, gpu_type), running.gpus_running)
    return Response(status_code=204)
