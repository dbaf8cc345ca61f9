"""The teacher: sums of many small trees, too slow to serve, from which the one-tree students learn.

Stored beside the students as flat arrays, so that evaluating it needs neither scikit-learn nor a
pickle; the service never loads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from models.errors import ArtefactError
from models.kernels.tree import sum_trees
from models.tree import TreeArrays, checked, require_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ensemble:
    """An additive ensemble: a constant and one term from each tree.

    Attributes
    ----------
    nodes
        All trees' nodes, tree after tree.
    roots
        (num_trees,) int32, first node of each tree.
    baseline
        The constant.
    """

    nodes: TreeArrays
    roots: NDArray[np.int32]
    baseline: float

    def sums(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the ensemble's sum for every row, (num_rows,)."""
        matrix = np.ascontiguousarray(rows, dtype=np.float32)
        n = self.nodes
        terms = [
            sum_trees(n.feature, n.threshold, n.children, n.value, self.roots, matrix[i])
            for i in range(len(matrix))
        ]
        return np.array(terms, dtype=np.float64) + self.baseline


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Teacher:
    """One ensemble for each target; sums are logarithms of factors, or log odds.

    Attributes
    ----------
    throughput, itl, ttft
        Logarithm of the factor on the physical estimate.
    starvation
        Log odds of starvation.
    """

    throughput: Ensemble
    starvation: Ensemble
    itl: Ensemble
    ttft: Ensemble

    def factors(self, rows: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        """Return, for each target, what a student's leaf would hold: factors, and probabilities."""
        odds = self.starvation.sums(rows)
        return {
            "throughput": np.exp(self.throughput.sums(rows)),
            "starvation": 1.0 / (1.0 + np.exp(-odds)),
            "itl": np.exp(self.itl.sums(rows)),
            "ttft": np.exp(self.ttft.sums(rows)),
        }


def checked_ensemble(ensemble: Ensemble, num_features: int, name: str) -> Ensemble:
    """Return the ensemble, having checked every tree of it.

    Raises
    ------
    ArtefactError
        Naming the array and the rule that it breaks.
    """
    require_arrays(ensemble.nodes, name)
    roots, num_nodes = ensemble.roots, ensemble.nodes.num_nodes
    if roots.ndim != 1 or len(roots) == 0 or roots.dtype != np.int32:
        raise ArtefactError(f"{name}.roots: must be int32 of shape (num_trees,)")
    bounds = np.append(roots.astype(np.int64), num_nodes)
    if roots[0] != 0 or (np.diff(bounds) <= 0).any():
        raise ArtefactError(f"{name}.roots: must rise from 0 within the nodes")
    if not np.isfinite(ensemble.baseline):
        raise ArtefactError(f"{name}.baseline: must be finite")
    nodes = ensemble.nodes
    for number, (first, last) in enumerate(pairwise(bounds)):
        tree = TreeArrays(
            feature=nodes.feature[first:last],
            threshold=nodes.threshold[first:last],
            children=nodes.children[first:last] - np.int32(first),
            value=nodes.value[first:last],
        )
        checked(tree, num_features, f"{name}[{number}]")
    return ensemble
