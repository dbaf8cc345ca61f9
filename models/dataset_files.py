"""Data sets as Parquet, in files and at fsspec URLs; the same data set gives the same bytes."""

from __future__ import annotations

import json
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.dataset import COLUMNS, Dataset, origin_document, origin_from_json
from models.errors import DatasetError
from models.remote import is_url, local_copy, size_of, upload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.dataset import DatasetOrigin

METADATA_KEY = b"loadmaster"


def write_parquet(dataset: Dataset, location: str | Path) -> None:
    """Write the data set to a file or URL, whole or not at all.

    Raises
    ------
    RemoteError
        The URL cannot be written.
    """
    if not is_url(location):
        write_table(dataset.origin, dataset.columns, Path(location))
        return
    with tempfile.TemporaryDirectory(prefix="loadmaster-") as directory:
        path = Path(directory) / "dataset.parquet"
        write_table(dataset.origin, dataset.columns, path)
        upload(path, str(location))


def read_parquet(location: str | Path) -> Dataset:
    """Read a data set from a file or URL.

    Raises
    ------
    DatasetError
        For a file that is none, of another schema, with other columns, or cut short.
    RemoteError
        The URL cannot be read.
    """
    with local_copy(location) as path:
        origin, columns = read_table(path, named=location)
    wanted = origin.design.total_rows
    if len(columns) != wanted:
        raise DatasetError(f"{location}: has {len(columns)} rows, its origin says {wanted}")
    return Dataset(origin=origin, columns=columns)


def num_bytes(location: str | Path) -> int:
    """Return the size of a file, also of one at a URL."""
    return size_of(str(location)) if is_url(location) else Path(location).stat().st_size


def write_table(origin: DatasetOrigin, columns: NDArray[np.float64], target: Path) -> None:
    """Write rows, (num_rows, len(COLUMNS)), and where they came from; whole or not at all."""
    import pyarrow as pa  # noqa: PLC0415 (heavy, and the API process reads no data set)
    import pyarrow.parquet as pq  # noqa: PLC0415

    table = pa.table(
        {name: columns[:, place] for place, name in enumerate(COLUMNS)},
        metadata={METADATA_KEY: json.dumps(origin_document(origin), sort_keys=True).encode()},
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial_path = target.with_name(f".{target.name}.{uuid.uuid4().hex}")  # two may write the same part
    try:
        pq.write_table(table, partial_path, compression="zstd")
        partial_path.replace(target)
    finally:
        partial_path.unlink(missing_ok=True)


def read_table(path: Path, named: str | Path | None = None) -> tuple[DatasetOrigin, NDArray[np.float64]]:
    """Return where the rows of a file came from, and the rows, (num_rows, len(COLUMNS)) float64.

    Parameters
    ----------
    path
        The file.
    named
        What errors call it; None takes the path.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    name = path if named is None else named
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{name}: {error}") from error
    origin = origin_from_json((table.schema.metadata or {}).get(METADATA_KEY, b""), name)
    if tuple(table.column_names) != COLUMNS:
        raise DatasetError(f"{name}: its columns are not those of this version")
    try:
        return origin, np.stack([table.column(name).cast("float64").to_numpy() for name in COLUMNS], axis=1)
    except pa.ArrowException as error:
        raise DatasetError(f"{name}: a column holds something else than numbers: {error}") from error
