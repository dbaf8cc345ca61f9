"""Distil a teacher into one small tree for each target.

A student sees the twin's rows and fresh rows that only the teacher labelled. Trees are grown on
scales where errors count alike: logarithms for factors, log odds for probabilities (so that 0.01 and
0.05 are told apart). Leaves then take their value from the rows that fall into them.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

import numpy as np

from models.features import NUM_FEATURES
from models.kernels.tree import find_leaves
from models.tree import TreeArrays, checked, depth, predict, tree_arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.teacher import Teacher
    from models.training import Examples

MAX_LEAVES = 512
MIN_SAMPLES_LEAF = 6
SURE_LOG_ODDS = 5.0
"""Log odds beyond are as sure as these: no leaves are spent on 0.001 against 0.0001."""

NEWTON_STEPS = 30
RIDGE = 1.0
"""Runs' worth of doubt about any stretch but 1 and any shift but 0."""

LEAST_STRETCH = 0.2
CHOSEN_WEIGHT = 0.05
"""What a run that was chosen for its doubt counts in a leaf's frequency."""

PRIOR_ROWS = 4.0
"""A leaf's starvation frequency counts the teacher's opinion as this many twin runs."""


def distil(
    teacher: Teacher,
    examples: Examples,
    fresh_rows: NDArray[np.float32],
    *,
    max_leaves: int = MAX_LEAVES,
    seed: int = 0,
    num_groups: int | None = None,
) -> dict[str, TreeArrays]:
    """Return one tree for each target, of at most `max_leaves` leaves.

    Parameters
    ----------
    teacher
        Labels `fresh_rows`.
    examples
        Twin runs with their outcomes.
    fresh_rows
        (num_fresh, NUM_FEATURES) float32, rows of the same design that no twin ran.
    max_leaves, seed
        Size of each tree, and the seed of ties between equal splits.
    num_groups
        Groups of examples below it fill the trained range evenly; the others were chosen where the answer
        is in doubt, and hardly count in how often a leaf's servers starve. None: all fill it evenly.
    """
    return editions(teacher, examples, fresh_rows, (max_leaves,), seed=seed, num_groups=num_groups)[
        max_leaves
    ]


def editions(
    teacher: Teacher,
    examples: Examples,
    fresh_rows: NDArray[np.float32],
    sizes: Sequence[int],
    *,
    seed: int = 0,
    num_groups: int | None = None,
) -> dict[int, dict[str, TreeArrays]]:
    """Return `distil`'s trees for several sizes, by most leaves; smaller ones are the first splits of larger.

    Parameters
    ----------
    sizes
        Leaves of each tree at most.
    teacher, examples, fresh_rows, seed, num_groups
        As in `distil`.
    """
    taught = teacher.factors(examples.rows)
    fresh = teacher.factors(fresh_rows)
    students: dict[int, dict[str, TreeArrays]] = {size: {} for size in sizes}
    for target, values in examples.targets.items():
        known = np.isfinite(values)
        rows = np.concatenate([examples.rows[known], fresh_rows])
        opinions = np.concatenate([taught[target][known], fresh[target]])
        if target == "starvation":
            odds = np.clip(_log_odds(opinions), -SURE_LOG_ODDS, SURE_LOG_ODDS)
            chosen = np.zeros(len(values)) if num_groups is None else examples.group >= num_groups
            counts = np.where(chosen[known] > 0, CHOSEN_WEIGHT, 1.0)
            for size, tree in _grow(rows, odds, sizes, seed).items():
                students[size][target] = _with_frequencies(tree, rows, values[known], opinions, counts)
        else:
            logs = np.concatenate(
                [0.5 * (values[known] + np.log(taught[target][known])), np.log(fresh[target])]
            )
            for size, tree in _grow(rows, logs, sizes, seed).items():
                students[size][target] = tree._replace(value=np.exp(tree.value))
    return students


def calibrated(
    tree: TreeArrays, rows: NDArray[np.float32], starved: NDArray[np.float64]
) -> tuple[TreeArrays, tuple[float, float]]:
    """Return a starvation tree whose probabilities hold on runs that it did not grow on.

    A leaf is surer of the runs that shaped it than of others. Its log odds are stretched and shifted to
    what the others say (Platt's scaling): two numbers, and the order of leaves stays.

    Parameters
    ----------
    tree
        With probabilities.
    rows, starved
        (num_rows, NUM_FEATURES) float32 and (num_rows,) 0 or 1: runs that no leaf has seen.

    Returns
    -------
    The tree; stretch and shift.
    """
    if len(np.unique(starved)) == 1:
        return tree, (1.0, 0.0)
    stretch, shift = _platt(_log_odds(predict(tree, rows)), starved)
    stretch = min(max(stretch, LEAST_STRETCH), 1.0 / LEAST_STRETCH)
    value = 1.0 / (1.0 + np.exp(-(stretch * _log_odds(tree.value) + shift)))
    return tree._replace(value=value), (stretch, shift)


