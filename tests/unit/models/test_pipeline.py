"""From a data set to a published surrogate and back: the same bytes, and a check that says when not."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is of the train extra")

from models import training
from models.dataset import Dataset, Design
from models.errors import ArtefactError, DatasetError
from models.generation import generate
from models.pipeline import publish, require_published, require_taught_by, train
from tests.support.feature_cases import a_calibration
from tests.support.twin_cases import HAS_JIT
from twin.domain import StepLaw

SLOW_STEP = StepLaw(**(dict.fromkeys(StepLaw.__slots__, 0.0) | {"base_ms": 4000.0}))
CALIBRATION = a_calibration(step=SLOW_STEP)
SMALL = ({"max_iter": 5, "max_leaf_nodes": 4, "min_samples_leaf": 2},)

pytestmark = pytest.mark.skipif(not HAS_JIT, reason="hundreds of features take long without the compiler")


@pytest.fixture(scope="module")
def taught():
    dataset = generate(CALIBRATION, Design(num_rows=120, seed=5, max_adapters=4), num_workers=1)
    return dataset, learned(dataset)


def learned(dataset):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CANDIDATES", SMALL)
        return train(dataset, CALIBRATION, max_leaves=20)


def test_a_data_set_teaches_the_same_bytes_again(taught, tmp_path):
    dataset, trained = taught
    manifest = publish(trained, dataset, tmp_path)
    require_taught_by(dataset, tmp_path)
    assert require_published(learned(dataset), dataset, tmp_path) == manifest


@pytest.mark.parametrize("damage", ["changed", "gone", "added"])
def test_what_is_not_as_taught_is_named(taught, tmp_path, damage):
    dataset, trained = taught
    name = publish(trained, dataset, tmp_path).trees.name
    if damage == "changed":
        (tmp_path / name).write_bytes(b"")
    elif damage == "gone":
        (tmp_path / name).unlink()
    else:
        name = "trees-000000000000.npz"
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ArtefactError, match=name):
        require_published(trained, dataset, tmp_path)


def test_a_surrogate_of_other_runs_is_told_by_both_hashes(taught, tmp_path):
    dataset, trained = taught
    publish(trained, dataset, tmp_path)
    other = Dataset(origin=dataset.origin, columns=np.flipud(dataset.columns))
    with pytest.raises(DatasetError, match=dataset.sha256) as refusal:
        require_taught_by(other, tmp_path)
    assert other.sha256 in str(refusal.value)


def test_the_report_holds_the_rules_of_the_printed_edition_and_errors_by_size(taught):
    _, trained = taught
    assert "## Rules of the printed edition" in trained.report
    assert trained.metrics.keys() == {"tree", "teacher", "physics", "tree_of_16"}
    assert "| figure | tree | teacher | physics | tree_of_16 |" in trained.report
