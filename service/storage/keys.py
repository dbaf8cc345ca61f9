"""The file of API keys: hashes only, replaced as a whole, for its owner alone."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import orjson

from models.array_files import write_atomically
from service.errors import KeyFileError, NotFoundError, ServiceError
from service.services.keys import ApiKey, KeyRing
from service.storage.turns import exclusive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class KeyFile:
    """Reads and writes the keys of one installation."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> KeyRing:
        """Return the keys; none where there is no file.

        Raises
        ------
        KeyFileError
            Others may write the file, or it is not one of ours.
        """
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read()
        except FileNotFoundError:
            return KeyRing()
        except OSError as error:
            raise KeyFileError(f"{self.path} cannot be read: {error.strerror}") from error
        if mode & OTHERS_MAY_WRITE:
            raise KeyFileError(f"{self.path} may be written by others: chmod go-w it")
        try:
            rows = orjson.loads(text)["keys"]
            return KeyRing(ApiKey(**row | {"scopes": tuple(row["scopes"])}) for row in rows)
        except (KeyError, TypeError, ValueError, ServiceError) as error:
            raise KeyFileError(f"{self.path} holds no keys: {error}") from error

    def signature(self) -> tuple[int, int, int] | None:
        """Return what changes when the file is replaced; None where there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def add(self, key: ApiKey) -> None:
        """Keep one more key."""
        with self._locked():
            self._save((*self.load().keys, key))

    def revoke(self, key_id: str, now_s: float) -> ApiKey:
        """Close a key for ever and return it.

        Raises
        ------
        NotFoundError
            There is none of this id.
        """
        with self._locked():
            keys = self.load().keys
            found = next((key for key in keys if key.key_id == key_id), None)
            if found is None:
                raise NotFoundError("names no key", field="id")
            revoked = found if found.revoked_at_s is not None else replace(found, revoked_at_s=now_s)
            self._save(tuple(revoked if key is found else key for key in keys))
            return revoked

    def _save(self, keys: tuple[ApiKey, ...]) -> None:
        document = orjson.dumps({"keys": [asdict(key) for key in keys]}, option=orjson.OPT_INDENT_2)
        write_atomically(self.path, document, mode=0o600)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive(self.path.with_name(self.path.name + ".lock")):
            yield
