"""Data sets of twin runs: one row a simulated server, made over all cores, stored as Parquet.

A row holds what defines its server (aggregates of the adapters, flags) and what the twin said;
features are computed from it when it is read, so they have one definition. Same calibration, seed
and rows give the same table, whatever the number of worker processes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.active import choose, design_features, weights
from models.errors import DatasetError
from models.features import NUM_AGGREGATES, NUM_FEATURES, aggregate, calibration_vector
from models.kernels.features import fill_features
from models.scenarios import GROUP_SIZE, MAX_ADAPTERS, scenario
from models.training import examples_of
from twin.batch import map_tasks
from twin.calibration import calibration_sha256
from twin.simulate import TWIN_VERSION, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from twin.domain import Calibration

SCHEMA_VERSION = 2
METADATA_KEY = b"loadmaster"
ROWS_A_TASK = 16
ROWS_A_PART = 1024
ACTIVE_ROUNDS = 2
CANDIDATES_A_ROW = 3
"""Scenarios looked at for each row that an active round simulates."""

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
class Design:
    """Which scenarios a data set holds.

    Attributes
    ----------
    num_rows
        Simulated servers.
    seed, max_adapters
        See `models.scenarios.scenario`.
    active_share
        Share of the rows that are chosen by what earlier rows taught (`models.active`), in
        `ACTIVE_ROUNDS` rounds; the others are the design's first rows.
    """

    num_rows: int
    seed: int = 0
    max_adapters: int = MAX_ADAPTERS
    active_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_rows", "max_adapters"):
            if getattr(self, name) < 1:
                raise DatasetError(f"{name}: must be >= 1, got {getattr(self, name)!r}")
        if self.seed < 0:
            raise DatasetError(f"seed: must be >= 0, got {self.seed!r}")
        if not 0.0 <= self.active_share < 1.0:
            raise DatasetError(f"active_share: must be in [0, 1), got {self.active_share!r}")

    @property
    def num_first(self) -> int:
        """Rows before the active ones, whole groups where there are active ones."""
        if self.active_share == 0.0:
            return self.num_rows
        groups = round(self.num_rows * (1.0 - self.active_share) / GROUP_SIZE)
        return min(max(groups, 1) * GROUP_SIZE, self.num_rows)

    def rounds(self) -> list[tuple[range, int]]:
        """Return candidates and the number to choose among them, for each active round."""
        left = self.num_rows - self.num_first
        first, found = self.num_first, []
        for number in range(ACTIVE_ROUNDS, 0, -1):
            count = left // number
            left -= count
            if count:
                found.append((range(first, first + CANDIDATES_A_ROW * count), count))
                first += CANDIDATES_A_ROW * count
        return found

    @property
    def next_row(self) -> int:
        """First row, at the start of a group, that this design never looks at."""
        used = max([self.num_first, *(rows.stop for rows, _ in self.rounds())])
        return -(-used // GROUP_SIZE) * GROUP_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOrigin:
    """Where a data set came from; together with the code it determines every byte.

    Attributes
    ----------
    calibration_id, calibration_sha256
        The calibration, and the hash of its JSON.
    twin_version
        `twin.simulate.TWIN_VERSION`.
    design
        Of the scenarios.
    """

    calibration_id: str
    calibration_sha256: str
    twin_version: str
    design: Design


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


def generate(
    calibration: Calibration,
    design: Design,
    *,
    num_workers: int | None = None,
    parts: str | Path | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> Dataset:
    """Simulate the scenarios of a design.

    Parameters
    ----------
    calibration
        The server to simulate.
    design
        Which scenarios.
    num_workers
        Processes; None takes one a core, 1 stays in this process.
    parts
        Directory that keeps finished parts, so that a call that was killed goes on where it was; parts
        of another data set in it are made anew. None keeps none.
    on_rows
        Called with the number of rows just finished.
    """
    run = _Run(calibration, design, num_workers, parts, on_rows)
    return _generated(run, calibration, design)


def _generated(run: _Run, calibration: Calibration, design: Design) -> Dataset:
    """Return the rows of all rounds; those of an active round depend on the rounds before."""
    origin = run.origin
    dataset = Dataset(origin=origin, columns=run.rows(np.arange(design.num_first)))
    for number, (candidates, count) in enumerate(design.rounds()):
        looked_at = design_features(
            calibration, design.seed, design.max_adapters, candidates, run.num_workers
        )
        weight = weights(examples_of(dataset, calibration), *looked_at, design.seed + number)
        chosen = candidates.start + choose(weight, count, design.seed + number)
        columns = np.concatenate([dataset.columns, run.rows(chosen)])
        dataset = Dataset(origin=origin, columns=columns)
    return dataset


def assemble(
    calibration: Calibration, design: Design, parts: str | Path, rows_a_part: int = ROWS_A_PART
) -> Dataset | tuple[NDArray[np.int64], ...]:
    """Return the data set of a design from finished parts, or the parts that are missing next.

    Others simulate them (`simulate_rows`, `write_part`), in any order and on any machine; an active round
    chooses its rows once the rounds before it are complete.

    Parameters
    ----------
    calibration, design
        As in `generate`, which gives the same data set.
    parts
        Directory of finished parts.
    rows_a_part
        Rows of each part; the last one of a round may have fewer.

    Returns
    -------
    The data set, or for each missing part its rows, (num_rows_of_part,) int64.
    """
    run = _Run(calibration, design, 1, parts, None)
    run.rows_a_part, run.only_finished = rows_a_part, True
    try:
        return _generated(run, calibration, design)
    except _MissingRowsError as missing:
        return missing.parts


def simulate_rows(calibration: Calibration, design: Design, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what the twin says of rows of a design, (num_rows, len(COLUMNS)) float64."""
    done = _simulate_rows(calibration, design.seed, design.max_adapters, rows.tolist())
    return np.array(done, dtype=np.float64).reshape(-1, len(COLUMNS))


