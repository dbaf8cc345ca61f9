"""Refreshes in the store: what rounds saw, whose turn it is, and the live servers to simulate."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import orjson

from models.errors import DatasetError
from models.live import LiveServers, live_servers_from
from service.errors import VersionRefusedError
from service.storage.connection import hold, store_call

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import redis

    from service.storage.files import FileExchange

REFRESHES = "loadmaster:{refreshes}"
"""Hash: what the last round saw, by calibration id."""

LIVE = "live.json"
TURN_MS = 60_000
"""Of a round: one that was killed is made up for after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshState:
    """What rounds saw of the plan in force of one calibration, while one surrogate planned.

    Attributes
    ----------
    calibration_id, surrogate_version
        What plans.
    as_of
        When the last round was, ISO 8601.
    num_gpus
        Of the plan.
    out_of_range
        GPUs by the feature in which they leave the trained range.
    num_out_of_range, num_thin
        GPUs that leave it in some feature, and others with few taught twin runs near them; the latter is None
        until a worker has looked where the surrogate was taught.
    live
        Servers that rounds found wanting, the newest first; None where there were none.
    asked
        Reasons that a recalibration was begun for.
    job_id
        The last one that was begun.
    proposal
        What to do; empty where nothing.
    """

    calibration_id: str
    surrogate_version: str
    as_of: str = ""
    num_gpus: int = 0
    out_of_range: Mapping[str, int] = field(default_factory=dict)
    num_out_of_range: int = 0
    num_thin: int | None = None
    live: LiveServers | None = None
    asked: tuple[str, ...] = ()
    job_id: str | None = None
    proposal: str = ""


class RefreshStore:
    """Keeps what rounds saw."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def take_turn(self, calibration_id: str, surrogate_version: str, period_ms: int) -> bool:
        """Take the turn to look at a plan; False where another has it or has looked within the period."""
        key = _turn(calibration_id, surrogate_version)
        with store_call():
            taken = hold(self._client, key, max(period_ms, TURN_MS))
            if taken:
                self._client.pexpire(key, TURN_MS)
        return taken

    def end_turn(self, calibration_id: str, surrogate_version: str, period_ms: int) -> None:
        """Let nobody look again for a period."""
        with store_call():
            self._client.pexpire(_turn(calibration_id, surrogate_version), period_ms)

    def get(self, calibration_id: str) -> RefreshState | None:
        """Return what the last round saw, None before the first one."""
        with store_call():
            text: bytes | None = self._client.hget(REFRESHES, calibration_id)  # type: ignore[assignment]
        return None if text is None else _decoded(text)

    def known(self) -> tuple[RefreshState, ...]:
        """Return what rounds saw, by calibration id; what cannot be read is left out."""
        with store_call():
            rows: Mapping[bytes, bytes] = self._client.hgetall(REFRESHES)  # type: ignore[assignment]
        found = [_decoded(rows[name]) for name in sorted(rows)]
        return tuple(one for one in found if one is not None)

    def put(self, state: RefreshState) -> None:
        """Keep what a round saw."""
        with store_call():
            self._client.hset(REFRESHES, state.calibration_id, json.dumps(asdict(state)))


def keep_live_servers(files: FileExchange, calibration_id: str, live: LiveServers) -> str:
    """Keep the servers that a recalibration is to simulate, for every host; returns their name."""
    name = f"live/{calibration_id}/{live.digest}"
    files.publish(name, {LIVE: live.to_json()})
    return name


def read_live_servers(directory: Path) -> LiveServers:
    """Return the servers that a directory holds.

    Raises
    ------
    VersionRefusedError
        The file is damaged.
    """
    try:
        return live_servers_from(orjson.loads((directory / LIVE).read_bytes()))
    except (OSError, ValueError, DatasetError) as error:
        raise VersionRefusedError(f"{directory.name}: {LIVE}: {error}") from error


def _decoded(text: bytes) -> RefreshState | None:
    with suppress(ValueError, TypeError, KeyError, DatasetError):
        row = orjson.loads(text)
        live = None if row["live"] is None else live_servers_from(row["live"])
        return RefreshState(**row | {"live": live, "asked": tuple(row["asked"])})
    return None


def _turn(calibration_id: str, surrogate_version: str) -> str:
    return f"{REFRESHES}:turn:{calibration_id}:{surrogate_version}"
