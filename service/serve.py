"""``loadmaster serve``: store, worker and HTTP processes as one unit that ends together."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import socket
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import structlog
import uvloop

from service.api import answer_alone
from service.errors import UsageError
from service.peers import Peers
from service.process import Child, end_on_sigterm, lock_data_dir, spawn_tethered, supervise
from service.services.tokens import check_provider
from service.storage.datasets import require_datasets_url
from service.storage.embedded import spawn_store, start_store, store_url
from service.storage.jobs import TRAIN_QUEUE, TWIN_QUEUE
from service.storage.keys import KeyFile

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from service.settings import Settings

BACKLOG = 2048
STORE_STOP_S = 20.0
STOP_GRACE_S = 5.0
"""What an HTTP process may take to end beyond the time to drain."""

SUPERVISOR = "serve"
"""The supervisor's name among the processes."""

log = structlog.get_logger()


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain and end every child.

    Raises
    ------
    DataDirInUseError, StoreStartError, UsageError
        Another `serve` has the data directory, the store cannot start, the address cannot be bound, or a
        setting needs a package that is not installed.
    """
    if settings.start_workers:
        require_datasets_url(settings)
    listener = _bind(settings)
    with listener:
        lock = lock_data_dir(settings.data_dir)
        try:
            with _children(settings, lock, listener) as children:
                host, port = listener.getsockname()[:2]
                log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
                if settings.processes == 1:
                    answer_alone(settings, listener, beside=supervise(children))
                else:
                    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                        runner.run(_watch(settings, children))
        finally:
            os.close(lock)


async def _watch(settings: Settings, children: list[Child]) -> None:
    """Keep the children running until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def request_stop() -> None:
        if not loop.is_closed():  # a second signal may come while the children end
            loop.call_soon_threadsafe(stopped.set)

    end_on_sigterm(request_stop)
    peers = Peers(settings.peers_dir, SUPERVISOR)
    await peers.open()
    supervisor = asyncio.create_task(supervise(children))
    try:
        await stopped.wait()
    finally:
        supervisor.cancel()
        with suppress(asyncio.CancelledError):
            await supervisor
        await peers.close()


@contextmanager
def _children(settings: Settings, lock: int, listener: socket.socket) -> Iterator[list[Child]]:
    """Start the store (unless one is given), workers and the HTTP processes; end them in reverse order."""
    store = Child(
        "store",
        lambda: spawn_store(settings.store_dir, appendfsync=settings.store_appendfsync, keep_fds=(lock,)),
    )
    workers = _workers(settings) if settings.start_workers else []
    answering = _answering(settings, listener)
    children = [*workers, *answering]
    if settings.redis_url is None:
        store.adopt(start_store(settings.store_dir, appendfsync=settings.store_appendfsync, keep_fds=(lock,)))
        children.insert(0, store)
    try:
        for child in (*workers, *answering):
            child.launch()
        yield children
    finally:
        for child in answering:
            child.ask_to_stop()
        for child in answering:
            child.stop(settings.drain_s + STOP_GRACE_S)
        for worker in workers:
            worker.stop(settings.drain_s)
        store.stop(STORE_STOP_S)


def _workers(settings: Settings) -> list[Child]:
    return [
        Child("worker", lambda: spawn_worker(settings, TWIN_QUEUE, settings.worker_concurrency)),
        Child("trainer", lambda: spawn_worker(settings, TRAIN_QUEUE, 1)),
    ]


def _answering(settings: Settings, listener: socket.socket) -> list[Child]:
    """Return the HTTP processes; none where this one answers by itself."""
    if settings.processes == 1:
        return []
    shutil.rmtree(settings.peers_dir, ignore_errors=True)  # sockets of an earlier `serve`
    return [
        Child(f"api-{number}", lambda number=number: _spawn_api(settings, listener, number))
        for number in range(settings.processes)
    ]


def spawn_worker(settings: Settings, queue: str, concurrency: int) -> subprocess.Popen[bytes]:
    """Start a worker on the settings' store that ends with this process."""
    return _spawn(settings, ["worker", "--queues", queue, "--concurrency", str(concurrency)])


def _spawn_api(settings: Settings, listener: socket.socket, number: int) -> subprocess.Popen[bytes]:
    fd = listener.fileno()
    return _spawn(settings, ["api", "--fd", str(fd), "--name", f"api-{number}"], keep_fds=(fd,))


def _spawn(
    settings: Settings, arguments: list[str], *, keep_fds: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start another process of ours on the same store and data directory."""
    env = {
        "LOADMASTER_REDIS_URL": settings.redis_url or store_url(settings.store_dir),
        "LOADMASTER_DATA_DIR": str(settings.data_dir),
        "LOADMASTER_PROCESSES": str(settings.processes),
        "LOADMASTER_PLACE_THREADS": str(settings.threads_each),
    }
    command = [sys.executable, "-m", "service.cli", *arguments]
    return spawn_tethered(command, env=dict(os.environ) | env, keep_fds=keep_fds)


def _bind(settings: Settings) -> socket.socket:
    check_provider(settings)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    try:
        _require_closed(settings, listener)
    except BaseException:
        listener.close()
        raise
    return listener


def _require_closed(settings: Settings, listener: socket.socket) -> None:
    """Refuse an address that others reach while nobody is asked for a key."""
    address = ipaddress.ip_address(listener.getsockname()[0])
    is_closed = settings.oidc_issuer is not None or KeyFile(settings.keys_path).load().has_active(time.time())
    if not address.is_loopback and not is_closed:
        raise UsageError(
            f"{address} is open to the network and there is no API key: make one with "
            "`loadmaster keys create NAME --scope ops`, name a provider of tokens "
            "(LOADMASTER_OIDC_ISSUER), or listen on 127.0.0.1"
        )
