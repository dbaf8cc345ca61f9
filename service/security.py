"""The ASGI layer in front of every route: keys, the audit log, and headers that browsers obey."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from structlog.contextvars import get_contextvars

from service.errors import ServiceError
from service.handlers.problems import problem_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from service.services.guard import Guard

CONTENT_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; "
    b"base-uri 'none'; form-action 'none'"
)
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", CONTENT_POLICY),
    (b"cache-control", b"no-store"),
)
"""Where a route sets one itself, its own stands."""


class SecurityMiddleware:
    """Refuse what a key does not open; record what changes what is in force."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry one request through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope["app"].state
        guard: Guard = state.guard
        status = 500

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_security(message.get("headers", ()))
            await send(message)

        method, path = scope["method"], scope["path"]
        try:
            actor, access = guard.admit(
                method,
                path,
                host=_header(scope, b"host") or "",
                authorization=_header(scope, b"authorization"),
                address=(scope.get("client") or ("unknown",))[0],
            )
        except ServiceError as error:
            await problem_response(error)(scope, receive, send_safely)
            return
        scope.setdefault("state", {})["actor"] = actor
        try:
            await self.app(scope, receive, send_safely)
        finally:
            if access.audited:
                await asyncio.to_thread(
                    state.audit.write,
                    at_s=state.clock.wall_s(),
                    actor=actor,
                    action=f"{method} {path[:200]}",
                    query=scope["query_string"][:500].decode("latin-1"),
                    status=status,
                    request_id=get_contextvars().get("request_id"),
                )


def _header(scope: Scope, wanted: bytes) -> str | None:
    for name, value in scope["headers"]:
        if name == wanted:
            return value.decode("latin-1")
    return None


def _with_security(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    present = {name.lower() for name, _ in headers}
    return [*headers, *(header for header in SECURITY_HEADERS if header[0] not in present)]
