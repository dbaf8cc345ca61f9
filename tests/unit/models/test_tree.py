import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.distillation import in_preorder
from models.errors import ArtefactError
from models.kernels import tree as kernel
from models.tree import checked, depth, join, predict, round_down_to_float32, tree_arrays
from tests.support.tree_cases import random_parallel_arrays, random_tree, rows_on_thresholds
from tests.support.tree_oracle import leaf_of
from tests.support.twin_cases import HAS_JIT

seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(seeds, st.integers(1, 40), st.integers(1, 40))
def test_every_row_ends_in_the_leaf_of_the_float64_walk(seed, num_leaves, num_rows):
    rng = np.random.default_rng(seed)
    parallel = random_parallel_arrays(rng, num_leaves, 5)
    tree = checked(tree_arrays(*parallel), 5)
    rows = rows_on_thresholds(rng, parallel[1], num_rows, 5)
    expected = [leaf_of(*parallel[:4], row) for row in rows]
    out = np.empty(num_rows, dtype=np.int32)
    kernel.find_leaves(tree.feature, tree.threshold, tree.children, 0, depth(tree), rows, out)
    assert out.tolist() == expected
    one_by_one = [kernel.find_leaf(tree.feature, tree.threshold, tree.children, 0, row) for row in rows]
    assert one_by_one == expected


def test_no_leaf_differs_from_scikit_learn_on_a_million_rows_at_and_beside_thresholds():
    sklearn_tree = pytest.importorskip("sklearn.tree", reason="scikit-learn is of the train extra")
    rng = np.random.default_rng(7)
    num_points, num_leaves, num_rows = (4000, 512, 1_000_000) if HAS_JIT else (400, 64, 4000)
    points = rng.normal(size=(num_points, 6)).astype(np.float32)
    points *= np.float32(10.0) ** rng.integers(-2, 3, size=6)
    model = sklearn_tree.DecisionTreeRegressor(max_leaf_nodes=num_leaves, random_state=0)
    model.fit(points, np.sin(points.sum(axis=1)))
    fitted = model.tree_
    tree = tree_arrays(
        fitted.feature, fitted.threshold, fitted.children_left, fitted.children_right, fitted.value[:, 0, 0]
    )
    rows = rows_on_thresholds(rng, fitted.threshold, num_rows, 6)
    renumbered = checked(in_preorder(tree), 6)
    np.testing.assert_array_equal(predict(renumbered, rows), model.predict(rows))
    out = np.empty(len(rows), dtype=np.int32)
    kernel.find_leaves(tree.feature, tree.threshold, tree.children, 0, depth(tree), rows, out)
    np.testing.assert_array_equal(out, model.apply(rows))


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20))
def test_thresholds_are_rounded_to_the_largest_float32_at_or_below(values):
    rounded = round_down_to_float32(values)
    exact = np.array(values)
    assert (rounded.astype(np.float64) <= exact).all()
    assert (np.nextafter(rounded, np.float32(np.inf)).astype(np.float64) > exact).all()


@settings(deadline=None)
@given(st.lists(seeds, min_size=1, max_size=5), seeds)
def test_the_sum_of_joined_trees_is_the_sum_of_their_predictions(tree_seeds, row_seed):
    trees = [random_tree(seed, num_leaves=6, num_features=4) for seed in tree_seeds]
    rng = np.random.default_rng(row_seed)
    row = rng.normal(size=4).astype(np.float32)
    nodes, roots = join(trees)
    total = kernel.sum_trees(nodes.feature, nodes.threshold, nodes.children, nodes.value, roots, row)
    assert total == pytest.approx(sum(predict(tree, row[None, :])[0] for tree in trees), abs=1e-12)


def test_a_tree_of_one_leaf_predicts_its_value():
    tree = checked(tree_arrays([-2], [-2.0], [-1], [-1], [3.5]), 1)
    assert predict(tree, np.zeros((9, 1), dtype=np.float32)).tolist() == [3.5] * 9
    assert depth(tree) == 0


def test_renumbering_in_preorder_changes_no_prediction():
    # Right child before left, as best-first growth may number them.
    tree = tree_arrays(
        [0, 1, -2, -2, -2], [0.0, 0.0, 0, 0, 0], [2, 3, -1, -1, -1], [1, 4, -1, -1, -1], range(5)
    )
    rows = np.array([[-1, 0], [1, -1], [1, 1]], dtype=np.float32)
    assert predict(in_preorder(tree), rows).tolist() == predict(tree, rows).tolist() == [2.0, 3.0, 4.0]
    checked(in_preorder(tree), 2)


def broken(field, place, value):
    """Return a valid tree with one number replaced."""
    tree = random_tree(3, num_leaves=5, num_features=4)
    array = getattr(tree, field).copy()
    array[place] = value
    return tree._replace(**{field: array})


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        (broken("children", (0, 1), 9999), "children"),
        (broken("children", (0, 1), -1), "children"),
        (broken("children", (1, 0), 0), "children"),
        (broken("feature", 0, 4), "feature"),
        (broken("feature", 0, -1), "feature"),
        (broken("threshold", 0, np.nan), "threshold"),
        (broken("threshold", -1, 0.0), "threshold"),
        (broken("value", 2, np.inf), "value"),
        (random_tree(3)._replace(value=np.zeros(3)), "value: must have shape"),
        (random_tree(3)._replace(feature=np.zeros(15, dtype=np.int64)), "feature: must be int32"),
    ],
)
def test_a_tree_that_a_kernel_could_leave_is_refused(tree, reason):
    with pytest.raises(ArtefactError, match=reason):
        checked(tree, 4)


def test_a_node_with_two_parents_is_refused():
    tree = tree_arrays([0, 1, -2, -2], [0.0, 0.0, 0, 0], [1, 2, -1, -1], [3, 3, -1, -1], range(4))
    with pytest.raises(ArtefactError, match="one parent"):
        checked(tree, 2)


def test_a_cycle_is_refused():
    tree = random_tree(3, num_leaves=4, num_features=2)
    children = tree.children.copy()
    inner = np.flatnonzero(~tree.is_leaf)[-1]
    children[inner] = [0, inner + 1]
    with pytest.raises(ArtefactError, match="come after"):
        checked(tree._replace(children=children), 2)
