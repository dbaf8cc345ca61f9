"""Make data sets: simulate the scenarios of a design, over all cores or by whoever takes a part.

Same calibration, design and rows give the same table, whatever the number of worker processes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.active import choose, design_features, weights
from models.dataset import COLUMNS, Dataset, DatasetOrigin
from models.dataset_files import read_table, write_table
from models.errors import DatasetError
from models.features import aggregate
from models.live import LIVE_FIRST, live_scenario
from models.scenarios import scenario
from models.training import examples_of
from twin.batch import map_tasks
from twin.calibration import calibration_sha256
from twin.simulate import TWIN_VERSION, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from models.dataset import Design
    from models.scenarios import Scenario
    from twin.domain import Calibration

ROWS_A_TASK = 16
ROWS_A_PART = 1024


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
        dataset = _with(dataset, run.rows(chosen))
    return dataset if design.live is None else _with(dataset, run.rows(design.live.rows))


def _with(dataset: Dataset, columns: NDArray[np.float64]) -> Dataset:
    return Dataset(origin=dataset.origin, columns=np.concatenate([dataset.columns, columns]))


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
    done = _simulate_rows(calibration, design, rows.tolist())
    return np.array(done, dtype=np.float64).reshape(-1, len(COLUMNS))


def write_part(
    calibration: Calibration, design: Design, columns: NDArray[np.float64], parts: str | Path
) -> Path:
    """Keep simulated rows as the part that `assemble` looks for, and return its file; twice is once."""
    path = Path(parts) / _part_name(int(columns[0, COLUMNS.index("row")]))
    write_table(_origin(calibration, design), columns, path)
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
        self.task = partial(_simulate_rows, calibration, design)
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
            write_table(self.origin, columns, self._path(part))
        return columns

    def _finished(self, part: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Return a part that an earlier call left, None where it left none that fits."""
        if self.parts is None or not self._path(part).exists():
            return None
        try:
            origin, columns = read_table(self._path(part))
        except DatasetError:
            return None
        fits = origin == self.origin and np.array_equal(columns[:, COLUMNS.index("row")], part)
        return columns if fits else None

    def _path(self, part: NDArray[np.int64]) -> Path:
        assert self.parts is not None, "asked for where parts are kept only"
        return self.parts / _part_name(int(part[0]))


def _part_name(first_row: int) -> str:
    return f"rows-{first_row:08d}.parquet"


def _simulate_rows(calibration: Calibration, design: Design, rows: list[int]) -> list[list[float]]:
    return [_simulate_row(calibration, design, row) for row in rows]


def _simulate_row(calibration: Calibration, design: Design, row: int) -> list[float]:
    drawn = _scenario(calibration, design, row)
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


def _scenario(calibration: Calibration, design: Design, row: int) -> Scenario:
    if row < LIVE_FIRST:
        return scenario(calibration, design.seed, row, max_adapters=design.max_adapters)
    assert design.live is not None, "a live row belongs to a sample"
    return live_scenario(calibration, design.live, design.seed, row)
