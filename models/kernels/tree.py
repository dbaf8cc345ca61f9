"""Decision trees on flat arrays: one row, and many rows eight at a time.

A node sends a row to `children[node, 0]` when the row's feature is at or below the node's threshold
and to `children[node, 1]` when it is above. A leaf's children are itself and its threshold is
infinite, so walking on from a leaf stays there. Thresholds are float32, rounded down: for a float32
row, ``x <= t`` in float64 and ``x <= round_down(t)`` in float32 are the same statement.

Nothing here checks an index: `models.artifact` and `models.tree` do, before arrays get here.
"""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def find_leaf(feature, threshold, children, root, row):
    """Return the node where `row` ends.

    Parameters
    ----------
    feature, threshold
        (num_nodes,) int32 and float32; a leaf has feature 0 and threshold infinity.
    children
        (num_nodes, 2) int32.
    root
        Node to start from.
    row
        (num_features,) float32.
    """
    node = root
    while True:
        following = children[node, 1 if row[feature[node]] > threshold[node] else 0]
        if following == node:
            return node
        node = following


@njit(cache=True, nogil=True)
def find_leaves(feature, threshold, children, root, depth, rows, out):
    """Write the leaf of every row, eight rows at a time so that their memory loads overlap.

    Parameters
    ----------
    feature, threshold, children, root
        As in `find_leaf`.
    depth
        Longest way from root to leaf, edges.
    rows
        (num_rows, num_features) float32, C order.
    out
        (num_rows,) int32, overwritten.
    """
    num_rows = rows.shape[0]
    whole = num_rows - num_rows % 8
    for i in range(0, whole, 8):
        a = b = c = d = e = f = g = h = root
        for level in range(depth):
            # Most rows are at their leaf well before the deepest one is: look now and then.
            if level >= 8 and level % 3 == 2:
                at_leaf = threshold[a] == np.inf and threshold[b] == np.inf and threshold[c] == np.inf
                at_leaf = at_leaf and threshold[d] == np.inf and threshold[e] == np.inf
                at_leaf = at_leaf and threshold[f] == np.inf and threshold[g] == np.inf
                if at_leaf and threshold[h] == np.inf:
                    break
            a = children[a, 1 if rows[i, feature[a]] > threshold[a] else 0]
            b = children[b, 1 if rows[i + 1, feature[b]] > threshold[b] else 0]
            c = children[c, 1 if rows[i + 2, feature[c]] > threshold[c] else 0]
            d = children[d, 1 if rows[i + 3, feature[d]] > threshold[d] else 0]
            e = children[e, 1 if rows[i + 4, feature[e]] > threshold[e] else 0]
            f = children[f, 1 if rows[i + 5, feature[f]] > threshold[f] else 0]
            g = children[g, 1 if rows[i + 6, feature[g]] > threshold[g] else 0]
            h = children[h, 1 if rows[i + 7, feature[h]] > threshold[h] else 0]
        out[i] = a
        out[i + 1] = b
        out[i + 2] = c
        out[i + 3] = d
        out[i + 4] = e
        out[i + 5] = f
        out[i + 6] = g
        out[i + 7] = h
    for i in range(whole, num_rows):
        out[i] = find_leaf(feature, threshold, children, root, rows[i])


@njit(cache=True, nogil=True)
def predict_one(feature, threshold, children, value, root, row):
    """Return the value of the leaf where `row` ends; `value` is (num_nodes,) float64."""
    return value[find_leaf(feature, threshold, children, root, row)]


@njit(cache=True, nogil=True)
def predict_batch(feature, threshold, children, value, root, depth, rows, leaves, out):
    """Write the value of every row's leaf to `out` (num_rows,) float64; `leaves` is int32 scratch."""
    find_leaves(feature, threshold, children, root, depth, rows, leaves)
    for i in range(rows.shape[0]):
        out[i] = value[leaves[i]]


@njit(cache=True, nogil=True)
def sum_trees(feature, threshold, children, value, roots, row):
    """Return the sum over trees of the value of the leaf where `row` ends.

    Parameters
    ----------
    feature, threshold, children, value
        The nodes of all trees, one after another.
    roots
        (num_trees,) int32, the root node of each tree.
    row
        (num_features,) float32.
    """
    total = 0.0
    for k in range(roots.shape[0]):
        total += value[find_leaf(feature, threshold, children, roots[k], row)]
    return total
