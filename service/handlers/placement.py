"""``POST /place``, and what the twin said of an answered plan."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from service.handlers.bodies import READING, describe_body, problems
from service.handlers.dependencies import bodies_of, json_response, ready_services, services_of
from service.schemas.plan import DeltaSchema, PlanOutcomeSchema, PlanSchema
from service.schemas.what_if import WhatIfRequest, WhatIfSchema
from service.schemas.workload import ColumnarWorkloadSchema, ReplaceRequest, WorkloadSchema

router = APIRouter(tags=["placement"])

PLACING_PROBLEMS = problems(**READING, s503="Busy or still starting; see Retry-After")


@router.post(
    "/place",
    summary="Plan a workload: how many GPUs, which adapter where, with which flags.",
    openapi_extra=describe_body(WorkloadSchema, ColumnarWorkloadSchema),
    responses={200: {"model": PlanSchema}} | PLACING_PROBLEMS,
)
async def place(request: Request) -> Response:
    """Answer from memory: neither the store nor a worker is needed.

    A plan that was not verified is replayed by a worker behind the answer; see ``GET /plans/{plan_id}``.
    """
    services = ready_services(request)
    async with bodies_of(request).read(request) as body:
        plan, answer = await services.context.place_pool.run(lambda: services.placements.planned(body))
        services.verifications.offer(plan, body)
    return json_response(answer)


@router.post(
    "/re-place",
    summary="From the plan in force to one that holds, with few moves and fewer restarts.",
    openapi_extra=describe_body(ReplaceRequest),
    responses={200: {"model": DeltaSchema}} | PLACING_PROBLEMS,
)
async def re_place(request: Request) -> Response:
    """Answer from memory; `max_moves` is a hard limit, and what it leaves broken is in `unmended`."""
    services = ready_services(request)
    async with bodies_of(request).read(request) as body:
        answer = await services.context.place_pool.run(lambda: services.replacements.answer(body))
    return json_response(answer)


@router.post(
    "/what-if",
    summary="What changes would ask for: GPUs now and then, and the way there.",
    openapi_extra=describe_body(WhatIfRequest),
    responses={200: {"model": WhatIfSchema}} | PLACING_PROBLEMS,
)
async def what_if(request: Request) -> Response:
    """Answer from memory; nothing that is in force changes.

    Each change is judged by itself: planned from scratch, and re-placed from the servers that run.
    """
    services = ready_services(request)
    pool = services.context.place_pool
    async with bodies_of(request).read(request) as body:
        asked = await pool.run(lambda: services.what_ifs.read(body))
        in_force = None
        if not asked.adapters:
            in_force = services.fleet.plan_of(asked.base_model, asked.gpu_type)
        return json_response(await pool.run(lambda: services.what_ifs.answer(asked, in_force)))


@router.get(
    "/plans/{plan_id}",
    summary="What the twin said of an answered plan, once a worker has replayed it.",
    responses={200: {"model": PlanOutcomeSchema}}
    | problems(
        s404="No replay of such a plan was queued, or its outcome expired",
        s422="Not an id",
        s503="The store is not reachable, or too much waits; see Retry-After",
    ),
)
async def plan_outcome(request: Request, plan_id: Annotated[str, Path(max_length=64)]) -> Response:
    """Answer how the replay stands; `verified` only where it was, and nothing starved."""
    services = services_of(request)
    return json_response(
        await services.context.store_pool.run(lambda: services.verifications.outcome(plan_id))
    )
