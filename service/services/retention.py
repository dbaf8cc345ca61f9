"""What old data sets leave behind: the newest of each calibration stay."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Collection

    from service.settings import Settings
    from service.storage.datasets import Datasets

log = structlog.get_logger()


def forget_old_datasets(
    datasets: Datasets, settings: Settings, *, keep: str, under_way: Collection[str]
) -> list[str]:
    """Remove all but the newest data sets of a calibration, and return their names.

    Parameters
    ----------
    keep
        Name of the data set just written, ``datasets/<calibration id>/<hash>``, which stays in any case.
    under_way
        Recalibrations whose parts stay, however old the clock takes them for.
    """
    _forget_left_parts(settings, under_way)
    old = datasets.newest_first(keep.rpartition("/")[0])[settings.kept_datasets :]
    removed = [name for name in old if name != keep]
    for name in removed:
        datasets.forget(name)
    if removed:
        log.info("datasets_forgotten", names=removed)
    return removed


def _forget_left_parts(settings: Settings, under_way: Collection[str]) -> None:
    """Remove the parts of recalibrations that were given up longer ago than they may be tried again."""
    oldest_s = time.time() - settings.result_ttl_s
    for path in (settings.data_dir / "datasets" / ".parts").glob("*"):
        if path.name not in under_way and path.stat().st_mtime < oldest_s:
            shutil.rmtree(path, ignore_errors=True)
