"""Gather what batches told into parts on disk, and parts into a data set."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from models.dataset import COLUMNS, Dataset
from models.dataset_files import write_parquet
from models.generation import assemble, write_part
from service.services.retention import forget_old_datasets
from service.services.rounds import survived
from service.steps.bench import bench
from service.storage.datasets import DATASET
from service.storage.recalibrations import RecalibrationStore
from service.storage.waves import Wave

if TYPE_CHECKING:
    from service.steps.bench import Bench

BATCHES_AT_ONCE = 64


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Write held results as parts; once a wave is complete, ask for the next one or write the data set."""
    with bench(payload) as here:
        if here is None:
            return {"wanted": False}
        wave = None if here.job.wave is None else Wave(here.client, here.job.job_id, here.job.wave)
        if wave is not None:
            _drain(here, wave)
            state = wave.state()
            if state is not None and not state.is_done:
                return {"complete": False}
        made = assemble(here.calibration, here.design, here.parts, here.settings.rows_a_batch)
        if isinstance(made, Dataset):
            return _finish(here, made)
        number = 0 if here.job.wave is None else here.job.wave + 1
        here.recalibrations.open_wave(here.job.job_id, here.job.generation, number, np.concatenate(made))
        return {"wave": number, "rows": sum(map(len, made))}


def _drain(here: Bench, wave: Wave) -> None:
    """Move results from the store to disk; one that is on disk already is written again, the same."""
    while held := wave.held(len(COLUMNS), BATCHES_AT_ONCE):
        for columns in held.values():
            write_part(here.calibration, here.design, columns, here.parts)
        wave.release(list(held))


def _finish(here: Bench, dataset: Dataset) -> dict[str, Any]:
    """Write all parts as one file, which every host of the train queue can have, and drop them."""
    name = f"datasets/{dataset.origin.calibration_id}/{dataset.sha256[:16]}"
    aside = here.parts / DATASET
    write_parquet(dataset, aside)
    here.datasets.publish(name, aside)
    made = {
        "name": name,
        "sha256": dataset.sha256,
        "rows": dataset.num_rows,
        "live_rows": dataset.num_rows - here.design.num_rows,
        "starved_rows": int(dataset["starved"].sum()),
        "twin_version": dataset.origin.twin_version,
    }
    here.recalibrations.complete(here.job.job_id, here.job.generation, "simulating", "training", dataset=made)
    shutil.rmtree(here.parts, ignore_errors=True)
    with survived("datasets", event="datasets_not_forgotten"):  # the next recalibration looks again
        under_way = [one.job_id for one in RecalibrationStore(here.client).under_way()]
        forget_old_datasets(here.datasets, here.settings, keep=name, under_way=under_way)
    return made
