"""An HTTP process: alone, with the supervision of its `serve` beside it, or one of several."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from service.allocator import give_back_large_blocks
from service.app import create_app
from service.connection_counts import ConnectionCounts
from service.peers import Peers
from service.process import end_on_sigterm
from service.protocol import GuardedProtocol
from service.sharing import SharingServer
from service.slices import interrupt_others
from service.tracing import start_tracing, stop_tracing

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fastapi import FastAPI

    from service.settings import Settings

KEEP_ALIVE_S = 75


def answer_alone(settings: Settings, listener: socket.socket, beside: Coroutine[None, None, None]) -> None:
    """Answer from this process alone until SIGTERM or SIGINT.

    Parameters
    ----------
    settings, listener
        What to answer with, and where.
    beside
        Runs until the last request is answered.
    """
    server = uvicorn.Server(_config(create_app(settings), settings))
    end_on_sigterm(lambda: setattr(server, "should_exit", True))
    _run(settings, _beside(server.serve(sockets=[listener]), beside))


def answer_among_others(settings: Settings, fd: int, name: str) -> None:
    """Answer as one of several processes with the same listening socket, until SIGTERM or SIGINT.

    No connection is taken before a placement can be answered: until then the others take them.
    """
    peers = Peers(settings.peers_dir, name)
    app = create_app(settings, peers=peers)
    number = int(name.rpartition("-")[2])
    counts = ConnectionCounts(settings.peers_dir / "connections", number, settings.processes)
    with socket.socket(fileno=fd) as listener:
        server = SharingServer(_config(app, settings), listener, counts)
        end_on_sigterm(lambda: setattr(server, "should_exit", True))
        _run(settings, server.serve())


def _run(settings: Settings, main: Coroutine[None, None, None]) -> None:
    give_back_large_blocks()
    interrupt_others()  # an answer from memory must not wait until a placement gives its core away
    start_tracing(settings, "api")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    finally:
        stop_tracing()


async def _beside(main: Coroutine[None, None, None], other: Coroutine[None, None, None]) -> None:
    task = asyncio.create_task(other)
    try:
        await main
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
