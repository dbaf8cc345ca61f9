"""Calibrations as JSON files: read, write, and the ones shipped with the package."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from twin.documents import build, read_object
from twin.domain import Calibration, FrontEndLaw, LoadLaw, MemoryLaw, ModelShape, SchedulerLaw, StepLaw
from twin.errors import InvalidInputError, UnknownCalibrationError

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA_VERSION = 2
KIND = "a calibration"
PROFILES = Path(__file__).parent / "profiles"

_PARTS = {
    "model": ModelShape,
    "memory": MemoryLaw,
    "step": StepLaw,
    "scheduler": SchedulerLaw,
    "load": LoadLaw,
    "front_end": FrontEndLaw,
}


def shipped_calibration_ids() -> tuple[str, ...]:
    """Return the ids of the vLLM calibrations shipped with the package, sorted.

    Other engines' lie beside them and have readers of their own (`twin.paged_calibration`).
    """
    return tuple(
        sorted(str(path.relative_to(PROFILES).with_suffix("")) for path in PROFILES.glob("*/*/vllm-*.json"))
    )


def newest_first(calibration_ids: Iterable[str]) -> list[str]:
    """Return ids with the newest engine first: numbers in an engine's version compare as numbers."""

    def version(calibration_id: str) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", calibration_id.rsplit("/", 1)[-1])
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    return sorted(calibration_ids, key=version, reverse=True)


def calibration_sha256(calibration: Calibration) -> str:
    """Return the hash of the calibration's JSON."""
    return hashlib.sha256(calibration_to_json(calibration).encode()).hexdigest()


def calibration_digest(calibration: Calibration) -> str:
    """Return a short name of the calibration's content: a refit under the same id has another."""
    return calibration_sha256(calibration)[:16]


def load_calibration(id_or_path: str) -> Calibration:
    """Return a shipped calibration by id, or one from a JSON file by path.

    Raises
    ------
    UnknownCalibrationError
        When neither exists.
    InvalidInputError
        When the file is not a calibration; the field is named.
    """
    if id_or_path in shipped_calibration_ids():
        return _load_shipped(id_or_path)
    path = Path(id_or_path)
    if path.is_file():
        return calibration_from_json(path.read_bytes())
    known = ", ".join(shipped_calibration_ids())
    raise UnknownCalibrationError(f"calibration {id_or_path!r} is neither shipped ({known}) nor a file")


@lru_cache(maxsize=16)
def _load_shipped(calibration_id: str) -> Calibration:
    return calibration_from_json((PROFILES / f"{calibration_id}.json").read_bytes())


def calibration_to_json(calibration: Calibration) -> str:
    """Return the calibration as indented JSON that `calibration_from_json` reads back equal."""
    document = {"schema_version": SCHEMA_VERSION, "calibration_id": calibration.calibration_id}
    return json.dumps(document | asdict(calibration), indent=2) + "\n"


def calibration_from_json(text: str | bytes) -> Calibration:
    """Return the calibration that a JSON document holds.

    Raises
    ------
    InvalidInputError
        For text that is no JSON object, another schema version, a missing, unknown or wrong field.
    """
    document = read_object(text, "calibration")
    if "engine" in document:
        raise InvalidInputError("engine", f"must be absent: {document['engine']!r} has a reader of its own")
    version = document.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise InvalidInputError("schema_version", f"must be {SCHEMA_VERSION}, got {version!r}")
    document.pop("calibration_id", None)
    for name, part in _PARTS.items():
        document[name] = build(part, document.get(name), name, of=KIND)
    return build(Calibration, document, "calibration", of=KIND)
