"""``/livez``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.handlers.bodies import problems
from service.handlers.dependencies import answer_of, services_of
from service.observability import REGISTRY
from service.schemas.health import HealthSchema

router = APIRouter(tags=["health"])

STORE_STATES: dict[bool | None, Literal["up", "down"] | None] = {True: "up", False: "down", None: None}


@router.get("/livez", summary="The process runs.", responses={200: {"model": HealthSchema}})
async def livez() -> Response:
    """Answer that the event loop turns."""
    return answer_of(HealthSchema(status="alive"))


@router.get(
    "/readyz",
    summary="Placements are answered at full speed.",
    responses={200: {"model": HealthSchema}} | problems(s503="Still starting"),
)
async def readyz(request: Request) -> Response:
    """Answer from memory: 200 once kernels are compiled and a surrogate is loaded, store or no store."""
    services = services_of(request)
    context = services.context
    ready = context.ready.is_set() and bool(context.catalog.targets)
    health = HealthSchema(
        status="ready" if ready else "starting",
        store=STORE_STATES[services.fleet.store_up],
        calibrations=sorted(context.catalog.targets),
    )
    return answer_of(health, 200 if ready else 503)


@router.get("/metrics", summary="Prometheus metrics.", response_class=Response)
async def metrics(request: Request) -> Response:
    """Answer in Prometheus's text format; of several processes each has its own label `process`."""
    peers = request.app.state.peers
    text = generate_latest(REGISTRY) if peers is None else await peers.metrics()
    return Response(text, media_type=CONTENT_TYPE_LATEST)
