"""The workload in force, kept in the store."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.storage.connection import store_call

if TYPE_CHECKING:
    import redis

KEY = "loadmaster:workload"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWorkload:
    """A workload document as it was put, and the name of that act."""

    version: str
    document: bytes


class WorkloadStore:
    """Keeps one workload document; each `put` gives it a new version."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def put(self, document: bytes) -> StoredWorkload:
        """Store the document and return it with its new version, once the store acknowledged it."""
        stored = StoredWorkload(version=uuid.uuid4().hex, document=document)
        with store_call():
            self._client.hset(KEY, mapping={"version": stored.version, "document": stored.document})
        return stored

    def get(self, known_version: str | None) -> StoredWorkload | None:
        """Return the stored workload; its document is empty where `known_version` is still the one."""
        with store_call():
            if _text(self._client.hget(KEY, "version")) == known_version and known_version is not None:
                return StoredWorkload(version=known_version, document=b"")
            version, document = self._client.hmget(KEY, "version", "document")
        if version is None:
            return None
        assert isinstance(document, bytes), "version and document are written together, as bytes"
        return StoredWorkload(version=_text(version) or "", document=document)


def _text(value: object) -> str | None:
    return value.decode() if isinstance(value, bytes) else None
