"""Data sets of twin runs: one row a simulated server.

A row holds what defines its server (aggregates of the adapters, flags) and what the twin said;
features are computed from it when it is read, so they have one definition. `models.generation` makes
them, `models.dataset_files` keeps them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from models.errors import DatasetError
from models.features import NUM_AGGREGATES, NUM_FEATURES, calibration_vector
from models.kernels.features import fill_features
from models.live import LiveServers, live_servers_from
from models.scenarios import GROUP_SIZE, MAX_ADAPTERS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from twin.domain import Calibration

SCHEMA_VERSION = 2
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
        Simulated servers, those of `live` not among them.
    seed, max_adapters
        See `models.scenarios.scenario`.
    active_share
        Share of the rows that are chosen by what earlier rows taught (`models.active`), in
        `ACTIVE_ROUNDS` rounds; the others are the design's first rows.
    live
        Servers of plans in force that are simulated besides, with their neighbourhood; they come last and
        change none of the other rows.
    """

    num_rows: int
    seed: int = 0
    max_adapters: int = MAX_ADAPTERS
    active_share: float = 0.0
    live: LiveServers | None = None

    def __post_init__(self) -> None:
        for name in ("num_rows", "max_adapters"):
            if getattr(self, name) < 1:
                raise DatasetError(f"{name}: must be >= 1, got {getattr(self, name)!r}")
        if self.seed < 0:
            raise DatasetError(f"seed: must be >= 0, got {self.seed!r}")
        if not 0.0 <= self.active_share < 1.0:
            raise DatasetError(f"active_share: must be in [0, 1), got {self.active_share!r}")

    @property
    def total_rows(self) -> int:
        """Simulated servers in all."""
        return self.num_rows + (0 if self.live is None else self.live.num_rows)

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
        header = json.dumps(origin_document(self.origin), sort_keys=True).encode()
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


def origin_document(origin: DatasetOrigin) -> dict[str, Any]:
    """Return an origin as JSON values; what is not in every data set stands there only where it is."""
    document = {"schema_version": SCHEMA_VERSION, **asdict(origin)}
    if origin.design.live is None:
        del document["design"]["live"]
    return document


def origin_from_json(text: bytes, path: str | Path) -> DatasetOrigin:
    """Return the origin that a JSON text holds.

    Raises
    ------
    DatasetError
        Naming `path`, for a text that is none or is of another schema.
    """
    try:
        document = json.loads(text)
        version = document.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise DatasetError(f"{path}: has schema version {version!r}, this code reads {SCHEMA_VERSION}")
        told = document.pop("design")
        live = told.pop("live", None)
        design = Design(**told, live=None if live is None else live_servers_from(live))
        return DatasetOrigin(**document, design=design)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: is not a data set of twin runs") from error
