"""Where complete data sets are kept: on disk and in the store, or at an fsspec URL."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from models.errors import RemoteError
from models.remote import folders_with, local_copy, remove_folder, require_protocol, upload
from service.errors import TooLargeError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from service.settings import Settings
    from service.storage.files import FileExchange

DATASET = "dataset.parquet"
SETTING = "LOADMASTER_DATASETS_URL"


class Datasets(Protocol):
    """Data sets by name, ``datasets/<calibration id>/<hash>``; a name tells the content."""

    def publish(self, name: str, file: Path) -> None:
        """Keep a file as a data set, whole or not at all; twice is once. The file may be moved away."""
        ...

    def open(self, name: str) -> AbstractContextManager[Path]:
        """Give a path of a data set that holds while the block runs."""
        ...

    def newest_first(self, folder: str) -> list[str]:
        """Return the names of a folder, those written last first."""
        ...

    def forget(self, name: str) -> None:
        """Remove a data set."""
        ...


def dataset_storage(settings: Settings, files: FileExchange) -> Datasets:
    """Return where this installation keeps its data sets."""
    if settings.datasets_url is None:
        return DiskDatasets(settings.data_dir, files)
    return RemoteDatasets(settings.datasets_url)


def require_datasets_url(settings: Settings) -> None:
    """Raise where a URL is set that nothing here can open; nothing is connected to.

    Raises
    ------
    UsageError
        Naming the setting, and what to install.
    """
    if settings.datasets_url is None:
        return
    try:
        require_protocol(settings.datasets_url)
    except RemoteError as error:
        raise UsageError(f"cannot be used: {error}", field=SETTING) from error


class DiskDatasets:
    """Below the data directory; in the store for other hosts, up to what the store takes."""

    def __init__(self, root: Path, files: FileExchange) -> None:
        self._root = root
        self._files = files

    def publish(self, name: str, file: Path) -> None:
        """Keep a file; one too large for the store is kept here alone, for hosts that share this disk."""
        path = self._root / name / DATASET
        if path.exists():
            return
        try:
            self._files.publish(name, {DATASET: file.read_bytes()})
        except TooLargeError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file.replace(path)

    @contextmanager
    def open(self, name: str) -> Iterator[Path]:
        """Give the path on this disk, taken from the store where it is not there yet."""
        yield self._files.fetch(name) / DATASET

    def newest_first(self, folder: str) -> list[str]:
        """Return the names of this disk."""
        found = [
            path
            for path in (self._root / folder).glob("*")
            if path.is_dir() and not path.name.startswith(".")
        ]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        return [f"{folder}/{path.name}" for path in found]

    def forget(self, name: str) -> None:
        """Remove it from this disk and from the store; other hosts keep theirs."""
        self._files.forget(name)


class RemoteDatasets:
    """At a URL that every host of the queue `train` reaches; nothing of them stays on a disk of ours."""

    def __init__(self, url: str) -> None:
        self._url = re.sub("/+$", "", url)

    def publish(self, name: str, file: Path) -> None:
        """Upload a file; one that is there already is written anew, the same."""
        with _of_the_setting():
            upload(file, f"{self._url}/{name}/{DATASET}")

    @contextmanager
    def open(self, name: str) -> Iterator[Path]:
        """Give the path of a copy, which is removed after the block."""
        with _of_the_setting(), local_copy(f"{self._url}/{name}/{DATASET}") as path:
            yield path

    def newest_first(self, folder: str) -> list[str]:
        """Return the names below the URL."""
        with _of_the_setting():
            return [f"{folder}/{one}" for one in folders_with(DATASET, f"{self._url}/{folder}")]

    def forget(self, name: str) -> None:
        """Remove it, for every host."""
        with _of_the_setting():
            remove_folder(f"{self._url}/{name}")


@contextmanager
def _of_the_setting() -> Iterator[None]:
    """Name the setting in what goes wrong at its URL."""
    try:
        yield
    except RemoteError as error:
        raise RemoteError(f"{SETTING}: {error}") from error
