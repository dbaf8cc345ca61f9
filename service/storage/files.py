"""Directories named by what they hold: on this host's disk, and in the store for other hosts.

A directory appears as a whole or not at all, and is never changed. A host that lacks one takes it from the
store; with the store down, what is on disk is enough.
"""

from __future__ import annotations

import shutil
import uuid
from typing import TYPE_CHECKING

from models.array_files import sync_directory, write_atomically
from service.errors import NotFoundError, StoreUnavailableError, TooLargeError
from service.storage.connection import store_call

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import redis

NAMES = "loadmaster:{files}"
"""Set of every directory's name; a hash of its files stands under each."""

MAX_DIRECTORY_BYTES = 64 * 2**20
"""What is larger needs a data directory that hosts share."""


class FileExchange:
    """Keeps directories below a data directory, and shares them through the store."""

    def __init__(self, root: Path, client: redis.Redis) -> None:
        self._root = root
        self._client = client

    def publish(self, name: str, files: Mapping[str, bytes]) -> Path:
        """Keep a directory, on disk first; returns where it is.

        One that is there already is left as it is: a name tells the content.

        Raises
        ------
        StoreUnavailableError
            It is on this disk, and other hosts cannot have it yet: to be repeated.
        TooLargeError
            It is too large for the store.
        """
        num_bytes = sum(map(len, files.values()))
        if num_bytes > MAX_DIRECTORY_BYTES:
            raise TooLargeError(f"{name} has {num_bytes} bytes, at most {MAX_DIRECTORY_BYTES} can be shared")
        path = self._write(name, files)
        self._share(name, files)
        return path

    def share(self, name: str) -> None:
        """Give the store a directory of this disk that it may lack; do nothing where there is none."""
        path = self._root / name
        if path.is_dir():
            self._share(name, {file.name: file.read_bytes() for file in path.iterdir()})

    def forget(self, name: str) -> None:
        """Remove a directory from this disk and from the store; other hosts keep theirs."""
        shutil.rmtree(self._root / name, ignore_errors=True)
        with store_call():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.delete(_key(name))
            pipeline.srem(NAMES, name)
            pipeline.execute()

    def _share(self, name: str, files: Mapping[str, bytes]) -> None:
        with store_call():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.hset(_key(name), mapping=dict(files))  # type: ignore[arg-type]
            pipeline.sadd(NAMES, name)
            pipeline.execute()

    def fetch(self, name: str) -> Path:
        """Return where a directory is on this disk, taken from the store where it is not there yet.

        Raises
        ------
        NotFoundError
            Neither has it.
        StoreUnavailableError
            The disk does not have it and the store does not answer.
        """
        path = self._root / name
        if path.is_dir():
            return path
        with store_call():
            found: dict[bytes, bytes] = self._client.hgetall(_key(name))  # type: ignore[assignment]
        if not found:
            raise NotFoundError(f"{name} is neither on disk nor in the store")
        return self._write(name, {key.decode(): content for key, content in found.items()})

    def names(self, kind: str) -> tuple[str, ...]:
        """Return the directories below ``kind/`` of disk and store, sorted; the disk's where it is down."""
        depth = "*" if kind == "measurements" else "*/*/*/*"
        found = {str(path.relative_to(self._root)) for path in (self._root / kind).glob(depth)}
        try:
            with store_call():
                shared: set[bytes] = self._client.smembers(NAMES)  # type: ignore[assignment]
        except StoreUnavailableError:
            shared = set()
        found |= {name.decode() for name in shared if name.startswith(f"{kind}/".encode())}
        return tuple(sorted(name for name in found if not name.rpartition("/")[2].startswith(".")))

    def _write(self, name: str, files: Mapping[str, bytes]) -> Path:
        path = self._root / name
        if path.is_dir():
            return path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            aside.mkdir(mode=0o700)
            for file, content in files.items():
                write_atomically(aside / file, content)
            aside.rename(path)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            if not path.is_dir():  # else another process was first
                raise
        sync_directory(path.parent)
        return path


def _key(name: str) -> str:
    return f"{NAMES}:{name}"
