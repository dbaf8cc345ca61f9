"""Fit the estimators of a recalibration's target to its measurement set."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from service.errors import InvalidRequestError
from service.services.measurements import MODEL_CONFIG, MeasurementSets
from service.steps.bench import bench
from twin.fitting.calibrate import fit_calibration
from twin.shapes import shape_from_config

if TYPE_CHECKING:
    from pathlib import Path

    from twin.domain import ModelShape

LINES = 25
"""Lines that a fit reports, about."""


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Fit, keep the calibration under its digest, and go on to simulating."""
    with bench(payload) as here:
        if here is None:
            return {"wanted": False}
        job = here.job
        assert job.measurement_set is not None, "measuring comes first"
        directory = MeasurementSets(here.files).get(job.measurement_set).directory
        told: list[str] = []

        def tell(line: str) -> None:
            told.append(line)
            here.note(min(len(told) / LINES, 0.95), line.strip())

        fitted = fit_calibration(
            directory,
            job.base_model,
            model=_shape(directory),
            command=f"loadmaster recalibrate, measurement set {job.measurement_set}",
            report=tell,
        ).calibration
        calibration = replace(fitted, gpu_type=job.gpu_type, engine_version=job.engine_version)
        digest = here.versions.publish_calibration(calibration)
        here.recalibrations.complete(
            job.job_id, job.generation, "fitting", "simulating", calibration_digest=digest
        )
        return {"calibration_digest": digest}


def _shape(directory: Path) -> ModelShape | None:
    path = directory / MODEL_CONFIG
    if not path.exists():
        return None
    try:
        return shape_from_config(json.loads(path.read_bytes()))
    except ValueError as error:
        raise InvalidRequestError(f"cannot be read: {error}", field=MODEL_CONFIG) from error
