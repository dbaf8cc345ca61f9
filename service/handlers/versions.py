"""Calibrations and surrogates: listed, put in force, rolled back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Path, Request, Response

from service.handlers.bodies import READING, describe_body, problems
from service.handlers.dependencies import answer_of, bodies_of, services_of
from service.schemas.border import parse
from service.schemas.versions import (
    CalibrationListSchema,
    RollBackRequest,
    SurrogateListSchema,
    SurrogateSchema,
)

if TYPE_CHECKING:
    from service.services.versions import ListedVersion

router = APIRouter(tags=["versions"])

BUSY = "Busy, or the store is not reachable; nothing has changed"
SurrogateVersion = Annotated[str, Path(pattern="^[0-9a-f]{12}$", description="As listed.")]


@router.get(
    "/surrogates",
    summary="Every surrogate version: in force or not, its figures, where it came from.",
    responses={200: {"model": SurrogateListSchema}} | problems(s503=BUSY),
)
async def surrogates(request: Request) -> Response:
    """Answer shipped and published versions; from disk alone where the store is down."""
    services = services_of(request)
    listed = await services.context.store_pool.run(services.versions.listing)
    answer = SurrogateListSchema(surrogates=[SurrogateSchema.from_listed(one) for one in listed])
    return answer_of(answer)


@router.get(
    "/calibrations",
    summary="Every calibration that a surrogate was trained on.",
    responses={200: {"model": CalibrationListSchema}} | problems(s503=BUSY),
)
async def calibrations(request: Request) -> Response:
    """Answer shipped and published calibrations with the errors of their estimators."""
    services = services_of(request)
    listed = await services.context.store_pool.run(services.versions.listing)
    return answer_of(CalibrationListSchema.from_listed(listed))


@router.post(
    "/surrogates/{surrogate_version}/activate",
    summary="Put a version in force.",
    responses={200: {"model": SurrogateSchema}}
    | problems(
        s404="There is no such version",
        s409="The version is damaged, or others change what is in force",
        s422="Not a version's name",
        s503=BUSY,
    ),
)
async def activate(request: Request, surrogate_version: SurrogateVersion) -> Response:
    """Check it, and let every process follow within seconds; workloads in force are planned anew."""
    services, actor = services_of(request), request.state.actor
    listed = await services.context.store_pool.run(
        lambda: services.versions.activate(surrogate_version, actor=actor)
    )
    return answer_of(SurrogateSchema.from_listed(listed))


@router.post(
    "/surrogates/roll-back",
    summary="Put in force what was so before.",
    openapi_extra=describe_body(RollBackRequest),
    responses={200: {"model": SurrogateSchema}}
    | problems(
        **READING,
        s404="There is no such calibration",
        s409="Nothing was in force before, it is damaged, or others change what is in force",
        s503=BUSY,
    ),
)
async def roll_back(request: Request) -> Response:
    """Answer the version that is in force again."""
    services, actor = services_of(request), request.state.actor

    def go_back(body: bytes) -> ListedVersion:
        asked = parse(RollBackRequest, body)
        return services.versions.roll_back(asked.calibration_id, actor=actor)

    async with bodies_of(request).read(request) as body:
        listed = await services.context.store_pool.run(lambda: go_back(body))
    return answer_of(SurrogateSchema.from_listed(listed))