def write_part(
    calibration: Calibration, design: Design, columns: NDArray[np.float64], parts: str | Path
) -> Path:
    """Keep simulated rows as the part that `assemble` looks for, and return its file; twice is once."""
    path = Path(parts) / _part_name(int(columns[0, COLUMNS.index("row")]))
    _write_table(_origin(calibration, design), columns, path)
    return path


def _origin(calibration: Calibration, design: Design) -> DatasetOrigin:
    return DatasetOrigin(
        calibration_id=calibration.calibration_id,
        calibration_sha256=calibration_sha256(calibration),
        twin_version=TWIN_VERSION,
        design=design,
    )


class _MissingRowsError(Exception):
    """Parts that others have to simulate first."""

    def __init__(self, parts: tuple[NDArray[np.int64], ...]) -> None:
        super().__init__(f"{len(parts)} parts are missing")
        self.parts = parts


class _Run:
    """The simulations of one data set, part after part."""

    rows_a_part = ROWS_A_PART
    only_finished = False

    def __init__(
        self,
        calibration: Calibration,
        design: Design,
        num_workers: int | None,
        parts: str | Path | None,
        on_rows: Callable[[int], None] | None,
    ) -> None:
        self.origin = _origin(calibration, design)
        self.task = partial(_simulate_rows, calibration, design.seed, design.max_adapters)
        self.num_workers = num_workers
        self.parts = None if parts is None else Path(parts)
        self.on_rows = on_rows or (lambda _: None)

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the columns of these rows of the design, from finished parts where there are any."""
        size = self.rows_a_part
        wanted = [numbers[first : first + size] for first in range(0, len(numbers), size)]
        found = [self._finished(part) for part in wanted]
        missing = [part for part, columns in zip(wanted, found, strict=True) if columns is None]
        if missing and self.only_finished:
            raise _MissingRowsError(tuple(missing))
        tasks = [
            part[first : first + ROWS_A_TASK].tolist()
            for part in missing
            for first in range(0, len(part), ROWS_A_TASK)
        ]
        simulated = map_tasks(self.task, tasks, self.num_workers)
        for place, (part, columns) in enumerate(zip(wanted, found, strict=True)):
            if columns is None:
                found[place] = self._simulated(part, simulated)
            else:
                self.on_rows(len(columns))
        return np.concatenate([columns for columns in found if columns is not None])

    def _simulated(self, part: NDArray[np.int64], simulated: Iterator[list[list[float]]]) -> Any:
        done: list[list[float]] = []
        while len(done) < len(part):
            rows = next(simulated)
            done.extend(rows)
            self.on_rows(len(rows))
        columns = np.array(done, dtype=np.float64)
        if self.parts is not None:
            _write_table(self.origin, columns, self._path(part))
        return columns

    def _finished(self, part: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Return a part that an earlier call left, None where it left none that fits."""
        if self.parts is None or not self._path(part).exists():
            return None
        try:
            origin, columns = _read_table(self._path(part))
        except DatasetError:
            return None
        fits = origin == self.origin and np.array_equal(columns[:, COLUMNS.index("row")], part)
        return columns if fits else None

    def _path(self, part: NDArray[np.int64]) -> Path:
        assert self.parts is not None, "asked for where parts are kept only"
        return self.parts / _part_name(int(part[0]))


def _part_name(first_row: int) -> str:
    return f"rows-{first_row:08d}.parquet"


def _simulate_rows(
    calibration: Calibration, seed: int, max_adapters: int, rows: list[int]
) -> list[list[float]]:
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
    _write_table(dataset.origin, dataset.columns, Path(path))


def _write_table(origin: DatasetOrigin, columns: NDArray[np.float64], target: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415 (heavy, and the API process reads no data set)
    import pyarrow.parquet as pq  # noqa: PLC0415

    table = pa.table(
        {name: columns[:, place] for place, name in enumerate(COLUMNS)},
        metadata={METADATA_KEY: json.dumps(_to_json(origin), sort_keys=True).encode()},
    )
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
    origin, columns = _read_table(path)
    if len(columns) != origin.design.num_rows:
        raise DatasetError(f"{path}: has {len(columns)} rows, its origin says {origin.design.num_rows}")
    return Dataset(origin=origin, columns=columns)


def _read_table(path: str | Path) -> tuple[DatasetOrigin, NDArray[np.float64]]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: {error}") from error
    origin = _origin_from_json((table.schema.metadata or {}).get(METADATA_KEY, b""), path)
    if tuple(table.column_names) != COLUMNS:
        raise DatasetError(f"{path}: its columns are not those of this version")
    return origin, np.stack([table.column(name).to_numpy() for name in COLUMNS], axis=1).astype(np.float64)


def _to_json(origin: DatasetOrigin) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, **asdict(origin)}


def _origin_from_json(text: bytes, path: str | Path) -> DatasetOrigin:
    try:
        document = json.loads(text)
        version = document.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise DatasetError(f"{path}: has schema version {version!r}, this code reads {SCHEMA_VERSION}")
        design = Design(**document.pop("design"))
        return DatasetOrigin(**document, design=design)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: is not a data set of twin runs") from error
