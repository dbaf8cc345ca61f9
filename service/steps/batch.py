"""Simulate one batch of a recalibration's servers, and count it once."""

from __future__ import annotations

from typing import Any

from models.generation import simulate_rows
from service.steps.bench import bench
from service.storage.waves import Wave


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Simulate the rows of a batch, give the store what the twin said, and queue the next ones."""
    with bench(payload) as here:
        if here is None or here.job.wave != payload["wave"]:
            return {"wanted": False}
        wave = Wave(here.client, here.job.job_id, payload["wave"])
        rows = wave.rows_of(payload["index"])
        counted = wave.commit(payload["index"], simulate_rows(here.calibration, here.design, rows))
        state = wave.state()
        if state is not None and state.is_done:
            here.recalibrations.advance(here.job.job_id)
        elif state is not None:
            here.recalibrations.top_up(here.job, wave)
        return {"rows": len(rows), "counted": counted}
