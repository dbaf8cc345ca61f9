"""What lies below HTTP's requests: connections that never finish a request's head, and what is no HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.handlers.bodies import PROBLEM_JSON
from service.observability import REFUSED
from service.schemas.problems import ProblemSchema

if TYPE_CHECKING:
    import asyncio

HEAD_DEADLINE_S = 10.0
MAX_CONNECTIONS = 4096
MAX_HEAD_BYTES = 64 * 1024


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a deadline for each request's head, a limit on connections, and problems.

    Attributes
    ----------
    head_deadline_s
        From the connection, or from the first byte of a later request, to the end of its head.
    max_connections
        One more is told that the service is busy.
    max_head_bytes
        A longer head ends the connection.
    """

    head_deadline_s = HEAD_DEADLINE_S
    max_connections = MAX_CONNECTIONS
    max_head_bytes = MAX_HEAD_BYTES
    _num_head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for the first head."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(503, "overloaded", "Too many connections are open.")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head longer than `max_head_bytes` ends the connection."""
        self._num_head_bytes = 0 if self._head_timer is None else self._num_head_bytes + len(data)
        super().data_received(data)
        if self._head_timer is not None and self._num_head_bytes > self.max_head_bytes:
            self._stop_waiting()
            self._refuse(431, "head_too_large", f"A request's head may have {self.max_head_bytes} bytes.")

    def on_message_begin(self) -> None:
        """Start waiting for the head of a request after the first."""
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        """Let the request go on: its body has a deadline of its own."""
        self._stop_waiting()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Tell that what came is no HTTP."""
        self._stop_waiting()
        self._refuse(400, "malformed_http", msg)

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_deadline_s, self._end_waiting)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_waiting(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(408, "head_timeout", f"No request came within {self.head_deadline_s:g} s.")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:  # else one is going out
            self.transport.write(_problem_bytes(status, code, detail))
            if cycle is not None:
                cycle.disconnected = True  # what the application answers to the rest goes nowhere
        REFUSED.labels(code).inc()
        self.transport.close()


_PHRASES: dict[int, str] = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


def _problem_bytes(status: int, code: str, detail: str) -> bytes:
    problem: dict[str, Any] = ProblemSchema(
        type=f"urn:loadmaster:problem:{code}",
        title=_PHRASES[status],
        status=status,
        detail=detail,
        code=code,
        field=None,
    ).model_dump()
    body = orjson.dumps(problem)
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: {PROBLEM_JSON}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
