"""How good a model is on twin runs that it has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.kernels.surrogate import STARVED_AT_MOST, STARVED_BELOW
from models.tree import TreeArrays, predict
from twin.metrics import f1, smape_half_pct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.training import Examples

STARVED_FRACTION = STARVED_BELOW
LIKELIER = 0.5
"""Probability above which starvation is likelier than not."""


def student_factors(
    trees: Mapping[str, TreeArrays], rows: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Return what each target's tree says of every row."""
    return {target: predict(tree, rows) for target, tree in trees.items()}


def physics_factors(examples: Examples) -> dict[str, NDArray[np.float64]]:
    """Return what the formulas alone would say: factors of one, starved below 0.9."""
    ones = np.ones(len(examples.rows))
    starved = (examples.physics[:, 0] < STARVED_FRACTION).astype(np.float64)
    return {"throughput": ones, "itl": ones, "ttft": ones, "starvation": starved}


def figures(examples: Examples, factors: Mapping[str, NDArray[np.float64]]) -> dict[str, float | None]:
    """Return errors of predicted factors and probabilities against the twin's outcomes.

    Parameters
    ----------
    examples
        Rows with outcomes.
    factors
        By target, (num_rows,): see `models.teacher.Teacher.factors`.
    """
    result: dict[str, float | None] = {"rows": float(len(examples.rows))}
    served = np.exp(examples.targets["throughput"]) * examples.physics[:, 0]
    predicted = np.minimum(examples.physics[:, 0] * factors["throughput"], 1.0)
    likely = factors["starvation"] > LIKELIER
    predicted = np.where(likely, np.minimum(predicted, STARVED_AT_MOST), np.maximum(predicted, STARVED_BELOW))
    result["throughput_smape_half_pct"] = smape_half_pct(predicted, served)
    for target in ("itl", "ttft"):
        actual = np.exp(examples.targets[target])
        result[f"{target}_smape_half_pct"] = smape_half_pct(factors[target], actual)
    starved = examples.targets["starvation"] > 0
    probability = factors["starvation"]
    result["starvation_f1"] = f1(probability > LIKELIER, starved)
    result["starvation_auc"] = area_under_curve(probability, starved)
    result["starvation_brier"] = float(np.mean((probability - starved) ** 2))
    return {name: None if value is None else round(value, 5) for name, value in result.items()}


def area_under_curve(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Return the chance that a positive row scores above a negative one, ties counted half."""
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if num_positive == 0 or num_negative == 0:
        return None
    values, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    assert len(values) == len(counts), "one count for each score"
    mean_rank = np.cumsum(counts) - 0.5 * (counts - 1)
    rank_sum = float(mean_rank[places][positive].sum())
    return (rank_sum - 0.5 * num_positive * (num_positive + 1)) / (num_positive * num_negative)
