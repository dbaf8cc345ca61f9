"""``GET /jobs/{job_id}/events``: a job as server-sent events, until it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from service.errors import NotFoundError, OverloadedError, ServiceError
from service.handlers.bodies import problems
from service.handlers.dependencies import services_of
from service.handlers.jobs import STORE_DOWN
from service.observability import EVENT_STREAMS
from service.schemas.jobs import JobSchema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.factory import Services

router = APIRouter(tags=["jobs"])

MAX_STREAMS = 128
POLL_S = 0.5
KEEP_ALIVE_S = 15.0
ENDED = frozenset({"finished", "failed", "cancelled"})


class Streams:
    """How many are open: each asks the store twice a second."""

    num_open = 0


@router.get(
    "/jobs/{job_id}/events",
    summary="One job as server-sent events: one at each change, the last one when it ends.",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events `job`, each with the job as JSON, its report in the last one",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    }
    | problems(s404="There is no such job, or its report expired", s422="Not an id", s503=STORE_DOWN),
)
async def events(request: Request, job_id: str) -> StreamingResponse:
    """Answer events until the job has ended or the reader leaves; a new stream begins with how it stands."""
    services = services_of(request)
    first = await _state(services, job_id)
    if Streams.num_open >= MAX_STREAMS:  # asked last: others may have opened theirs meanwhile
        raise OverloadedError(f"{MAX_STREAMS} streams are open", retry_after_s=5)
    return StreamingResponse(
        _stream(services, job_id, first), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


async def _state(services: Services, job_id: str) -> JobSchema:
    record = await services.context.store_pool.run(lambda: services.jobs.get(job_id))
    return JobSchema.from_record(record)


async def _stream(services: Services, job_id: str, job: JobSchema) -> AsyncIterator[bytes]:
    Streams.num_open += 1
    EVENT_STREAMS.inc()
    try:
        number, quiet_s, told = 0, 0.0, b""
        while True:
            text = job.model_dump_json().encode()
            if text != told:
                number, quiet_s, told = number + 1, 0.0, text
                yield b"id: %d\nevent: job\ndata: %s\n\n" % (number, text)
            elif quiet_s >= KEEP_ALIVE_S:
                quiet_s = 0.0
                yield b": still here\n\n"
            if job.state in ENDED:
                return
            await asyncio.sleep(POLL_S)
            quiet_s += POLL_S
            try:
                job = await _state(services, job_id)
            except NotFoundError:
                return
            except ServiceError as error:  # the store is away: the stream goes on when it is back
                yield b": %s\n\n" % error.code.encode()
    finally:
        Streams.num_open -= 1
        EVENT_STREAMS.dec()
