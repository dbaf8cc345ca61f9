"""Teaching and distilling on a synthetic law, with numbers small enough for seconds."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is of the train extra")

from sklearn.ensemble import HistGradientBoostingClassifier

from models import training
from models.dataset import COLUMNS, Dataset, DatasetOrigin, Design
from models.distillation import PRIOR_ROWS, calibrated, distil, editions
from models.errors import DatasetError
from models.features import FEATURE_NAMES, NUM_FEATURES
from models.figures import area_under_curve, figures, physics_factors, student_factors
from models.kernels.tree import find_leaf
from models.pipeline import train
from models.surrogate import TARGETS
from models.training import Examples, fit_teacher, split, to_ensemble
from models.tree import predict, tree_arrays
from tests.support.feature_cases import a_calibration

RHO = FEATURE_NAMES.index("rho")


def synthetic(num_rows, seed):
    """Return examples whose truth is known: a step in rho, and starvation above 1."""
    rng = np.random.default_rng(seed)
    rows = rng.uniform(0.0, 2.0, size=(num_rows, NUM_FEATURES)).astype(np.float32)
    above = rows[:, RHO] > 1.0
    physics = np.tile([0.95, 20.0, 50.0, 1000.0], (num_rows, 1))
    return Examples(
        rows=rows,
        physics=physics,
        targets={
            "throughput": np.where(above, np.log(0.5), 0.0),
            "starvation": above.astype(float),
            "itl": np.where(above, np.log(2.0), 0.0),
            "ttft": np.where(rng.uniform(size=num_rows) < 0.1, np.nan, np.where(above, np.log(4.0), 0.0)),
        },
        group=np.arange(num_rows) // 4,
    )


@pytest.fixture(scope="module")
def taught():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CANDIDATES", ({"max_iter": 20, "learning_rate": 0.3, "max_leaf_nodes": 4},))
        known = synthetic(400, 1)
        return known, fit_teacher(known, seed=0)


def test_no_group_is_on_both_sides_of_the_split():
    known, held_out = split(synthetic(400, 1), seed=3)
    assert not set(known.group) & set(held_out.group)
    assert len(known.rows) + len(held_out.rows) == 400
    assert len(set(held_out.group)) == pytest.approx(0.15 * 100, abs=1)


def test_the_split_depends_on_its_seed_alone():
    one, two = (split(synthetic(400, 1), seed=3)[1].group for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert set(split(synthetic(400, 1), seed=4)[1].group) != set(one)


def test_the_teacher_learns_a_step(taught):
    _, teacher = taught
    fresh = synthetic(200, 2)
    report = figures(fresh, teacher.factors(fresh.rows))
    assert report["throughput_smape_half_pct"] < 2
    assert report["starvation_f1"] > 0.97
    assert report["itl_smape_half_pct"] < 2


def test_flat_arrays_predict_as_scikit_learn_does():
    known = synthetic(300, 1)
    model = HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=8, early_stopping=False)
    model.fit(known.rows, known.targets["starvation"])
    ours = to_ensemble(model).sums(known.rows)
    np.testing.assert_allclose(ours, model.decision_function(known.rows), rtol=1e-9, atol=1e-12)


def test_one_tree_for_each_target_keeps_within_its_leaves(taught):
    known, teacher = taught
    for most in (2, 8):
        trees = distil(teacher, known, synthetic(200, 3).rows, max_leaves=most)
        assert tuple(trees) == TARGETS
        assert all(tree.num_leaves <= most for tree in trees.values())


def test_the_student_learns_what_the_teacher_knows(taught):
    known, teacher = taught
    trees = distil(teacher, known, synthetic(400, 3).rows, max_leaves=16)
    fresh = synthetic(200, 4)
    student = figures(fresh, student_factors(trees, fresh.rows))
    formula = figures(fresh, physics_factors(fresh))
    assert student["throughput_smape_half_pct"] < 2 < formula["throughput_smape_half_pct"]
    assert student["ttft_smape_half_pct"] < 5
    assert student["starvation_auc"] > 0.99


def test_a_smaller_edition_is_the_tree_that_growth_would_have_stopped_at(taught):
    known, teacher = taught
    fresh = synthetic(400, 3).rows
    by_size = editions(teacher, known, fresh, (16, 5))
    alone = distil(teacher, known, fresh, max_leaves=5)
    for target in TARGETS:
        assert by_size[16][target].num_leaves >= by_size[5][target].num_leaves
        for ours, grown in zip(by_size[5][target], alone[target], strict=True):
            np.testing.assert_array_equal(ours, grown)


def test_a_leafs_starvation_is_the_frequency_drawn_to_the_teachers_opinion(taught):
    known, teacher = taught
    fresh = synthetic(50, 5).rows
    tree = distil(teacher, known, fresh, max_leaves=4)["starvation"]
    leaf = find_leaf(tree.feature, tree.threshold, tree.children, 0, known.rows[0])

    def in_leaf(rows):
        return np.array(
            [find_leaf(tree.feature, tree.threshold, tree.children, 0, row) == leaf for row in rows]
        )

    runs = in_leaf(known.rows)
    everything = np.concatenate([known.rows[runs], fresh[in_leaf(fresh)]])
    opinion = teacher.factors(everything)["starvation"].mean()
    starved = known.targets["starvation"][runs].sum()
    expected = (starved + PRIOR_ROWS * opinion) / (runs.sum() + PRIOR_ROWS)
    assert tree.value[leaf] == pytest.approx(expected)
    assert predict(tree, known.rows).min() > 0
    assert predict(tree, known.rows).max() < 1


def test_the_same_examples_and_seed_give_the_same_teacher_whatever_the_processes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CANDIDATES", ({"max_iter": 5, "max_leaf_nodes": 4},))
        one, two = (fit_teacher(synthetic(200, 1), 0, num_workers) for num_workers in (1, 2))
    for target in TARGETS:
        np.testing.assert_array_equal(getattr(one, target).nodes.value, getattr(two, target).nodes.value)


def test_a_data_set_of_another_calibration_is_refused():
    origin = DatasetOrigin(
        calibration_id="a/b/c", calibration_sha256="0" * 64, twin_version="any", design=Design(num_rows=4)
    )
    foreign = Dataset(origin=origin, columns=np.zeros((4, len(COLUMNS))))
    with pytest.raises(DatasetError, match="another a/b/c"):
        train(foreign, a_calibration())


@pytest.mark.parametrize(
    ("scores", "positive", "area"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1], 0.5),
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
        ([0.1, 0.4], [1, 1], None),
    ],
)
def test_the_area_under_the_curve_is_the_chance_of_the_right_order(scores, positive, area):
    assert area_under_curve(np.array(scores), np.array(positive, dtype=bool)) == area


def test_only_groups_of_the_designs_first_rows_are_held_out():
    known, held_out = split(synthetic(400, 1), seed=3, num_groups=20)
    assert held_out.group.max() < 20
    assert known.group.max() >= 20


def test_the_teacher_never_thinks_a_server_safer_for_more_load_over_capacity(taught):
    _, teacher = taught
    rows = np.repeat(synthetic(20, 6).rows[:, None, :], 30, axis=1)
    rows[:, :, RHO] = np.linspace(0.0, 2.0, 30)
    chance = teacher.factors(rows.reshape(-1, rows.shape[2]))["starvation"].reshape(20, 30)
    assert (np.diff(chance, axis=1) >= 0).all()
    assert np.ptp(chance, axis=1).min() > 0.5


def test_runs_chosen_for_their_doubt_hardly_count_in_how_often_servers_starve(taught):
    known, teacher = taught
    doubtful = replace(
        known, group=known.group + 1000, targets=known.targets | {"starvation": np.ones(len(known.rows))}
    )
    both = Examples(
        rows=np.concatenate([known.rows, doubtful.rows]),
        physics=np.concatenate([known.physics, doubtful.physics]),
        targets={
            name: np.concatenate([known.targets[name], doubtful.targets[name]]) for name in known.targets
        },
        group=np.concatenate([known.group, doubtful.group]),
    )
    no_rows = known.rows[:0]
    mean = {
        groups: predict(
            distil(teacher, both, no_rows, max_leaves=4, num_groups=groups)["starvation"], known.rows
        ).mean()
        for groups in (None, 1000)
    }
    truth = known.targets["starvation"].mean()
    assert mean[None] > truth + 0.2
    assert mean[1000] == pytest.approx(truth, abs=0.05)


def test_probabilities_are_stretched_to_what_unseen_runs_say_and_keep_their_order():
    sure = tree_arrays([0, 0, 0], [0.5, 0, 0], [1, -1, -1], [2, -1, -1], [0.5, 0.01, 0.99])
    rng = np.random.default_rng(0)
    rows = np.zeros((4000, NUM_FEATURES), dtype=np.float32)
    rows[::2, 0] = 1.0
    starved = (rng.uniform(size=4000) < np.where(rows[:, 0] > 0.5, 0.8, 0.2)).astype(float)
    tree, (stretch, _) = calibrated(sure, rows, starved)
    assert 0 < stretch < 1
    assert tree.value[1:] == pytest.approx([0.2, 0.8], abs=0.03)


def test_probabilities_stay_where_unseen_runs_are_all_alike():
    tree = tree_arrays([0], [0.0], [-1], [-1], [0.3])
    rows = np.zeros((5, NUM_FEATURES), dtype=np.float32)
    assert calibrated(tree, rows, np.ones(5)) == (tree, (1.0, 0.0))
