"""From a data set to a published surrogate: split, teach, distil, judge, save."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.active import design_features
from models.artifact import Provenance, read_manifest, save
from models.distillation import MAX_LEAVES, calibrated, editions
from models.errors import ArtefactError, DatasetError
from models.features import calibration_vector
from models.figures import figures, physics_factors, student_factors
from models.live import live_features
from models.report import importance, reliability, training_report
from models.scenarios import GROUP_SIZE
from models.surrogate import Surrogate
from models.training import examples_of, fit_teacher, split
from models.tree import predict
from twin.calibration import calibration_sha256

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.artifact import Manifest
    from models.dataset import Dataset
    from models.teacher import Teacher
    from models.training import Examples
    from twin.domain import Calibration

FRESH_PER_RUN = 3
"""Rows that only the teacher labels, for each twin run: students grow better splits on them."""

ASIDE_SHARE = 0.08
"""Groups that neither teacher nor trees see, to set the starvation probabilities right."""

PRINTED_LEAVES = 32
"""Leaves of the edition that fits on a page, whose rules the training's report prints."""

SIZES = (16, PRINTED_LEAVES, 128)
"""Smaller trees whose errors are printed beside: what readability costs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A surrogate with the teacher it learned from and its figures on held-out groups."""

    surrogate: Surrogate
    teacher: Teacher
    metrics: dict[str, dict[str, float | None]]
    report: str


def train(
    dataset: Dataset,
    calibration: Calibration,
    *,
    seed: int = 0,
    max_leaves: int = MAX_LEAVES,
    num_fresh: int | None = None,
    num_workers: int = 1,
) -> Trained:
    """Return the surrogate that a data set teaches.

    Parameters
    ----------
    dataset, calibration
        Twin runs, and the calibration they were made with.
    seed
        Of the split and the models; same arguments, same surrogate.
    max_leaves
        Leaves of each tree at most.
    num_fresh
        Rows of the design that only the teacher labels; None takes `FRESH_PER_RUN` for each that was run.
    num_workers
        Processes; the result does not depend on it.

    Raises
    ------
    DatasetError
        When the data set was made with another calibration.
    """
    if dataset.origin.calibration_sha256 != calibration_sha256(calibration):
        raise DatasetError(
            f"the data set was made with another {dataset.origin.calibration_id} than this calibration"
        )
    num_groups = dataset.origin.design.num_first // GROUP_SIZE
    known, unseen = held_out(dataset, calibration, seed)
    ranges = np.stack([known.rows.min(axis=0), known.rows.max(axis=0)], axis=1)
    known, aside = split(known, seed + 1, num_groups, ASIDE_SHARE)
    teacher = fit_teacher(known, seed, num_workers)
    num_fresh = FRESH_PER_RUN * dataset.origin.design.num_rows if num_fresh is None else num_fresh
    fresh = fresh_rows(dataset, calibration, num_fresh, num_workers)
    sizes = sorted({max_leaves, *(size for size in SIZES if size < max_leaves)}, reverse=True)
    by_size = editions(teacher, known, fresh, sizes, seed=seed, num_groups=num_groups)
    for edition in by_size.values():
        edition["starvation"], _ = calibrated(edition["starvation"], aside.rows, aside.targets["starvation"])
    trees, printed = by_size[max_leaves], by_size[min(PRINTED_LEAVES, max_leaves)]
    metrics = {
        "tree": figures(unseen, student_factors(trees, unseen.rows)),
        "teacher": figures(unseen, teacher.factors(unseen.rows)),
        "physics": figures(unseen, physics_factors(unseen)),
        **{
            f"tree_of_{leaves}": figures(unseen, student_factors(edition, unseen.rows))
            for leaves, edition in by_size.items()
            if leaves != max_leaves
        },
    }
    surrogate = Surrogate(
        calibration_id=calibration.calibration_id,
        calibration=calibration_vector(calibration),
        ranges=ranges,
        **trees,
    )
    report = training_report(
        f"What the surrogate of {calibration.calibration_id} learned",
        metrics,
        reliability(predict(trees["starvation"], unseen.rows), unseen.targets["starvation"] > 0),
        {target: importance(tree, unseen.rows) for target, tree in trees.items()},
        {target: printed[target] for target in ("throughput", "starvation")},
    )
    return Trained(surrogate=surrogate, teacher=teacher, metrics=metrics, report=report)


def held_out(dataset: Dataset, calibration: Calibration, seed: int) -> tuple[Examples, Examples]:
    """Return a data set's examples to learn from, and those that `train` of this seed keeps unseen.

    Features and physical estimates are those that a surrogate of `calibration` sees, which may be another
    one than the twin runs were made with.
    """
    return split(examples_of(dataset, calibration), seed, dataset.origin.design.num_first // GROUP_SIZE)


def fresh_rows(
    dataset: Dataset, calibration: Calibration, count: int, num_workers: int = 1
) -> NDArray[np.float32]:
    """Return features of scenarios that no twin ran, (num_fresh, NUM_FEATURES) float32.

    `count` are of the data set's design. Live servers of it have `FRESH_PER_RUN` more for each of their rows.
    """
    design = dataset.origin.design
    rows = range(design.next_row, design.next_row + count)
    fresh = design_features(calibration, design.seed, design.max_adapters, rows, num_workers)[0]
    if design.live is None:
        return fresh
    beyond = design.live.rows[-1] + 1 + np.arange(FRESH_PER_RUN * design.live.num_rows)
    return np.concatenate([fresh, live_features(calibration, design.live, design.seed, beyond)])


def publish(trained: Trained, dataset: Dataset, directory: str | Path) -> Manifest:
    """Save a trained surrogate with where it came from."""
    origin = dataset.origin
    provenance = Provenance(
        calibration_sha256=origin.calibration_sha256,
        twin_version=origin.twin_version,
        dataset_sha256=dataset.sha256,
        dataset_rows=dataset.num_rows,
        dataset_seed=origin.design.seed,
        metrics=trained.metrics,
    )
    return save(trained.surrogate, directory, provenance, trained.teacher)


def require_taught_by(dataset: Dataset, directory: str | Path) -> None:
    """Raise unless a published surrogate names this data set as its teacher.

    Raises
    ------
    DatasetError
        Naming both hashes.
    """
    named = read_manifest(directory).dataset_sha256
    if named != dataset.sha256:
        raise DatasetError(
            f"sha256: the data set's is {dataset.sha256}, the surrogate in {directory} learned from {named}"
        )


def require_published(trained: Trained, dataset: Dataset, directory: str | Path) -> Manifest:
    """Return the manifest, having found in a directory just the bytes that `publish` would leave there.

    Raises
    ------
    ArtefactError
        Naming the files that differ, lack or are too many.
    """
    with tempfile.TemporaryDirectory() as made_in:
        manifest = publish(trained, dataset, made_in)
        made, found = _contents(Path(made_in)), _contents(Path(directory))
    names = sorted(name for name in made.keys() | found.keys() if made.get(name) != found.get(name))
    if names:
        raise ArtefactError(f"{directory}: not what this data set teaches: {', '.join(names)}")
    return manifest


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}
