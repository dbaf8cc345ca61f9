"""An HTTP server whose listening socket other processes share."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import structlog
import uvicorn

from service.observability import LOOP_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    from service.connection_counts import ConnectionCounts

PAUSE_S = 0.5
LOOK_S = 0.001
NUM_LOOKS = 5
"""Before a process takes a connection though another one has fewer: that one may be stuck."""

log = structlog.get_logger()


class SharingServer(uvicorn.Server):
    """uvicorn's server, taking one connection at a time from a socket that several processes listen on.

    Whoever has the fewest takes the next one, for clients keep their connections. asyncio would take all that
    wait at once, and one process would get a whole burst. With a socket for each process (``SO_REUSEPORT``)
    the connections that wait for a process would be lost when it dies.

    Parameters
    ----------
    config, listener
        What to serve, and where.
    counts
        How many connections the others have.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket, counts: ConnectionCounts) -> None:
        super().__init__(config)
        self._listener = listener
        self._counts = counts
        self._opening: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then take connections."""
        assert sockets is None, "the socket came with the server"
        await super().startup(sockets=[])
        self._listener.settimeout(0)
        self._take_connections()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Leave the connections that come now to the others, and finish those that are here."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._counts.leave()
        await super().shutdown(sockets)

    def _take_connections(self) -> None:
        if not self.should_exit:
            self._tell()
            asyncio.get_running_loop().add_reader(self._listener, self._look)

    def _tell(self) -> None:
        self._counts.tell(len(self.server_state.connections) + len(self._opening))

    def _look(self, looks_left: int = NUM_LOOKS) -> None:
        """Take a connection that waits, or leave it for a moment to a process that has fewer."""
        if self.should_exit:
            return
        loop = asyncio.get_running_loop()
        self._tell()
        if looks_left and self._counts.is_ahead():
            loop.remove_reader(self._listener)
            loop.call_later(LOOK_S, self._look, looks_left - 1)
            return
        loop.add_reader(self._listener, self._look)
        self._accept()

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was faster, or the client has gone
        except OSError as error:  # no descriptor is free: those who wait, wait
            LOOP_ERRORS.labels("accept").inc()
            log.error("accept_failed", reason=str(error))  # noqa: TRY400
            loop.remove_reader(self._listener)
            loop.call_later(PAUSE_S, self._take_connections)
            return
        connection.settimeout(0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        self._tell()

    async def _open(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:  # gone in the meantime
            connection.close()

    def _protocol(self) -> HttpToolsProtocol:
        make: Callable[..., HttpToolsProtocol] = self.config.http_protocol_class  # type: ignore[assignment]
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
