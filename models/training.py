"""Fit the teacher on twin runs: boosted trees, their size chosen by cross-validation over groups.

Like every module here it imports scikit-learn where it calls it, and not before.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from models.features import FEATURE_NAMES, NUM_FEATURES
from models.teacher import Ensemble, Teacher, checked_ensemble
from models.tree import TreeArrays, join, tree_arrays

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.dataset import Dataset
    from twin.domain import Calibration

HELD_OUT_SHARE = 0.15
"""Share of the groups that no model sees, for the figures in the manifest."""

MIN_FRACTION = 0.002
"""Served fractions below are learned as this: logarithms need a floor."""

NUM_FOLDS = 3

CANDIDATES: tuple[Mapping[str, Any], ...] = (
    {"max_iter": 160, "learning_rate": 0.08, "max_leaf_nodes": 24, "min_samples_leaf": 15},
    {"max_iter": 240, "learning_rate": 0.06, "max_leaf_nodes": 31, "min_samples_leaf": 20},
)
"""Sizes of teacher tried for each target, smaller first."""

MORE_STARVES = ("rho", "kv_pressure", "budget_pressure", "seqs_pressure")
LESS_STARVES = ("slots_over_active", "slots_over_stuck", "served_by_formula", "served_by_slots")
"""Features in which the teacher's chance of starvation never falls, and never rises."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """What the twin taught, in the form that models learn.

    Attributes
    ----------
    rows
        (num_rows, NUM_FEATURES) float32.
    physics
        (num_rows, 4) float64: served fraction, itl_ms, ttft_ms, offered_tok_s by formula.
    targets
        By target, (num_rows,) float64: logarithms of the factor on the physics (throughput, ITL,
        TTFT; NaN where nothing was measured), and 0 or 1 (starvation).
    group
        (num_rows,) int64.
    """

    rows: NDArray[np.float32]
    physics: NDArray[np.float64]
    targets: Mapping[str, NDArray[np.float64]]
    group: NDArray[np.int64]

    def part(self, keep: NDArray[np.bool_]) -> Examples:
        """Return the rows where `keep` is true."""
        return Examples(
            rows=self.rows[keep],
            physics=self.physics[keep],
            targets={name: values[keep] for name, values in self.targets.items()},
            group=self.group[keep],
        )


def examples_of(dataset: Dataset, calibration: Calibration) -> Examples:
    """Return features and targets of a data set made with this calibration."""
    rows, physics = dataset.features(calibration)
    served = dataset["throughput_tok_s"] / np.maximum(dataset["offered_tok_s"], 1e-9)
    return Examples(
        rows=rows,
        physics=physics,
        targets={
            "throughput": np.log(np.maximum(served, MIN_FRACTION) / physics[:, 0]),
            "starvation": dataset["starved"],
            "itl": np.log(dataset["itl_ms"] / physics[:, 1]),
            "ttft": np.log(dataset["ttft_ms"] / physics[:, 2]),
        },
        group=dataset["group"].astype(np.int64),
    )


def split(
    examples: Examples, seed: int, num_groups: int | None = None, share: float = HELD_OUT_SHARE
) -> tuple[Examples, Examples]:
    """Return examples to learn from and held-out ones; no group is on both sides.

    Parameters
    ----------
    examples
        All of them.
    seed
        Of the choice.
    num_groups
        Groups below it may be held out: those of the design's first rows, which fill the trained range
        evenly. None lets all.
    share
        Of those groups, held out.
    """
    groups = np.unique(examples.group)
    if num_groups is not None:
        groups = groups[groups < num_groups]
    count = max(1, round(share * len(groups)))
    held_out = np.random.default_rng(seed).permutation(groups)[:count]
    is_held_out = np.isin(examples.group, held_out)
    return examples.part(~is_held_out), examples.part(is_held_out)


def fit_teacher(examples: Examples, seed: int, num_workers: int = 1) -> Teacher:
    """Return the teacher: for each target the candidate with the least error over three folds of groups.

    Targets are shared out over `num_workers` processes; each fit runs in one thread, so that sums are
    formed in one order and the result does not depend on the machine's cores.
    """
    targets = list(examples.targets)
    fit = partial(_fit_target, examples, seed, CANDIDATES)
    if num_workers == 1:
        ensembles = [fit(target) for target in targets]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max_workers=num_workers, mp_context=context) as pool:
            ensembles = list(pool.map(fit, targets))
    return Teacher(**dict(zip(targets, ensembles, strict=True)))


def _fit_target(
    examples: Examples, seed: int, candidates: Sequence[Mapping[str, Any]], target: str
) -> Ensemble:
    from sklearn.model_selection import GroupKFold, cross_val_score  # noqa: PLC0415 (takes seconds)
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    is_class = target == "starvation"
    known = np.isfinite(examples.targets[target])
    part = examples.part(known)
    values = part.targets[target]
    scoring = "neg_log_loss" if is_class else "neg_mean_absolute_error"
    with threadpool_limits(limits=1):
        scores = [
            cross_val_score(
                _model(candidate, seed, is_class=is_class),
                part.rows,
                values,
                groups=part.group,
                cv=GroupKFold(NUM_FOLDS),
                scoring=scoring,
            ).mean()
            for candidate in candidates
        ]
        best = candidates[int(np.argmax(scores))]
        return to_ensemble(_model(best, seed, is_class=is_class).fit(part.rows, values))


def _model(candidate: Mapping[str, Any], seed: int, *, is_class: bool) -> Any:
    from sklearn.ensemble import (  # noqa: PLC0415
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
    )

    options: dict[str, Any] = {**candidate, "early_stopping": False, "l2_regularization": 1.0}
    if is_class:
        directions = [(name in MORE_STARVES) - (name in LESS_STARVES) for name in FEATURE_NAMES]
        return HistGradientBoostingClassifier(**options, monotonic_cst=directions, random_state=seed)
    return HistGradientBoostingRegressor(**options, random_state=seed)


def to_ensemble(model: Any) -> Ensemble:
    """Return a fitted histogram gradient boosting model as flat arrays."""
    trees: list[TreeArrays] = []
    for (predictor,) in model._predictors:  # noqa: SLF001 (no public way to its trees)
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        trees.append(
            tree_arrays(
                nodes["feature_idx"],
                nodes["num_threshold"],
                np.where(leaf, -1, nodes["left"].astype(np.int64)),
                np.where(leaf, -1, nodes["right"].astype(np.int64)),
                nodes["value"],
            )
        )
    joined, roots = join(trees)
    baseline = float(np.ravel(model._baseline_prediction)[0])  # noqa: SLF001
    ensemble = Ensemble(nodes=joined, roots=roots, baseline=baseline)
    return checked_ensemble(ensemble, NUM_FEATURES, "teacher")
