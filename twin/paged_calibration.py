"""Calibrations of the paged engine as JSON files, and those shipped beside vLLM's.

They lie in the same folders; an engine's name begins its file's. `twin.calibration` lists vLLM's
alone, so whoever looks for slots, surrogates or plans never meets one of these.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from twin.calibration import PROFILES
from twin.documents import build, read_object
from twin.errors import InvalidInputError, UnknownCalibrationError
from twin.paged_domain import PagedCalibration, PagedLoadLaw, PagedStepLaw

SCHEMA_VERSION = 1
ENGINE = "slora"
KIND = "a paged calibration"

_PARTS = {"step": PagedStepLaw, "load": PagedLoadLaw}


def shipped_paged_calibration_ids() -> tuple[str, ...]:
    """Return the ids of the paged calibrations shipped with the package, sorted."""
    return tuple(
        sorted(
            str(path.relative_to(PROFILES).with_suffix("")) for path in PROFILES.glob(f"*/*/{ENGINE}*.json")
        )
    )


def load_paged_calibration(id_or_path: str) -> PagedCalibration:
    """Return a shipped paged calibration by id, or one from a JSON file by path.

    Raises
    ------
    UnknownCalibrationError
        When neither exists.
    InvalidInputError
        When the file is not a paged calibration; the field is named.
    """
    path = Path(id_or_path)
    if id_or_path in shipped_paged_calibration_ids():
        path = PROFILES / f"{id_or_path}.json"
    if not path.is_file():
        known = ", ".join(shipped_paged_calibration_ids())
        raise UnknownCalibrationError(
            f"paged calibration {id_or_path!r} is neither shipped ({known}) nor a file"
        )
    return paged_calibration_from_json(path.read_bytes())


def paged_calibration_to_json(calibration: PagedCalibration) -> str:
    """Return the calibration as indented JSON that `paged_calibration_from_json` reads back equal."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "engine": ENGINE,
        "calibration_id": calibration.calibration_id,
    }
    return json.dumps(document | asdict(calibration), indent=2) + "\n"


def paged_calibration_from_json(text: str | bytes) -> PagedCalibration:
    """Return the paged calibration that a JSON document holds.

    Raises
    ------
    InvalidInputError
        For text that is no JSON object, another schema version or engine, a missing, unknown or wrong
        field.
    """
    document = read_object(text, "calibration")
    for name, expected in (("schema_version", SCHEMA_VERSION), ("engine", ENGINE)):
        value = document.pop(name, None)
        if value != expected:
            raise InvalidInputError(name, f"must be {expected}, got {value!r}")
    document.pop("calibration_id", None)
    for name, part in _PARTS.items():
        document[name] = build(part, document.get(name), name, of=KIND)
    return build(PagedCalibration, document, "calibration", of=KIND)
