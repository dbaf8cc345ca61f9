"""The audit log: one JSON line for each act that changes what is in force, on disk, bounded."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from service.observability import AUDIT_FAILURES
from service.storage.turns import exclusive

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 16 * 2**20
NUM_OLD = 4

log = structlog.get_logger()


class AuditLog:
    """Appends to a file that only its owner reads; a full one becomes ``.1``, and so on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, *, at_s: float, actor: str, action: str, **details: Any) -> None:
        """Record an act. One that cannot be written is counted, and told in the process's log."""
        entry = {"at": datetime.fromtimestamp(at_s, UTC).isoformat(), "actor": actor, "action": action}
        log.info("audit", **entry | details)
        try:
            self._append(orjson.dumps(entry | details, option=orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            AUDIT_FAILURES.inc()
            log.error("audit_not_written", reason=str(error))  # noqa: TRY400

    def _append(self, line: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._is_full():
            with exclusive(self._path.with_name(self._path.name + ".lock")):
                if self._is_full():  # no other process was faster
                    self._rotate()
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)

    def _is_full(self) -> bool:
        return self._path.exists() and self._path.stat().st_size >= MAX_BYTES

    def _rotate(self) -> None:
        for number in range(NUM_OLD - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{number + 1}"))
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
