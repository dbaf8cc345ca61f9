"""Artefacts: a surrogate in a directory, as arrays and a manifest, without pickle.

``manifest.json`` names the array files by content (``trees-<hash>.npz``) and is replaced last, so a
reader sees the old surrogate or the new one, never a mixture. The bytes depend on the contents only.
Loading trusts nothing: hashes, member names, dtypes, shapes, index ranges, finite values, and that
the features are those of this code.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.array_files import pack, read_bytes, unpack, write_atomically
from models.errors import ArtefactError, UnknownSurrogateError
from models.features import FEATURES, NUM_FEATURES
from models.kernels.features import NUM_CALIBRATION
from models.surrogate import TARGETS, Surrogate
from models.teacher import Ensemble, Teacher, checked_ensemble
from models.tree import TreeArrays

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SHIPPED = Path(__file__).parent / "shipped"
_TREE_ARRAYS = TreeArrays._fields


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(_Model):
    """An array file: its name in the directory and the hash of its bytes."""

    name: str = Field(pattern=r"^[a-z]+-[0-9a-f]{12}\.npz$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(_Model):
    """What is known of a published surrogate.

    Attributes
    ----------
    surrogate_version
        Hash of the arrays, `Surrogate.version`.
    calibration_id, calibration_sha256, twin_version, dataset_sha256, dataset_rows, dataset_seed
        What the surrogate was trained on.
    features
        Name and unit of each column.
    metrics
        Figures on held-out groups of scenarios, by target or edition.
    trees, teacher
        The array files.
    """

    kind: Literal["loadmaster-surrogate"] = "loadmaster-surrogate"
    schema_version: Literal[1] = SCHEMA_VERSION
    surrogate_version: str
    calibration_id: str
    calibration_sha256: str
    twin_version: str
    dataset_sha256: str
    dataset_rows: int
    dataset_seed: int
    features: tuple[tuple[str, str], ...]
    metrics: dict[str, dict[str, float | None]]
    trees: FileRecord
    teacher: FileRecord | None


class Provenance(_Model):
    """What `save` records beside the arrays; see `Manifest`."""

    calibration_sha256: str
    twin_version: str
    dataset_sha256: str
    dataset_rows: int
    dataset_seed: int
    metrics: dict[str, dict[str, float | None]]


def feature_list() -> tuple[tuple[str, str], ...]:
    """Return name and unit of each feature, as manifests record them."""
    return tuple((feature.name, feature.unit) for feature in FEATURES)


def save(
    surrogate: Surrogate, directory: str | Path, provenance: Provenance, teacher: Teacher | None = None
) -> Manifest:
    """Publish a surrogate, and its teacher where given; a reader sees all of it or nothing.

    Parameters
    ----------
    surrogate, teacher
        What to write.
    directory
        Made where missing; array files of an earlier surrogate in it are removed at the end.
    provenance
        Recorded in the manifest.
    """
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        surrogate_version=surrogate.version,
        calibration_id=surrogate.calibration_id,
        features=feature_list(),
        trees=_publish(target, "trees", _arrays_of(surrogate)),
        teacher=None if teacher is None else _publish(target, "teacher", _arrays_of_teacher(teacher)),
        **provenance.model_dump(),
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n"
    write_atomically(target / MANIFEST, text.encode())
    kept = {record.name for record in (manifest.trees, manifest.teacher) if record is not None}
    for path in target.glob("*-????????????.npz"):
        if path.name not in kept:
            path.unlink(missing_ok=True)
    return manifest


def read_manifest(directory: str | Path) -> Manifest:
    """Read and validate a manifest.

    Raises
    ------
    ArtefactError
        Saying what is wrong with it.
    """
    path = Path(directory) / MANIFEST
    try:
        manifest = Manifest.model_validate_json(read_bytes(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ArtefactError(f"{path.name}: {where}: {first['msg']}") from error
    if manifest.features != feature_list():
        raise ArtefactError(f"{path.name}: features: are not those of this version of the code")
    return manifest


def load(directory: str | Path) -> Surrogate:
    """Load and validate a surrogate.

    Raises
    ------
    ArtefactError
        Saying which file is refused and why.
    """
    manifest = read_manifest(directory)
    try:
        arrays = _load_arrays(Path(directory), manifest.trees)
    except FileNotFoundError:
        # A new surrogate was published between the two reads: its manifest names the new files.
        manifest = read_manifest(directory)
        try:
            arrays = _load_arrays(Path(directory), manifest.trees)
        except FileNotFoundError as error:
            raise ArtefactError(f"{manifest.trees.name}: is missing") from error
    surrogate = _surrogate_of(arrays, manifest)
    if surrogate.version != manifest.surrogate_version:
        raise ArtefactError(f"{manifest.trees.name}: is another surrogate than the manifest names")
    return surrogate


def load_teacher(directory: str | Path) -> Teacher | None:
    """Load and validate the teacher of a surrogate, None where none was published.

    Raises
    ------
    ArtefactError
        Saying which file is refused and why.
    """
    record = read_manifest(directory).teacher
    if record is None:
        return None
    try:
        arrays = _load_arrays(Path(directory), record)
    except FileNotFoundError as error:
        raise ArtefactError(f"{record.name}: is missing") from error
    return Teacher(**{name: _ensemble_of(arrays, name) for name in TARGETS})


def shipped_directory(calibration_id: str) -> Path:
    """Return where the surrogate of a shipped calibration lies, ``shipped/<calibration id>``.

    Raises
    ------
    UnknownSurrogateError
        When none is shipped.
    """
    if calibration_id not in shipped_surrogate_ids():
        known = ", ".join(shipped_surrogate_ids()) or "none"
        raise UnknownSurrogateError(f"no surrogate is shipped for {calibration_id!r} (shipped: {known})")
    return SHIPPED / calibration_id


def shipped_surrogate_ids() -> tuple[str, ...]:
    """Return the ids of the calibrations whose surrogate is shipped, sorted."""
    return tuple(sorted(str(path.parent.relative_to(SHIPPED)) for path in SHIPPED.glob(f"*/*/*/{MANIFEST}")))


def load_shipped(calibration_id: str) -> Surrogate:
    """Load the surrogate that the package ships for a calibration.

    Raises
    ------
    UnknownSurrogateError
        When none is shipped.
    ArtefactError
        When it is damaged.
    """
    return load(shipped_directory(calibration_id))


def _arrays_of(surrogate: Surrogate) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {"calibration": surrogate.calibration, "ranges": surrogate.ranges}
    for target in TARGETS:
        tree = getattr(surrogate, target)
        arrays |= {f"{target}.{name}": getattr(tree, name) for name in _TREE_ARRAYS}
    return arrays


def _arrays_of_teacher(teacher: Teacher) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for target in TARGETS:
        ensemble: Ensemble = getattr(teacher, target)
        arrays |= {f"{target}.{name}": getattr(ensemble.nodes, name) for name in _TREE_ARRAYS}
        arrays[f"{target}.roots"] = ensemble.roots
        arrays[f"{target}.baseline"] = np.array([ensemble.baseline])
    return arrays


def _tree_of(arrays: Mapping[str, NDArray[Any]], target: str) -> TreeArrays:
    return TreeArrays(*(_member(arrays, f"{target}.{name}") for name in _TREE_ARRAYS))


def _ensemble_of(arrays: Mapping[str, NDArray[Any]], target: str) -> Ensemble:
    baseline = _member(arrays, f"{target}.baseline")
    if baseline.shape != (1,) or baseline.dtype != np.float64:
        raise ArtefactError(f"{target}.baseline: must be one float64")
    ensemble = Ensemble(
        nodes=_tree_of(arrays, target), roots=_member(arrays, f"{target}.roots"), baseline=float(baseline[0])
    )
    return checked_ensemble(ensemble, NUM_FEATURES, f"teacher.{target}")


def _surrogate_of(arrays: Mapping[str, NDArray[Any]], manifest: Manifest) -> Surrogate:
    calibration = _member(arrays, "calibration")
    ranges = _member(arrays, "ranges")
    _require_array(calibration, "calibration", np.float64, (NUM_CALIBRATION,))
    _require_array(ranges, "ranges", np.float32, (NUM_FEATURES, 2))
    if (ranges[:, 0] > ranges[:, 1]).any():
        raise ArtefactError("ranges: the least value must not be above the greatest")
    surrogate = Surrogate(
        calibration_id=manifest.calibration_id,
        calibration=calibration,
        ranges=ranges,
        **{target: _tree_of(arrays, target) for target in TARGETS},
    )
    for target in TARGETS:  # numbers by now: the surrogate has checked its trees
        _require_predictions(getattr(surrogate, target).value, target)
    return surrogate


def _require_predictions(values: NDArray[Any], target: str) -> None:
    """Refuse values that are no probabilities, or no factors on a positive estimate."""
    if target == "starvation":
        if (values < 0).any() or (values > 1).any():
            raise ArtefactError(f"{target}.value: must be probabilities, from 0 to 1")
    elif (values <= 0).any():
        raise ArtefactError(f"{target}.value: must be factors above 0")


def _require_array(array: NDArray[Any], name: str, dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise ArtefactError(f"{name}: must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ArtefactError(f"{name}: must be finite")


def _member(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in arrays:
        raise ArtefactError(f"{name}: is missing")
    return arrays[name]


def _publish(directory: Path, kind: str, arrays: Mapping[str, NDArray[Any]]) -> FileRecord:
    content = pack(arrays)
    digest = hashlib.sha256(content).hexdigest()
    record = FileRecord(name=f"{kind}-{digest[:12]}.npz", sha256=digest)
    write_atomically(directory / record.name, content)
    return record


def _load_arrays(directory: Path, record: FileRecord) -> dict[str, NDArray[Any]]:
    path = directory / record.name
    if not path.exists():
        raise FileNotFoundError(path)
    content = read_bytes(path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != record.sha256:
        raise ArtefactError(f"{record.name}: sha256 is {digest}, the manifest says {record.sha256}")
    return unpack(content, record.name)
