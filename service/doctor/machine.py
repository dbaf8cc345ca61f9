"""Checks of the machine: files, disk, port, compiled kernels."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from service.doctor.finding import Finding

if TYPE_CHECKING:
    from service.settings import Settings

ENOUGH_FILES = 4096
"""Connections, and each of them is a file."""

ENOUGH_BYTES = 2**30
LEAST_BYTES = 100 * 2**20
SLOW_KERNELS_S = 10.0


def file_limit() -> Finding:
    """Return whether enough files may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= ENOUGH_FILES or soft == resource.RLIM_INFINITY:
        return Finding(check="file limit", verdict="good", told=f"{soft} open files")
    return Finding(
        check="file limit",
        verdict="warning",
        told=f"{soft} open files (at most {hard}): some {soft} connections at a time",
        do=f"ulimit -n {ENOUGH_FILES} before `serve`, or LimitNOFILE= of its unit",
    )


def data_directory(settings: Settings) -> Finding:
    """Return whether the data directory can be written and has room."""
    path = settings.data_dir.absolute()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(
            check="data directory",
            verdict="bad",
            told=f"{path} cannot be written by this user",
            do="set LOADMASTER_DATA_DIR to a folder of yours, or change its owner",
        )
    free = shutil.disk_usage(existing).free
    told = f"{path}, {free / 2**30:.1f} GiB free"
    if free < ENOUGH_BYTES:
        verdict = "bad" if free < LEAST_BYTES else "warning"
        return Finding(check="data directory", verdict=verdict, told=told, do="free space on that disk")
    return Finding(check="data directory", verdict="good", told=told)


def keys(settings: Settings) -> Finding:
    """Return whether the API keys can be read, and who is let in."""
    from service.errors import KeyFileError  # noqa: PLC0415 (light imports)
    from service.storage.keys import KeyFile  # noqa: PLC0415

    try:
        is_closed = KeyFile(settings.keys_path).load().has_active(time.time())
    except KeyFileError as error:
        return Finding(check="API keys", verdict="bad", told=str(error), do="see docs/security.md")
    told = "an active key: one is asked of everybody" if is_closed else "none: open to this machine alone"
    return Finding(check="API keys", verdict="good", told=told)


def port(settings: Settings) -> Finding:
    """Return whether the port is free, or already ours."""
    where = f"{settings.host}:{settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.create_server((settings.host, settings.port), family=family):
            return Finding(check="port", verdict="good", told=f"{where} is free")
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _answers_as_ours(settings):
            return Finding(check="port", verdict="good", told=f"{where} is answered by a Loadmaster")
        return Finding(
            check="port",
            verdict="bad",
            told=f"{where}: {error.strerror}",
            do="set LOADMASTER_PORT to another one, or end what has it",
        )


def kernels() -> Finding:
    """Return whether the twin's kernels compile and are kept."""
    from numba import config  # noqa: PLC0415

    from service.services.warmup import warm_twin  # noqa: PLC0415

    folder = Path(config.CACHE_DIR)  # type: ignore[attr-defined]
    began_s = time.perf_counter()
    warm_twin()
    took_s = time.perf_counter() - began_s
    if not folder.is_dir() or not any(folder.rglob("*.nbi")):
        return Finding(
            check="kernels",
            verdict="warning",
            told=f"compiled in {took_s:.1f} s and not kept: {folder} cannot be written",
            do="set XDG_CACHE_HOME to a folder that outlives the process",
        )
    how = "compiled" if took_s > SLOW_KERNELS_S else "read"
    return Finding(check="kernels", verdict="good", told=f"{how} in {took_s:.1f} s, kept in {folder}")


def _answers_as_ours(settings: Settings) -> bool:
    import httpx  # noqa: PLC0415

    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    try:
        answer = httpx.get(f"http://{host}:{settings.port}/livez", timeout=2).json()
    except (httpx.HTTPError, ValueError):
        return False
    return isinstance(answer, dict) and answer.get("status") == "alive"
