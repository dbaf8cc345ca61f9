"""Which surrogate version is in force for each calibration: a pointer in the store, and a copy on disk.

With the store down a service starts with the copy. Of two pointers the one with the higher revision is newer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import orjson

from models.array_files import write_atomically
from service.storage.connection import store_call, swap_field
from service.storage.turns import exclusive

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import redis

KEY = "loadmaster:{activations}"
MAX_BEFORE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """The version in force of one calibration.

    Attributes
    ----------
    calibration_id, surrogate_version
        What is in force for what.
    revision
        Of the pointer: one higher with each act.
    since_s
        When it came into force, seconds since the epoch.
    actor
        Who did it.
    before
        Versions in force before it, the latest last: what rolling back returns to.
    """

    calibration_id: str
    surrogate_version: str
    revision: int
    since_s: float
    actor: str
    before: tuple[str, ...] = ()

    def followed_by(
        self, surrogate_version: str, *, since_s: float, actor: str, before: tuple[str, ...]
    ) -> Activation:
        """Return the pointer after this one."""
        return Activation(
            calibration_id=self.calibration_id,
            surrogate_version=surrogate_version,
            revision=self.revision + 1,
            since_s=since_s,
            actor=actor,
            before=before[-MAX_BEFORE:],
        )


class ActivationStore:
    """Reads and writes the pointers."""

    def __init__(self, client: redis.Redis, path: Path) -> None:
        self._client = client
        self._path = path

    def shared(self) -> dict[str, Activation]:
        """Return the store's pointers by calibration id; one that cannot be read is left out."""
        with store_call():
            rows: Mapping[bytes, bytes] = self._client.hgetall(KEY)  # type: ignore[assignment]
        return _decoded({name.decode(): text for name, text in rows.items()})

    def put(self, activation: Activation, *, expected: Activation | None) -> bool:
        """Write a pointer to the store; False where another one than `expected` is there."""
        old = b"" if expected is None else _encoded(expected)
        with store_call():
            return swap_field(self._client, KEY, activation.calibration_id, old, _encoded(activation))

    def on_disk(self) -> dict[str, Activation]:
        """Return this host's copy; empty where there is none that can be read."""
        try:
            rows = orjson.loads(self._path.read_bytes())
            return _decoded({name: orjson.dumps(row) for name, row in rows.items()})
        except (OSError, ValueError, AttributeError):
            return {}

    def keep(self, activations: Mapping[str, Activation]) -> None:
        """Copy pointers to this disk, except where it has newer ones."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive(self._path.with_name(f".{self._path.name}.lock")):
            known = self.on_disk()
            newer = known | {
                name: new
                for name, new in activations.items()
                if name not in known or new.revision >= known[name].revision
            }
            if newer != known:
                rows = {name: asdict(activation) for name, activation in sorted(newer.items())}
                write_atomically(self._path, orjson.dumps(rows, option=orjson.OPT_INDENT_2))


def newer_of(first: Mapping[str, Activation], second: Mapping[str, Activation]) -> dict[str, Activation]:
    """Return for each calibration the pointer with the higher revision, the first's where they are equal."""
    return dict(second) | {
        name: one
        for name, one in first.items()
        if name not in second or one.revision >= second[name].revision
    }


def _encoded(activation: Activation) -> bytes:
    return orjson.dumps(asdict(activation), option=orjson.OPT_SORT_KEYS)


def _decoded(rows: Mapping[str, bytes]) -> dict[str, Activation]:
    found = {}
    for name, text in rows.items():
        try:
            row = orjson.loads(text)
            found[name] = Activation(**row | {"before": tuple(row["before"])})
        except (ValueError, TypeError, KeyError):
            continue
    return found
