"""Reading request bodies within limits, and describing them in OpenAPI."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect

from service.errors import BodyTimeoutError, BodyTooLargeError
from service.schemas import ProblemSchema

if TYPE_CHECKING:
    from fastapi import Request
    from pydantic import BaseModel

    from service.settings import Settings

PROBLEM_JSON = "application/problem+json"


async def read_body(request: Request, settings: Settings) -> bytes:
    """Return the whole body; nothing beyond the limit is kept, whatever the headers say.

    Raises
    ------
    BodyTooLargeError, BodyTimeoutError
        It is longer than `max_body_bytes`, or not complete after `body_deadline_s`.
    """
    limit = settings.max_body_bytes
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:  # noqa: PLR2004 (64 bits)
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_deadline_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise BodyTimeoutError(
            f"was not complete after {settings.body_deadline_s:g} s", field="body"
        ) from None
    except ClientDisconnect:
        raise BodyTimeoutError("ended before it was complete", field="body") from None
    return bytes(body)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"must be at most {limit} bytes", field="body")


def describe_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI of a route whose handler reads the body itself."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def problems(**by_status: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI of the problems a route may answer, given as ``s422="why"``."""
    return {
        int(name[1:]): {
            "description": why,
            "content": {PROBLEM_JSON: {"schema": {"$ref": f"#/components/schemas/{ProblemSchema.__name__}"}}},
        }
        for name, why in by_status.items()
    }
