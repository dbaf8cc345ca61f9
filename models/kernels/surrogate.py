"""The surrogate as one call for other kernels: aggregates and two flags in, predictions out.

`SurrogateArrays` carries the calibration and all trees, so a new surrogate is new arguments to the
same compiled code: nothing is compiled again when an artefact is swapped.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from models.kernels.features import fill_features
from models.kernels.tree import predict_one

THROUGHPUT, STARVATION, ITL, TTFT = range(4)
"""Places of the targets in `SurrogateArrays.roots`."""


class SurrogateArrays(NamedTuple):
    """What the kernels below read.

    Attributes
    ----------
    calibration
        (NUM_CALIBRATION,) float64, see `models.features.calibration_vector`.
    feature, threshold, children, value
        (num_nodes,) int32, float32, (num_nodes, 2) int32, float64: all trees' nodes.
    roots
        (4,) int32: throughput, starvation, ITL, TTFT.
    """

    calibration: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    children: np.ndarray
    value: np.ndarray
    roots: np.ndarray


STARVED_BELOW = 0.9
"""Served fraction below which a server is starved."""

STARVED_AT_MOST = 0.899
"""Served fraction of a server that starves likelier than not, at most."""


@njit(cache=True, nogil=True)
def agreed(served_fraction, starvation_probability):
    """Return the served fraction, on the side of 0.9 that the starvation tree, the better judge, says."""
    if starvation_probability > 0.5:
        return min(served_fraction, STARVED_AT_MOST)
    return min(max(served_fraction, STARVED_BELOW), 1.0)


@njit(cache=True, nogil=True)
def evaluate(arrays, aggregates, max_loras, max_lora_rank, scratch):
    """Return what a packer asks of one GPU.

    Parameters
    ----------
    arrays
        `SurrogateArrays` of the surrogate (`Surrogate.kernel_args()`).
    aggregates
        (NUM_AGGREGATES,) float64 of at least one adapter.
    max_loras, max_lora_rank
        Flags of the server. Memory is not checked here: see `twin.kernels.memory`.
    scratch
        (NUM_FEATURES,) float32; holds the features afterwards.

    Returns
    -------
    served_fraction, starvation_probability
        Throughput over offered tokens, and the chance that it is below 0.9; both in [0, 1].
    """
    # Unpacked once: reading a field of the tuple costs as much as a tree.
    calibration, feature, threshold, children, value, roots = arrays
    served_fraction, _, _, _ = fill_features(aggregates, max_loras, max_lora_rank, calibration, scratch)
    relative = predict_one(feature, threshold, children, value, roots[THROUGHPUT], scratch)
    starvation = predict_one(feature, threshold, children, value, roots[STARVATION], scratch)
    return agreed(served_fraction * relative, starvation), starvation


@njit(cache=True, nogil=True)
def evaluate_all(arrays, aggregates, max_loras, max_lora_rank, scratch):
    """Return every prediction for one GPU; parameters as in `evaluate`.

    Returns
    -------
    served_fraction, starvation_probability, itl_ms, ttft_ms, offered_tok_s
        Latencies are means over completed requests.
    """
    calibration, feature, threshold, children, value, roots = arrays
    served_fraction, itl_ms, ttft_ms, offered_tok_s = fill_features(
        aggregates, max_loras, max_lora_rank, calibration, scratch
    )
    relative = predict_one(feature, threshold, children, value, roots[THROUGHPUT], scratch)
    starvation = predict_one(feature, threshold, children, value, roots[STARVATION], scratch)
    itl = predict_one(feature, threshold, children, value, roots[ITL], scratch)
    ttft = predict_one(feature, threshold, children, value, roots[TTFT], scratch)
    served = agreed(served_fraction * relative, starvation)
    return served, starvation, itl_ms * itl, ttft_ms * ttft, offered_tok_s
