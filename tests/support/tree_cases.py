"""Random trees, rows that sit on their thresholds, and surrogates made of them."""

import numpy as np

from models.features import NUM_FEATURES, calibration_vector
from models.surrogate import Surrogate
from models.tree import TreeArrays, tree_arrays


def random_parallel_arrays(rng, num_leaves, num_features):
    """Return feature, threshold, left, right, value as scikit-learn lays them out, in preorder."""
    feature, threshold, left, right = [], [], [], []

    def grow(leaves):
        node = len(feature)
        feature.append(-2)
        threshold.append(-2.0)
        left.append(-1)
        right.append(-1)
        if leaves > 1:
            share = int(rng.integers(1, leaves))
            feature[node] = int(rng.integers(num_features))
            threshold[node] = float(rng.normal()) * 10.0 ** float(rng.integers(-3, 4))
            left[node] = grow(share)
            right[node] = grow(leaves - share)
        return node

    grow(num_leaves)
    value = rng.normal(size=len(feature))
    return np.array(feature), np.array(threshold), np.array(left), np.array(right), value


def random_tree(seed, num_leaves=8, num_features=NUM_FEATURES) -> TreeArrays:
    return tree_arrays(*random_parallel_arrays(np.random.default_rng(seed), num_leaves, num_features))


def rows_on_thresholds(rng, thresholds, num_rows, num_features):
    """Return float32 rows whose values are thresholds, their float32 neighbours, or far from them."""
    inner = np.asarray(thresholds, dtype=np.float32)
    below = np.nextafter(inner, np.float32(-np.inf))
    above = np.nextafter(inner, np.float32(np.inf))
    far = rng.normal(size=len(inner)).astype(np.float32) * 1e3
    pool = np.concatenate([inner, below, above, far, np.zeros(1, dtype=np.float32)])
    return rng.choice(pool, size=(num_rows, num_features)).astype(np.float32)


def small_surrogate(calibration, seed=0) -> Surrogate:
    """Return a surrogate of random trees whose values are valid predictions."""
    trees = {}
    for number, target in enumerate(("throughput", "starvation", "itl", "ttft")):
        tree = random_tree(seed + number)
        trees[target] = tree._replace(value=1.0 / (1.0 + np.exp(-tree.value)))
    ranges = np.tile(np.array([0.0, 1e6], dtype=np.float32), (NUM_FEATURES, 1))
    return Surrogate(
        calibration_id=calibration.calibration_id,
        calibration=calibration_vector(calibration),
        ranges=ranges,
        **trees,
    )
