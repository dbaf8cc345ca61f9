"""Measurement sets: the tables that calibrations are fitted to, named by their content."""

from __future__ import annotations

import csv
import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from service.errors import InvalidRequestError, NotFoundError, TooLargeError
from twin.errors import InvalidInputError
from twin.fitting.tables import AGENT_TABLES, TABLES, read_rows
from twin.measured import read_runs
from twin.measurement_set import MANIFEST, read_manifest
from twin.shapes import shape_from_config

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from service.storage.files import FileExchange

RUNS = "runs.csv"
MODEL_CONFIG = "model_config.json"
"""The base model's config.json, for a model whose shapes are not known; optional."""

MAX_TABLE_BYTES = 32 * 2**20
REQUIRED = (*TABLES, RUNS)
REQUIRED_OF_AGENTS = (MANIFEST, *AGENT_TABLES)
"""Of a set with a manifest; its runs, which only check the fit, may be missing."""

KNOWN = (*REQUIRED, MODEL_CONFIG)
KNOWN_OF_AGENTS = (*REQUIRED_OF_AGENTS, RUNS)
_ID = re.compile("[0-9a-f]{24}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementSet:
    """Tables that were read and found sound.

    Attributes
    ----------
    set_id
        Hash of names and bytes of the tables.
    directory
        Where they are, in the layout that ``calibrate fit --measurements`` reads.
    base_models
        Those that it has runs of.
    num_runs
        Measured runs.
    """

    set_id: str
    directory: Path
    base_models: tuple[str, ...]
    num_runs: int


class MeasurementSets:
    """Takes measurement sets and finds them again, on any host of the store."""

    def __init__(self, files: FileExchange) -> None:
        self._files = files
        self._read: dict[str, MeasurementSet] = {}

    def add(self, tables: Mapping[str, bytes]) -> MeasurementSet:
        """Keep a set; the same tables given twice are one set.

        Parameters
        ----------
        tables
            Contents by file name: those of `REQUIRED`, and `MODEL_CONFIG` where shapes are unknown. With a
            `MANIFEST`, those of `REQUIRED_OF_AGENTS`.

        Raises
        ------
        InvalidRequestError
            Naming the table, line and column that is missing or cannot be read.
        """
        _check_names(tables)
        set_id = _set_id(tables)
        with tempfile.TemporaryDirectory(prefix="loadmaster-set-") as name:
            for table, content in tables.items():
                (Path(name) / table).write_bytes(content)
            _check_tables(Path(name))
        return _described(set_id, self._files.publish(f"measurements/{set_id}", tables))

    def add_directory(self, directory: Path) -> tuple[MeasurementSet, tuple[str, ...]]:
        """Keep the tables of a directory; returns the set, and the files that are no part of one."""
        if not directory.is_dir():
            raise InvalidRequestError(f"must be a directory, {directory} is none", field="measurements")
        names = {path.name: path for path in directory.iterdir() if path.is_file()}
        known = _kinds(names)[1]
        tables = {name: path.read_bytes() for name, path in names.items() if name in known}
        return self.add(tables), tuple(sorted(names.keys() - tables.keys()))

    def get(self, set_id: str) -> MeasurementSet:
        """Return a set that was added.

        Raises
        ------
        NotFoundError
            There is none of this id.
        """
        if not _ID.fullmatch(set_id):
            raise NotFoundError("names no measurement set", field="measurement_set")
        if set_id not in self._read:  # an id tells the content
            try:
                directory = self._files.fetch(f"measurements/{set_id}")
            except NotFoundError:
                raise NotFoundError("names no measurement set", field="measurement_set") from None
            self._read[set_id] = _described(set_id, directory)
        return self._read[set_id]

    def ids(self) -> tuple[str, ...]:
        """Return the ids of all sets, sorted."""
        names = (name.rpartition("/")[2] for name in self._files.names("measurements"))
        return tuple(name for name in names if _ID.fullmatch(name))

    def known(self) -> tuple[MeasurementSet, ...]:
        """Return all sets, by id."""
        return tuple(self.get(set_id) for set_id in self.ids())


def _set_id(tables: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tables):
        digest.update(f"{name}\0{len(tables[name])}\0".encode() + tables[name])
    return digest.hexdigest()[:24]


def _kinds(names: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the files that a set must have and may have: with a manifest it is an agent's."""
    return (REQUIRED_OF_AGENTS, KNOWN_OF_AGENTS) if MANIFEST in names else (REQUIRED, KNOWN)


def _check_names(tables: Mapping[str, bytes]) -> None:
    required, known = _kinds(tables)
    for name in required:
        if name not in tables:
            raise InvalidRequestError("is missing", field=f"tables.{name}")
    for name, content in tables.items():
        if name not in known:
            raise InvalidRequestError(
                f"is no table of a set; those are {', '.join(known)}", field=f"tables.{name[:80]}"
            )
        if len(content) > MAX_TABLE_BYTES:
            raise TooLargeError(f"must have at most {MAX_TABLE_BYTES} bytes", field=f"tables.{name}")


def _check_tables(directory: Path) -> None:
    """Read every table as the fits do."""
    try:
        is_agents = read_manifest(directory) is not None
        for name in AGENT_TABLES if is_agents else TABLES:
            if not read_rows(directory, name):
                raise InvalidRequestError("must hold at least one row", field=f"tables.{name}")
        if not is_agents or (directory / RUNS).exists():
            read_runs(directory / RUNS)
        config = directory / MODEL_CONFIG
        if config.exists():
            shape_from_config(orjson.loads(config.read_bytes()))
    except InvalidInputError as error:
        field = re.sub("^(measurements\\.|runs|config)", _in_tables, error.field)
        raise InvalidRequestError(error.message, field=field) from error
    except (csv.Error, ValueError) as error:  # text that is no UTF-8, CSV or JSON
        raise InvalidRequestError(f"cannot be read: {error}", field="tables") from error


def _in_tables(prefix: re.Match[str]) -> str:
    return {"runs": f"tables.{RUNS}", "config": f"tables.{MODEL_CONFIG}"}.get(prefix[0], "tables.")


def _described(set_id: str, directory: Path) -> MeasurementSet:
    runs = read_runs(directory / RUNS) if (directory / RUNS).exists() else ()
    if (manifest := read_manifest(directory)) is not None:
        return MeasurementSet(
            set_id=set_id, directory=directory, base_models=(manifest.base_model,), num_runs=len(runs)
        )
    return MeasurementSet(
        set_id=set_id,
        directory=directory,
        base_models=tuple(sorted({run.model for run in runs})),
        num_runs=len(runs),
    )
