"""The workloads in force, one for each base model and GPU type, kept in the store."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import orjson

from service.services.scaling import ScaleWindow
from service.storage.connection import store_call
from service.storage.news import CHANNEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis

VERSIONS = "loadmaster:{workloads}:versions"
DOCUMENTS = "loadmaster:{workloads}:documents"
WINDOWS = "loadmaster:{workloads}:windows"
WITHDRAWN = ""
"""The version of a workload that was withdrawn: told apart from a store that lost its data."""

SWAP = """
local version = redis.call('HGET', KEYS[1], ARGV[1])
if version and version ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[5])
redis.call('PUBLISH', ARGV[6], ARGV[1])
return 1
"""
"""Write all of a workload, unless another process has written it since it was read, and tell the others.

A store that lost its data has no version to overwrite: it takes what follows the one that it had.
"""


class FleetKey(NamedTuple):
    """What a workload in force is known by."""

    base_model: str
    gpu_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWorkload:
    """A workload document as it was put, the name of that act, and what was observed until then.

    Attributes
    ----------
    version
        Of the act; another one each time.
    document
        The JSON text.
    window
        None where no GPU could ever serve any of it.
    """

    version: str
    document: bytes
    window: ScaleWindow | None


class WorkloadStore:
    """Keeps one workload document for each key; each `put` gives it a new version."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def put(
        self, key: FleetKey, document: bytes, window: ScaleWindow | None, *, expected: str | None
    ) -> StoredWorkload | None:
        """Store a document and return it with its new version, once the store acknowledged it.

        Parameters
        ----------
        expected
            The version that this one follows, None for none.

        Returns
        -------
        StoredWorkload | None
            None where another version is in the store: nothing was written.
        """
        stored = StoredWorkload(version=uuid.uuid4().hex, document=document, window=window)
        values = (stored.version, document, _encoded(window))
        return stored if self._swap(key, expected, values) else None

    def withdraw(self, key: FleetKey, *, expected: str) -> bool:
        """Forget a document; False where another version is in the store."""
        return self._swap(key, expected, (WITHDRAWN, b"", b""))

    def _swap(self, key: FleetKey, expected: str | None, values: tuple[str, bytes, bytes]) -> bool:
        with store_call():
            keys = (VERSIONS, DOCUMENTS, WINDOWS)
            arguments = (_field(key), expected or WITHDRAWN, *values, CHANNEL)
            return bool(self._client.eval(SWAP, 3, *keys, *arguments))

    def versions(self) -> Mapping[FleetKey, str]:
        """Return the version of every workload that ever was in force; `WITHDRAWN` where it is no more."""
        with store_call():
            found: Mapping[bytes, bytes] = self._client.hgetall(VERSIONS)  # type: ignore[assignment]
        return {FleetKey(*orjson.loads(field)): version.decode() for field, version in found.items()}

    def get(self, key: FleetKey) -> StoredWorkload | None:
        """Return what is in force for a key, None where nothing is."""
        field = _field(key)
        with store_call():
            pipeline = self._client.pipeline(transaction=True)
            for name in (VERSIONS, DOCUMENTS, WINDOWS):
                pipeline.hget(name, field)  # type: ignore[arg-type]
            version, document, window = pipeline.execute()
        if not version:
            return None
        return StoredWorkload(version=version.decode(), document=document, window=_decoded(window))


def _field(key: FleetKey) -> bytes:
    return orjson.dumps(list(key))


def _encoded(window: ScaleWindow | None) -> bytes:
    return orjson.dumps(None if window is None else asdict(window))


def _decoded(text: bytes) -> ScaleWindow | None:
    value = orjson.loads(text)
    if value is None:
        return None
    past = tuple((float(until_s), int(held)) for until_s, held in value.pop("past"))
    return ScaleWindow(**value, past=past)
