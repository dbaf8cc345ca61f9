"""Agents: ``/agents`` and what is below it, ``/measurements``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import structlog
from fastapi import APIRouter, Request, Response

from service.agent.points import Point
from service.errors import InvalidRequestError
from service.handlers.bodies import READING, describe_body, problems
from service.handlers.dependencies import answer_of, bodies_of, services_of
from service.schemas.agents import (
    AddedSchema,
    AgentListSchema,
    AgentSchema,
    AgentViewSchema,
    DriftListSchema,
    DriftSchema,
    HeartbeatRequest,
    HeartbeatSchema,
    MeasurementsRequest,
    PointsSchema,
    RegisteredSchema,
    SampleRequest,
    TaskSchema,
    WorkAnswerSchema,
    WorkOutcomeRequest,
    WorkSchema,
)
from service.schemas.border import parse
from service.services.drift import LiveSample

if TYPE_CHECKING:
    from service.services.drift import Drift
    from service.storage.agents import MeasuringTask

router = APIRouter(tags=["agents"])
log = structlog.get_logger()

UNKNOWN_AGENT = "No agent of this id has registered"
NO_TASK = "No such agent, or nothing is measured for such a job"
NOT_HELD = "The agent does not hold this task, or it has ended"
STORE_DOWN = "The store is not reachable; see Retry-After"
TAKING_IN = READING | {"s503": STORE_DOWN}


@router.post(
    "/agents",
    summary="Register an agent, or tell what has changed about it.",
    openapi_extra=describe_body(AgentSchema),
    responses={200: {"model": RegisteredSchema}} | problems(**TAKING_IN),
)
async def register(request: Request) -> Response:
    """Answer once the store has it; the same call twice is as once."""
    services = services_of(request)
    async with bodies_of(request).read(request) as body:
        agent = await services.context.store_pool.run(
            lambda: services.agents.register(parse(AgentSchema, body).to_record())
        )
    answer = RegisteredSchema(agent_id=agent.agent_id, lease_s=services.agents.lease_s)
    return answer_of(answer)


@router.get(
    "/agents",
    summary="The agents, when each was last heard of, and what it does.",
    responses={200: {"model": AgentListSchema}} | problems(s503=STORE_DOWN),
)
async def agents(request: Request) -> Response:
    """Answer from the store."""
    services = services_of(request)
    views = await services.context.store_pool.run(services.agents.agents)
    listed = AgentListSchema(agents=[AgentViewSchema.from_view(view) for view in views])
    return answer_of(listed)


@router.delete(
    "/agents/{agent_id}",
    status_code=204,
    summary="Forget an agent that measures nothing.",
    responses=problems(s422="Not an id", s404=UNKNOWN_AGENT, s409="It measures", s503=STORE_DOWN),
)
async def forget(request: Request, agent_id: str) -> Response:
    """Acknowledge once the store has it; an agent that lives registers again."""
    services = services_of(request)
    await services.context.store_pool.run(lambda: services.agents.forget(agent_id))
    return Response(status_code=204)


@router.post(
    "/agents/{agent_id}/heartbeat",
    summary="Tell that an agent lives, and prolong its lease.",
    openapi_extra=describe_body(HeartbeatRequest),
    responses={200: {"model": HeartbeatSchema}} | problems(s404=UNKNOWN_AGENT, **TAKING_IN),
)
async def heartbeat(request: Request, agent_id: str) -> Response:
    """Answer whether the task it names is still the agent's."""
    services = services_of(request)

    def hear(body: bytes) -> bool:
        told = parse(HeartbeatRequest, body)
        return services.agents.heartbeat(agent_id, told.job_id, told.progress)

    async with bodies_of(request).read(request) as body:
        keep = await services.context.store_pool.run(lambda: hear(body))
    return answer_of(HeartbeatSchema(keep=keep))


@router.post(
    "/agents/{agent_id}/work",
    summary="Lease the oldest task that an agent can measure.",
    responses={200: {"model": WorkAnswerSchema}}
    | problems(
        s422="Not an id", s404=UNKNOWN_AGENT, s409="Others take the same task; try again", s503=STORE_DOWN
    ),
)
async def work(request: Request, agent_id: str) -> Response:
    """Answer the task that the agent holds already, if any: it never holds two."""
    services = services_of(request)
    task = await services.context.store_pool.run(lambda: services.agents.take_work(agent_id))
    leased = None
    if task is not None:
        leased = WorkSchema(
            job_id=task.job_id,
            base_model=task.base_model,
            gpu_type=task.gpu_type,
            engine_version=task.engine_version,
            lease_s=services.agents.lease_s,
        )
    return answer_of(WorkAnswerSchema(work=leased))


