"""Versions to publish: the shipped surrogates, told of servers whose steps take a little longer."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from models.artifact import Provenance, load_shipped, read_manifest, save, shipped_directory
from models.features import calibration_vector
from service.storage.versions import Lineage, created_now
from twin.calibration import calibration_to_json, load_calibration

if TYPE_CHECKING:
    from models.surrogate import Surrogate
    from service.storage.versions import Version, VersionStore
    from twin.domain import Calibration


def changed(calibration_id: str, number: int) -> tuple[Calibration, Surrogate]:
    """Return a calibration and a surrogate that agree, another pair for each number."""
    shipped = load_calibration(calibration_id)
    longer = 1 + 0.01 * number
    calibration = replace(
        shipped,
        step=replace(shipped.step, base_ms=shipped.step.base_ms * longer),
        load=replace(shipped.load, cpu_ms=shipped.load.cpu_ms * longer),
    )
    surrogate = replace(load_shipped(calibration_id), calibration=calibration_vector(calibration))
    return calibration, surrogate


def publish_changed(versions: VersionStore, calibration_id: str, number: int) -> Version:
    """Publish such a pair and return its version."""
    calibration, surrogate = changed(calibration_id, number)
    recorded = read_manifest(shipped_directory(calibration_id)).model_dump()
    provenance = Provenance(
        **{name: recorded[name] for name in Provenance.model_fields if name != "calibration_sha256"},
        calibration_sha256=hashlib.sha256(calibration_to_json(calibration).encode()).hexdigest(),
    )
    with tempfile.TemporaryDirectory() as directory:
        save(surrogate, directory, provenance)
        lineage = Lineage(created_at=created_now(), job_id=f"job-{number}")
        return versions.publish(Path(directory), calibration, lineage)
