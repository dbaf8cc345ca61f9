"""Where processes of one machine meet: unix sockets in directories of our own."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from service.errors import SocketDirectoryError

MAX_SOCKET_PATH = 100
"""`sockaddr_un` holds 108 bytes on Linux and 104 elsewhere."""

MAX_NAME = 20


def socket_directory(directory: Path) -> Path:
    """Return where a directory's sockets are: in it, or elsewhere where their paths would be too long."""
    inside = directory.resolve()
    if len(os.fsencode(inside)) + 1 + MAX_NAME <= MAX_SOCKET_PATH:
        return inside
    digest = hashlib.sha256(os.fsencode(inside)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"loadmaster-{os.getuid()}-{digest}"


def own_directory(directory: Path) -> None:
    """Make a directory of ours alone.

    Raises
    ------
    SocketDirectoryError
        Another user prepared it.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if directory.stat().st_uid != os.getuid() or directory.is_symlink():
        raise SocketDirectoryError(f"{directory} belongs to another user")
