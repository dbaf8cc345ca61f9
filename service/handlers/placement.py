"""``POST /place``."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.handlers.bodies import describe_body, problems
from service.handlers.dependencies import bodies_of, json_response, ready_services
from service.schemas import ColumnarWorkloadSchema, PlanSchema, WorkloadSchema

router = APIRouter(tags=["placement"])


@router.post(
    "/place",
    summary="Plan a workload: how many GPUs, which adapter where, with which flags.",
    openapi_extra=describe_body(WorkloadSchema, ColumnarWorkloadSchema),
    responses={200: {"model": PlanSchema}}
    | problems(
        s408="The body did not arrive in time",
        s413="The body is too large",
        s422="The request is not valid; `field` names what to mend",
        s503="Busy or still starting; see Retry-After",
    ),
)
async def place(request: Request) -> Response:
    """Answer from memory: neither the store nor a worker is needed."""
    services = ready_services(request)
    async with bodies_of(request).read(request) as body:
        answer = await services.context.place_pool.run(lambda: services.placements.answer(body))
    return json_response(answer)
