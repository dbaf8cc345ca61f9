"""What every step needs: built from the settings, once a fork."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from structlog.contextvars import bind_contextvars

from models.dataset import Design
from models.dataset_files import read_parquet
from models.errors import DatasetError
from service.factory import build_recalibrations
from service.services.clock import Clock
from service.settings import Settings
from service.storage.connection import connect
from service.storage.datasets import dataset_storage
from service.storage.files import FileExchange
from service.storage.refreshes import read_live_servers
from service.storage.versions import VersionStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import redis

    from models.dataset import Dataset
    from service.services.recalibration import RecalibrationService
    from service.storage.datasets import Datasets
    from service.storage.recalibrations import Recalibration
    from twin.domain import Calibration

LEAST_ACTIVE_ROWS = 2000
"""A smaller data set is not worth asking where it leaves doubt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A step's recalibration, the scenarios that it simulates, and the tools for it."""

    job: Recalibration
    design: Design
    settings: Settings
    client: redis.Redis
    files: FileExchange
    datasets: Datasets
    versions: VersionStore
    recalibrations: RecalibrationService

    @property
    def calibration(self) -> Calibration:
        """The calibration that the fits of this recalibration made."""
        assert self.job.calibration_digest is not None, "fitting comes first"
        return self.versions.calibration(self.job.target.calibration_id, self.job.calibration_digest)

    @property
    def parts(self) -> Path:
        """Where gathered parts wait until they are a data set."""
        return self.settings.data_dir / "datasets" / ".parts" / self.job.job_id

    def dataset(self) -> Dataset:
        """Return the data set that was gathered.

        Raises
        ------
        DatasetError
            What is kept under its name is another one.
        """
        made = self.job.dataset
        assert made is not None, "simulating comes first"
        with self.datasets.open(made["name"]) as path:
            found = read_parquet(path)
        if found.sha256 != made["sha256"]:
            raise DatasetError(f"{made['name']}: holds another data set than was gathered: {found.sha256}")
        return found

    def note(self, progress: float, detail: str) -> None:
        """Tell how far the step is."""
        self.recalibrations.note(self.job.job_id, self.job.generation, progress=progress, detail=detail)


@contextmanager
def bench(payload: Mapping[str, Any]) -> Iterator[Bench | None]:
    """Open the bench of a step; None where nobody waits for it any more."""
    bind_contextvars(recalibration=payload["job_id"])
    settings = Settings()
    client = connect(settings)
    files = FileExchange(settings.data_dir, client)
    recalibrations = build_recalibrations(client, files, settings, Clock())
    try:
        if not recalibrations.is_wanted(payload["job_id"], payload["generation"]):
            yield None
            return
        job = recalibrations.get(payload["job_id"])
        yield Bench(
            job=job,
            design=_design(job, settings, files),
            settings=settings,
            client=client,
            files=files,
            datasets=dataset_storage(settings, files),
            versions=VersionStore(files),
            recalibrations=recalibrations,
        )
    finally:
        client.close()


def _design(job: Recalibration, settings: Settings, files: FileExchange) -> Design:
    share = settings.recalibration_active_share
    return Design(
        num_rows=job.num_rows,
        seed=job.seed,
        active_share=share if job.num_rows >= LEAST_ACTIVE_ROWS else 0.0,
        live=None if job.live_servers is None else read_live_servers(files.fetch(job.live_servers)),
    )
