"""Data sets of twin runs: one row a simulated server, made over all cores, stored as Parquet.

A row holds what defines its server (aggregates of the adapters, flags) and what the twin said;
features are computed from it when it is read, so they have one definition. Same calibration, seed
and rows give the same table, whatever the number of worker processes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.errors import DatasetError
from models.features import NUM_AGGREGATES, NUM_FEATURES, aggregate, calibration_vector
from models.kernels.features import fill_features
from models.scenarios import scenario
from twin.batch import map_tasks
from twin.calibration import calibration_from_json, calibration_to_json
from twin.simulate import TWIN_VERSION, simulate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from twin.domain import Calibration

SCHEMA_VERSION = 1
METADATA_KEY = b"loadmaster"
ROWS_A_TASK = 16

OUTCOMES: tuple[str, ...] = (
    "throughput_tok_s",
    "offered_tok_s",
    "starved",
    "itl_ms",
    "ttft_ms",
    "num_requests_sent",
)
"""What the twin said: see `twin.domain.SimulationReport`; latencies are means, NaN if none completed."""

FLAGS: tuple[str, ...] = ("row", "group", "max_loras", "max_lora_rank")
COLUMNS: tuple[str, ...] = (*FLAGS, *OUTCOMES, *(f"aggregate_{k:02d}" for k in range(NUM_AGGREGATES)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOrigin:
    """Where a data set came from; together with the code it determines every byte.

    Attributes
    ----------
    calibration_id, calibration_sha256
        The calibration, and the hash of its JSON.
    twin_version
        `twin.simulate.TWIN_VERSION`.
    seed, num_rows, max_adapters
        Of the design.
    """

    calibration_id: str
    calibration_sha256: str
    twin_version: str
    seed: int
    num_rows: int
    max_adapters: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Rows and where they came from.

    Attributes
    ----------
    origin
        Provenance.
    columns
        (num_rows, len(COLUMNS)) float64.
    """

    origin: DatasetOrigin
    columns: NDArray[np.float64]

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """Return one column by name, (num_rows,) float64."""
        return self.columns[:, COLUMNS.index(name)]

    @property
    def num_rows(self) -> int:
        """Simulated servers."""
        return len(self.columns)

    @property
    def sha256(self) -> str:
        """Hash of origin and numbers, independent of the file format's version."""
        header = json.dumps(_to_json(self.origin), sort_keys=True).encode()
        return hashlib.sha256(header + self.columns.tobytes()).hexdigest()

    def features(self, calibration: Calibration) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return features, (num_rows, NUM_FEATURES) float32, and physics, (num_rows, 4) float64.

        Physics are served fraction, itl_ms, ttft_ms and offered_tok_s by formula.
        """
        vector = calibration_vector(calibration)
        rows = np.empty((self.num_rows, NUM_FEATURES), dtype=np.float32)
        physics = np.empty((self.num_rows, 4))
        aggregates = np.ascontiguousarray(self.columns[:, -NUM_AGGREGATES:])
        max_loras = self["max_loras"].astype(np.int64)
        max_lora_rank = self["max_lora_rank"].astype(np.int64)
        for i in range(self.num_rows):
            physics[i] = fill_features(aggregates[i], max_loras[i], max_lora_rank[i], vector, rows[i])
        return rows, physics


def calibration_sha256(calibration: Calibration) -> str:
    """Return the hash of the calibration's JSON."""
    return hashlib.sha256(calibration_to_json(calibration).encode()).hexdigest()


def generate(
    calibration: Calibration,
    *,
    num_rows: int,
    seed: int = 0,
    max_adapters: int = 1000,
    num_workers: int | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> Dataset:
    """Simulate the first `num_rows` scenarios of a seed's design.

    Parameters
    ----------
    calibration
        The server to simulate.
    num_rows, seed, max_adapters
        See `models.scenarios.scenario`.
    num_workers
        Processes; None takes one a core, 1 stays in this process.
    on_rows
        Called with the number of rows just finished.
    """
    origin = DatasetOrigin(
        calibration_id=calibration.calibration_id,
        calibration_sha256=calibration_sha256(calibration),
        twin_version=TWIN_VERSION,
        seed=seed,
        num_rows=num_rows,
        max_adapters=max_adapters,
    )
    task = partial(_simulate_rows, calibration_to_json(calibration), seed, max_adapters)
    tasks = [range(first, min(first + ROWS_A_TASK, num_rows)) for first in range(0, num_rows, ROWS_A_TASK)]
    done: list[list[list[float]]] = []
    for rows in map_tasks(task, tasks, num_workers):
        done.append(rows)
        if on_rows is not None:
            on_rows(len(rows))
    return Dataset(origin=origin, columns=np.array(list(chain.from_iterable(done)), dtype=np.float64))


def _simulate_rows(calibration_json: str, seed: int, max_adapters: int, rows: range) -> list[list[float]]:
    calibration = calibration_from_json(calibration_json)
    return [_simulate_row(calibration, seed, max_adapters, row) for row in rows]


def _simulate_row(calibration: Calibration, seed: int, max_adapters: int, row: int) -> list[float]:
    drawn = scenario(calibration, seed, row, max_adapters=max_adapters)
    report = simulate(drawn.workload, drawn.server, calibration, seed=drawn.simulation_seed)
    return [
        row,
        drawn.group,
        drawn.server.max_loras,
        drawn.server.max_lora_rank,
        report.throughput_tok_s,
        report.offered_tok_s,
        report.starved,
        report.itl.mean_ms,
        report.ttft.mean_ms,
        report.num_requests_sent,
        *aggregate(drawn.workload),
    ]


def write_parquet(dataset: Dataset, path: str | Path) -> None:
    """Write the data set; the same data set gives the same bytes."""
    import pyarrow as pa  # noqa: PLC0415 (heavy, and the API process reads no data set)
    import pyarrow.parquet as pq  # noqa: PLC0415

    table = pa.table(
        {name: dataset[name] for name in COLUMNS},
        metadata={METADATA_KEY: json.dumps(_to_json(dataset.origin), sort_keys=True).encode()},
    )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial_path = target.with_name(target.name + ".part")
    pq.write_table(table, partial_path, compression="zstd")
    partial_path.replace(target)


def read_parquet(path: str | Path) -> Dataset:
    """Read a data set.

    Raises
    ------
    DatasetError
        For a file that is none, of another schema, with other columns, or cut short.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: {error}") from error
    origin = _origin_from_json((table.schema.metadata or {}).get(METADATA_KEY, b""), path)
    if tuple(table.column_names) != COLUMNS:
        raise DatasetError(f"{path}: its columns are not those of this version")
    columns = np.stack([table.column(name).to_numpy() for name in COLUMNS], axis=1).astype(np.float64)
    if len(columns) != origin.num_rows:
        raise DatasetError(f"{path}: has {len(columns)} rows, its origin says {origin.num_rows}")
    return Dataset(origin=origin, columns=columns)


def _to_json(origin: DatasetOrigin) -> dict[str, Any]:
    fields = {name: getattr(origin, name) for name in DatasetOrigin.__slots__}
    return {"schema_version": SCHEMA_VERSION, **fields}


def _origin_from_json(text: bytes, path: str | Path) -> DatasetOrigin:
    try:
        document = json.loads(text)
        version = document.pop("schema_version")
        origin = DatasetOrigin(**document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: is not a data set of twin runs") from error
    if version != SCHEMA_VERSION:
        raise DatasetError(f"{path}: has schema version {version!r}, this code reads {SCHEMA_VERSION}")
    return origin
