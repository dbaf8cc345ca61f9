"""Decision trees as flat arrays that are safe for kernels by construction.

Every index is in range, children come after their parent (so no walk goes round) and leaves point
at themselves; `TreeArrays` built by `tree_arrays` or `checked` keep these rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.errors import ArtefactError
from models.kernels.tree import predict_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

_DTYPES = {
    "feature": np.dtype(np.int32),
    "threshold": np.dtype(np.float32),
    "children": np.dtype(np.int32),
    "value": np.dtype(np.float64),
}


class TreeArrays(NamedTuple):
    """A tree's nodes; node 0 is the root and every child comes after its parent.

    Attributes
    ----------
    feature
        (num_nodes,) int32, column that the node reads; 0 at a leaf.
    threshold
        (num_nodes,) float32, rounded down from the trained one; infinity at a leaf.
    children
        (num_nodes, 2) int32: where rows at or below, and above, the threshold go; itself at a leaf.
    value
        (num_nodes,) float64: the prediction; at inner nodes that of their rows as a whole.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    children: NDArray[np.int32]
    value: NDArray[np.float64]

    @property
    def num_nodes(self) -> int:
        """Inner nodes and leaves."""
        return len(self.feature)

    @property
    def is_leaf(self) -> NDArray[np.bool_]:
        """(num_nodes,) bool."""
        return self.children[:, 0] == np.arange(self.num_nodes)

    @property
    def num_leaves(self) -> int:
        """Leaves, the rules of the tree."""
        return int(self.is_leaf.sum())


def round_down_to_float32(values: ArrayLike) -> NDArray[np.float32]:
    """Return the largest float32 at or below each value."""
    exact = np.asarray(values, dtype=np.float64)
    rounded = exact.astype(np.float32)
    above = rounded.astype(np.float64) > exact
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    return rounded


def tree_arrays(
    feature: ArrayLike, threshold: ArrayLike, left: ArrayLike, right: ArrayLike, value: ArrayLike
) -> TreeArrays:
    """Build a tree from the parallel arrays that scikit-learn's `tree_` holds.

    Parameters
    ----------
    feature, threshold
        (num_nodes,): column and float64 threshold of inner nodes; anything at leaves.
    left, right
        (num_nodes,): children, -1 at leaves.
    value
        (num_nodes,): prediction.
    """
    left_child, right_child = np.asarray(left), np.asarray(right)
    nodes = np.arange(len(left_child))
    leaf = left_child < 0
    children = np.stack([np.where(leaf, nodes, left_child), np.where(leaf, nodes, right_child)], axis=1)
    thresholds = np.full(len(nodes), np.inf, dtype=np.float32)
    thresholds[~leaf] = round_down_to_float32(np.asarray(threshold, dtype=np.float64)[~leaf])
    return TreeArrays(
        feature=np.where(leaf, 0, np.asarray(feature)).astype(np.int32),
        threshold=thresholds,
        children=np.ascontiguousarray(children, dtype=np.int32),
        value=np.asarray(value, dtype=np.float64).copy(),
    )


def _require(condition: object, name: str, message: str) -> None:
    if not condition:
        raise ArtefactError(f"{name}: {message}")


def checked(tree: TreeArrays, num_features: int, name: str = "tree") -> TreeArrays:
    """Return the tree, having made sure that no kernel can leave its arrays.

    Raises
    ------
    ArtefactError
        Naming the array and the rule that it breaks.
    """
    require_arrays(tree, name)
    _check_links(tree, num_features, name)
    _require(np.isfinite(tree.value).all(), f"{name}.value", "must be finite")
    return tree


def require_arrays(nodes: TreeArrays, name: str) -> None:
    """Raise `ArtefactError` unless the arrays of a tree, or of several, have one dtype, shape and order."""
    num_nodes = nodes.feature.size
    _require(num_nodes >= 1, name, "must have at least one node")
    for field, dtype in _DTYPES.items():
        array = getattr(nodes, field)
        shape = (num_nodes, 2) if field == "children" else (num_nodes,)
        _require(array.dtype == dtype, f"{name}.{field}", f"must be {dtype}, got {array.dtype}")
        _require(array.shape == shape, f"{name}.{field}", f"must have shape {shape}, got {array.shape}")
        _require(array.flags.c_contiguous, f"{name}.{field}", "must be C-contiguous")


def _check_links(tree: TreeArrays, num_features: int, name: str) -> None:
    num_nodes = tree.num_nodes
    nodes = np.arange(num_nodes)
    in_range = (tree.feature >= 0) & (tree.feature < num_features)
    _require(in_range.all(), f"{name}.feature", f"must be in 0..{num_features - 1}")
    children = tree.children
    leaf = (children == nodes[:, None]).all(axis=1)
    inner = children[~leaf]
    after = (inner > nodes[~leaf][:, None]) & (inner < num_nodes)
    _require(after.all(), f"{name}.children", "must be the node itself or come after it, within the tree")
    parents = np.bincount(inner.ravel(), minlength=num_nodes)
    _require(
        (parents[1:] == 1).all() and parents[0] == 0, f"{name}.children", "must give each node one parent"
    )
    _require(np.isfinite(tree.threshold[~leaf]).all(), f"{name}.threshold", "must be finite at inner nodes")
    _require((tree.threshold[leaf] == np.inf).all(), f"{name}.threshold", "must be infinite at leaves")


def depth(tree: TreeArrays) -> int:
    """Return the number of edges on the longest way from root to leaf."""
    levels = np.zeros(tree.num_nodes, dtype=np.int64)
    for node in np.flatnonzero(~tree.is_leaf):
        levels[tree.children[node]] = levels[node] + 1
    return int(levels.max())


def predict(tree: TreeArrays, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the tree's prediction for every row, (num_rows,).

    Parameters
    ----------
    rows
        (num_rows, num_features) float32, C order.
    """
    matrix = np.ascontiguousarray(rows, dtype=np.float32)
    out = np.empty(len(matrix))
    leaves = np.empty(len(matrix), dtype=np.int32)
    predict_batch(
        tree.feature, tree.threshold, tree.children, tree.value, 0, depth(tree), matrix, leaves, out
    )
    return out


def join(trees: Sequence[TreeArrays]) -> tuple[TreeArrays, NDArray[np.int32]]:
    """Return the nodes of all trees one after another, and the root of each, (num_trees,) int32."""
    roots = np.cumsum([0, *(tree.num_nodes for tree in trees[:-1])]).astype(np.int32)
    joined = TreeArrays(
        feature=np.concatenate([tree.feature for tree in trees]),
        threshold=np.concatenate([tree.threshold for tree in trees]),
        children=np.concatenate([tree.children + root for tree, root in zip(trees, roots, strict=True)]),
        value=np.concatenate([tree.value for tree in trees]),
    )
    return joined, roots
