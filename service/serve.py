"""``loadmaster serve``: the store, a worker and the HTTP server as one unit that ends together."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import structlog
import uvicorn
import uvloop

from service.app import create_app
from service.errors import UsageError
from service.process import Child, end_on_sigterm, lock_data_dir, spawn_tethered, supervise
from service.protocol import GuardedProtocol
from service.storage.embedded import spawn_store, start_store, store_url
from service.storage.keys import KeyFile

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from service.settings import Settings

BACKLOG = 2048
KEEP_ALIVE_S = 75
STORE_STOP_S = 20.0

log = structlog.get_logger()


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain and end every child.

    Raises
    ------
    DataDirInUseError, StoreStartError, UsageError
        Another `serve` has the data directory, the store cannot start, the address cannot be bound.
    """
    listener = _bind(settings)
    with listener:
        lock = lock_data_dir(settings.data_dir)
        try:
            with _children(settings, lock) as children:
                server = _server(settings)
                end_on_sigterm(lambda: setattr(server, "should_exit", True))
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(_run(server, listener, children))
        finally:
            os.close(lock)


async def _run(server: uvicorn.Server, listener: socket.socket, children: list[Child]) -> None:
    supervisor = asyncio.create_task(supervise(children))
    host, port = listener.getsockname()[:2]
    log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
    try:
        await server.serve(sockets=[listener])
    finally:
        supervisor.cancel()
        with suppress(asyncio.CancelledError):
            await supervisor


@contextmanager
def _children(settings: Settings, lock: int) -> Iterator[list[Child]]:
    """Start the store (unless one is given) and a worker; end the worker first, then the store."""
    worker = Child("worker", lambda: _spawn_worker(settings))
    children = [worker]
    if settings.redis_url is None:
        store = Child("store", lambda: spawn_store(settings.store_dir, keep_fds=(lock,)))
        store.adopt(start_store(settings.store_dir, keep_fds=(lock,)))
        children.insert(0, store)
    try:
        worker.launch()
        yield children
    finally:
        worker.stop(settings.drain_s)
        for child in children:
            child.stop(STORE_STOP_S)


def _spawn_worker(settings: Settings) -> subprocess.Popen[bytes]:
    url = settings.redis_url or store_url(settings.store_dir)
    env = dict(os.environ) | {"LOADMASTER_REDIS_URL": url, "LOADMASTER_DATA_DIR": str(settings.data_dir)}
    return spawn_tethered([sys.executable, "-m", "service.cli", "worker"], env=env)


def _server(settings: Settings) -> uvicorn.Server:
    config = uvicorn.Config(
        create_app(settings),
        http=GuardedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
    return uvicorn.Server(config)


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    address = ipaddress.ip_address(listener.getsockname()[0])
    if not address.is_loopback and not KeyFile(settings.keys_path).load().has_active(time.time()):
        listener.close()
        raise UsageError(
            f"{address} is open to the network and there is no API key: make one with "
            "`loadmaster keys create NAME --scope ops`, or listen on 127.0.0.1"
        )
    return listener
