"""Tell where the surrogate of a version was taught, for rounds that compare plans in force with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from models.active import design_features
from models.coverage import Coverage, places_of
from models.live import live_features
from models.scenarios import MAX_ADAPTERS
from service.settings import Settings
from service.storage.connection import connect
from service.storage.coverage import keep_coverage
from service.storage.files import FileExchange
from service.storage.versions import VersionStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.storage.versions import Version

SURVEYED_ROWS = 4000
"""Rows of a design whose features are computed, at most: the design fills its range evenly."""


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Compute the features of the rows that a version learned from, and keep them for every host."""
    settings = Settings()
    client = connect(settings)
    try:
        files = FileExchange(settings.data_dir, client)
        versions = VersionStore(files)
        version = versions.version(payload["calibration_id"], payload["surrogate_version"])
        coverage = survey(version, versions)
        keep_coverage(files, version.manifest.calibration_id, version.name, coverage)
    finally:
        client.close()
    return {"rows": len(coverage.weight)}


def survey(version: Version, versions: VersionStore) -> Coverage:
    """Return where a version was taught: rows of its design, and those of live servers."""
    manifest, live = version.manifest, versions.live_servers(version)
    num_live = 0 if live is None else live.num_rows
    num_design = max(manifest.dataset_rows - num_live, 1)
    rows = range(min(num_design, SURVEYED_ROWS))
    taught = [design_features(version.calibration, manifest.dataset_seed, MAX_ADAPTERS, rows)[0]]
    weights = [_even(len(rows), num_design / len(rows))]
    if live is not None:
        taught.append(live_features(version.calibration, live, manifest.dataset_seed, live.rows))
        weights.append(_even(num_live, 1.0))
    return Coverage(places=places_of(np.concatenate(taught)), weight=np.concatenate(weights))


def _even(num_rows: int, weight: float) -> NDArray[np.float32]:
    return np.full(num_rows, weight, dtype=np.float32)