@router.post(
    "/agents/{agent_id}/work/{job_id}",
    summary="End an agent's work: measured, given back, or failed.",
    openapi_extra=describe_body(WorkOutcomeRequest),
    responses={200: {"model": TaskSchema}} | problems(s404=NO_TASK, s409=NOT_HELD, **TAKING_IN),
)
async def end_work(request: Request, agent_id: str, job_id: str) -> Response:
    """Answer how the task stands; of what was measured a measurement set is made."""
    services = services_of(request)

    def end(body: bytes) -> MeasuringTask:
        told = parse(WorkOutcomeRequest, body)
        if told.state != "measured":
            return services.agents.give_back(agent_id, job_id, told.reason, failed=told.state == "failed")
        if told.manifest is None:
            raise InvalidRequestError("must be given with `measured`", field="manifest")
        return services.agents.finish(agent_id, job_id, told.manifest)

    async with bodies_of(request).read(request) as body:
        task = await services.context.store_pool.run(lambda: end(body))
    return answer_of(TaskSchema.from_task(task))


@router.post(
    "/measurements",
    summary="Report measured points, each once.",
    openapi_extra=describe_body(MeasurementsRequest),
    responses={200: {"model": AddedSchema}} | problems(s404=NO_TASK, s409=NOT_HELD, **TAKING_IN),
)
async def add_measurements(request: Request) -> Response:
    """Answer once the store has them. A key that is known stands: the same call twice is as once."""
    services = services_of(request)

    def add(body: bytes) -> tuple[int, int]:
        told = parse(MeasurementsRequest, body)
        points = [Point(key=point.key, table=point.table, row=point.row) for point in told.points]
        return services.agents.add_points(told.agent_id, told.job_id, points)

    async with bodies_of(request).read(request) as body:
        added, known = await services.context.store_pool.run(lambda: add(body))
    return answer_of(AddedSchema(added=added, known=known))


@router.get(
    "/measurements/{job_id}",
    summary="The points that were measured for a job.",
    responses={200: {"model": PointsSchema}}
    | problems(s422="Not an id", s404="Nothing is measured for such a job", s503=STORE_DOWN),
)
async def measurements(request: Request, job_id: str) -> Response:
    """Answer what an agent that goes on need not measure again."""
    services = services_of(request)
    points = await services.context.store_pool.run(lambda: services.agents.points(job_id))
    rows = [{"key": point.key, "table": point.table, "row": dict(point.row)} for point in points]
    return answer_of(PointsSchema(job_id=job_id, points=rows))


@router.post(
    "/agents/{agent_id}/samples",
    summary="Report what a live server did, for comparison with its calibration.",
    openapi_extra=describe_body(SampleRequest),
    responses={200: {"model": DriftSchema}} | problems(**TAKING_IN),
)
async def add_sample(request: Request, agent_id: str) -> Response:
    """Simulate the same load, keep the difference, and answer how the calibration stands now."""
    services = services_of(request)

    def compare(body: bytes) -> Drift:
        sample = LiveSample(**parse(SampleRequest, body).model_dump())
        log.debug("sample", agent_id=agent_id, calibration_id=sample.calibration_id)
        return services.drift.compare(sample)

    async with bodies_of(request).read(request) as body:
        drift = await services.context.place_pool.run(lambda: compare(body))
    return answer_of(DriftSchema(**asdict(drift)))


@router.get(
    "/drift",
    summary="How calibrations compare with live servers.",
    responses={200: {"model": DriftListSchema}} | problems(s503=STORE_DOWN),
)
async def drift(request: Request) -> Response:
    """Answer from the store: a calibration that no agent compared is not listed."""
    services = services_of(request)
    known = await services.context.store_pool.run(services.drift.known)
    for one in known.values():
        services.drift.show(one)
    listed = DriftListSchema(calibrations=[DriftSchema(**asdict(one)) for one in known.values()])
    return answer_of(listed)
