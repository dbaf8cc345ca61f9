"""Teach a candidate surrogate from a recalibration's data set."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from models.pipeline import publish, train
from service.steps.bench import bench


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Train and distil, keep the candidate for validation, and go on to it."""
    with bench(payload) as here:
        if here is None:
            return {"wanted": False}
        job = here.job
        dataset = here.dataset()
        here.note(0.05, f"teaching from {dataset.num_rows} twin runs")
        trained = train(dataset, here.calibration, seed=job.seed, num_workers=here.settings.train_processes)
        here.note(0.95, "keeping the candidate")
        with tempfile.TemporaryDirectory(prefix="loadmaster-candidate-") as name:
            manifest = publish(trained, dataset, name)
            (Path(name) / "report.md").write_text(trained.report, encoding="utf-8")
            files = {path.name: path.read_bytes() for path in Path(name).iterdir()}
        here.files.publish(candidate_name(job.job_id, job.generation), files)
        here.recalibrations.complete(
            job.job_id,
            job.generation,
            "training",
            "validating",
            surrogate_version=manifest.surrogate_version,
        )
        return {"surrogate_version": manifest.surrogate_version}


def candidate_name(job_id: str, generation: int) -> str:
    """Return the directory of a candidate."""
    return f"candidates/{job_id}.{generation}"
