"""Files of named arrays: deterministic bytes, written atomically, read without trust or pickle."""

from __future__ import annotations

import io
import os
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from models.errors import ArtefactError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MAX_FILE_BYTES = 64 * 2**20
"""Nothing we publish comes near; a larger file is refused before it is read."""

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return an npz file without compression and with fixed dates: equal arrays, equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(arrays[name]), (1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _ZIP_DATE), member.getvalue())
    return buffer.getvalue()


def unpack(content: bytes, name: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file's bytes, read-only; `name` stands in errors.

    Raises
    ------
    ArtefactError
        For anything but an uncompressed archive of arrays without objects.
    """
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ArtefactError(f"{name}: {member.filename} is compressed")
                stream = io.BytesIO(archive.read(member))
                array = np.lib.format.read_array(stream, allow_pickle=False)
                array.flags.writeable = False
                arrays[member.filename.removesuffix(".npy")] = array
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, MemoryError, RuntimeError) as error:
        raise ArtefactError(f"{name}: is no file of arrays: {error}") from error
    return arrays


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes.

    Raises
    ------
    ArtefactError
        When it cannot be read or is larger than `MAX_FILE_BYTES`.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ArtefactError(f"{path.name}: is larger than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"{path.name}: cannot be read: {error.strerror}") from error


def write_atomically(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file so that a reader, or a crash, sees the old bytes or the new ones.

    Parameters
    ----------
    mode
        Permissions that the file has from its first byte, less the umask.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Return once the names in a directory are on the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