def _platt(odds: NDArray[np.float64], starved: NDArray[np.float64]) -> tuple[float, float]:
    """Return the stretch and shift of log odds under which the runs are likeliest: Newton's method."""

    def unlikeliness(stretch: float, shift: float) -> float:
        moved = stretch * odds + shift
        doubt = 0.5 * RIDGE * ((stretch - 1.0) ** 2 + shift**2)
        return float(np.sum(np.logaddexp(0.0, moved) - starved * moved) + doubt)

    stretch, shift = 1.0, 0.0
    for _ in range(NEWTON_STEPS):
        chance = 1.0 / (1.0 + np.exp(-(stretch * odds + shift)))
        slope = chance * (1.0 - chance) + 1e-6
        gradient = np.array([np.dot(chance - starved, odds), np.sum(chance - starved)])
        gradient += RIDGE * np.array([stretch - 1.0, shift])
        mixed = np.dot(slope, odds)
        curvature = np.array([[np.dot(slope, odds**2), mixed], [mixed, slope.sum()]]) + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        now = unlikeliness(stretch, shift)
        while unlikeliness(stretch - step[0], shift - step[1]) > now + 1e-9 * abs(now):
            step *= 0.5
        stretch, shift = float(stretch - step[0]), float(shift - step[1])
    return stretch, shift


def _log_odds(chance: NDArray[np.float64]) -> NDArray[np.float64]:
    bounded = np.clip(chance, 1e-6, 1.0 - 1e-6)
    return np.log(bounded / (1.0 - bounded))


def _grow(
    rows: NDArray[np.float32], values: NDArray[np.float64], sizes: Sequence[int], seed: int
) -> dict[int, TreeArrays]:
    """Return trees by size; growth takes the split that gains most, so small ones are the first splits."""
    from sklearn.tree import DecisionTreeRegressor  # noqa: PLC0415 (takes seconds to import)

    model = DecisionTreeRegressor(
        max_leaf_nodes=max(sizes), min_samples_leaf=MIN_SAMPLES_LEAF, random_state=seed
    ).fit(rows, values)
    fitted = model.tree_
    tree = tree_arrays(
        fitted.feature,
        fitted.threshold,
        fitted.children_left,
        fitted.children_right,
        fitted.value[:, 0, 0],
    )
    spread = fitted.impurity * fitted.weighted_n_node_samples
    return {size: checked(in_preorder(first_splits(tree, spread, size)), NUM_FEATURES) for size in sizes}


def first_splits(tree: TreeArrays, spread: NDArray[np.float64], max_leaves: int) -> TreeArrays:
    """Return a tree cut back to the `max_leaves` leaves that best-first growth had at that size.

    Parameters
    ----------
    tree
        With a value at every node.
    spread
        (num_nodes,) float64: a node's impurity times its rows; what a split takes away of it is its gain.
    max_leaves
        Leaves of the result at most.
    """
    leaf = tree.is_leaf
    kept = np.zeros(tree.num_nodes, dtype=bool)
    gain = spread - spread[tree.children].sum(axis=1)
    waiting = [] if leaf[0] else [(-gain[0], 0)]
    for _ in range(max_leaves - 1):
        if not waiting:
            break
        _, node = heappop(waiting)
        kept[node] = True
        for child in tree.children[node].tolist():
            if not leaf[child]:
                heappush(waiting, (-gain[child], child))
    itself = np.arange(tree.num_nodes, dtype=np.int32)[:, None]
    return tree._replace(
        feature=np.where(kept, tree.feature, np.int32(0)),
        threshold=np.where(kept, tree.threshold, np.float32(np.inf)),
        children=np.where(kept[:, None], tree.children, itself),
    )


def in_preorder(tree: TreeArrays) -> TreeArrays:
    """Return the same tree, its nodes in an order in which children come after their parent; no others."""
    order: list[int] = []
    stack = [0]
    while stack:
        node = stack.pop()
        order.append(node)
        left, right = (int(child) for child in tree.children[node])
        if left != node:
            stack += [right, left]
    place = np.empty(tree.num_nodes, dtype=np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return TreeArrays(
        feature=tree.feature[order],
        threshold=tree.threshold[order],
        children=np.ascontiguousarray(place[tree.children[order]]),
        value=tree.value[order],
    )


def _with_frequencies(
    tree: TreeArrays,
    rows: NDArray[np.float32],
    starved: NDArray[np.float64],
    opinions: NDArray[np.float64],
    counts: NDArray[np.float64],
) -> TreeArrays:
    """Return the tree whose leaves hold starvation frequencies, drawn to the teacher's opinion.

    `counts` tells how much each twin run, the first of `rows`, counts; the other rows count once.
    """
    leaves = np.empty(len(rows), dtype=np.int32)
    find_leaves(
        tree.feature, tree.threshold, tree.children, 0, depth(tree), np.ascontiguousarray(rows), leaves
    )
    num_nodes, num_run = tree.num_nodes, len(starved)
    all_counts = np.concatenate([counts, np.ones(len(rows) - num_run)])
    opinion = np.bincount(leaves, weights=all_counts * opinions, minlength=num_nodes)
    opinion /= np.maximum(np.bincount(leaves, weights=all_counts, minlength=num_nodes), CHOSEN_WEIGHT)
    runs = np.bincount(leaves[:num_run], weights=counts, minlength=num_nodes)
    starved_runs = np.bincount(leaves[:num_run], weights=counts * starved, minlength=num_nodes)
    frequency = (starved_runs + PRIOR_ROWS * opinion) / (runs + PRIOR_ROWS)
    return tree._replace(value=np.where(tree.is_leaf, frequency, 1.0 / (1.0 + np.exp(-tree.value))))
