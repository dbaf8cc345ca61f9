"""Reading request bodies within limits, and describing them in OpenAPI."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect

from service.errors import BodyTimeoutError, BodyTooLargeError, OverloadedError
from service.observability import HELD_BODY_BYTES
from service.schemas.problems import ProblemSchema
from service.structure import SMALL_BYTES, check_structure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import Request
    from pydantic import BaseModel

    from service.settings import Settings

PROBLEM_JSON = "application/problem+json"

READING = {
    "s408": "The body did not arrive in time",
    "s413": "The body is too large",
    "s422": "The request is not valid; `field` names what to mend",
}
"""What `problems` takes for a route that reads a body."""


class BodyReader:
    """Reads request bodies within a limit on each and a limit on all that are held at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._num_held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Hold the whole body while the block runs; nothing beyond the limits is ever kept.

        Raises
        ------
        BodyTooLargeError, BodyTimeoutError, InvalidRequestError, OverloadedError
            It is longer than `max_body_bytes` (whatever the headers say), not complete after
            `body_deadline_s`, made of more than `max_json_values`,
            or the bodies held together would exceed `max_held_bytes`.
        """
        limit = self._settings.max_body_bytes
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:  # noqa: PLR2004 (64 bits)
            raise _too_large(limit)
        parts: list[bytes] = []
        try:
            await self._fill(parts, request)
            parts[:] = [b"".join(parts)]  # the body alone is held from here
            if len(parts[0]) > SMALL_BYTES:
                await asyncio.to_thread(check_structure, parts[0], self._settings.max_json_values)
            yield parts[0]
        finally:
            self._hold(-sum(map(len, parts)))

    async def _fill(self, parts: list[bytes], request: Request) -> None:
        length = 0
        try:
            async with asyncio.timeout(self._settings.body_deadline_s):
                async for part in request.stream():
                    parts.append(part)
                    length += len(part)
                    self._hold(len(part))
                    self._check(length)
        except TimeoutError:
            raise BodyTimeoutError(
                f"was not complete after {self._settings.body_deadline_s:g} s", field="body"
            ) from None
        except ClientDisconnect:
            raise BodyTimeoutError("ended before it was complete", field="body") from None

    def _hold(self, num_bytes: int) -> None:
        self._num_held += num_bytes
        HELD_BODY_BYTES.inc(num_bytes)

    def _check(self, length: int) -> None:
        if length > self._settings.max_body_bytes:
            raise _too_large(self._settings.max_body_bytes)
        if self._num_held > self._settings.max_held_bytes:
            raise OverloadedError("too many long bodies are being read", retry_after_s=1)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"must be at most {limit} bytes", field="body")


def describe_body(*models: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI of a route whose handler reads the body itself: one of some models."""
    references = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    schema = {"anyOf": references} if len(references) > 1 else references[0]
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
