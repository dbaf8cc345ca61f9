"""Which scenarios are worth a twin run: those whose answer runs so far leave open.

A small committee learns from the runs so far and looks at candidates of the same design. A candidate
weighs by how near starvation is to a coin toss, how near the served fraction is to the 0.9 that
starvation is defined by, and how far the committee's members are apart; rows are drawn by weight,
without being put back. Nothing depends on the number of processes or on how far an earlier call came.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from models.features import NUM_FEATURES, aggregate, calibration_vector, features_of
from models.figures import STARVED_FRACTION
from models.scenarios import scenario
from twin.batch import map_tasks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.training import Examples
    from twin.domain import Calibration

NUM_MEMBERS = 3
MEMBER_SHARE = 0.7
"""Groups that each member of the committee learns from."""

MEMBER = {"max_iter": 80, "learning_rate": 0.12, "max_leaf_nodes": 16, "min_samples_leaf": 15}
"""Size of a member: small, it is fitted often."""

ANY_WEIGHT = 0.03
"""Weight that every candidate has, however sure the committee is: it may be wrong."""

NEAR_BORDER = 0.05
"""Width of the border in served fraction, both ways."""

FAR_APART = 0.03
"""Spread of the members' served fractions that weighs as much as a coin toss."""

ROWS_A_TASK = 256


def design_features(
    calibration: Calibration, seed: int, max_adapters: int, rows: range, num_workers: int | None = 1
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return features and physics of scenarios of a design, over processes.

    Parameters
    ----------
    calibration, seed, max_adapters
        See `models.scenarios.scenario`.
    rows
        Of the design.
    num_workers
        Processes; None takes one a core. It changes no result.

    Returns
    -------
    (num_rows, NUM_FEATURES) float32, and (num_rows, 4) float64 as in `models.training.Examples`.
    """
    task = partial(_features_of_rows, calibration, seed, max_adapters)
    tasks = [rows[first : first + ROWS_A_TASK] for first in range(0, len(rows), ROWS_A_TASK)]
    parts = [*map_tasks(task, tasks, num_workers)] or [
        _features_of_rows(calibration, seed, max_adapters, rows)
    ]
    features, physics = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(physics)


def _features_of_rows(
    calibration: Calibration, seed: int, max_adapters: int, rows: range
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    vector = calibration_vector(calibration)
    out = np.empty((len(rows), NUM_FEATURES), dtype=np.float32)
    physics = np.empty((len(rows), 4))
    for place, row in enumerate(rows):
        drawn = scenario(calibration, seed, row, max_adapters=max_adapters)
        flags = drawn.server
        out[place], physics[place] = features_of(
            aggregate(drawn.workload), flags.max_loras, flags.max_lora_rank, vector
        )
    return out, physics


def weights(
    examples: Examples, rows: NDArray[np.float32], physics: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """Return what a twin run of each candidate would be worth, (num_candidates,) float64, above 0.

    Parameters
    ----------
    examples
        Runs so far.
    rows, physics
        Candidates: (num_candidates, NUM_FEATURES) float32, (num_candidates, 4) float64.
    seed
        Of the committee.
    """
    members = _committee(examples, seed)
    with _one_thread():
        served = np.array(
            [np.minimum(physics[:, 0] * np.exp(member.predict(rows)), 1.0) for member, _ in members]
        )
        chance = np.clip(np.mean([judge.predict(rows) for _, judge in members], axis=0), 0.0, 1.0)
    coin = 4.0 * chance * (1.0 - chance)
    border = np.exp(-(((served.mean(axis=0) - STARVED_FRACTION) / NEAR_BORDER) ** 2))
    apart = np.minimum(served.std(axis=0) / FAR_APART, 1.0)
    return ANY_WEIGHT + coin + 0.5 * border + 0.5 * apart


def choose(weight: NDArray[np.float64], count: int, seed: int) -> NDArray[np.int64]:
    """Return the places of `count` candidates drawn by weight without being put back, rising."""
    rng = np.random.default_rng([seed, len(weight), 3])
    keys = np.log(weight) + rng.gumbel(size=len(weight))
    return np.sort(np.argsort(-keys, kind="stable")[:count])


def _committee(examples: Examples, seed: int) -> list[tuple[Any, ...]]:
    from sklearn.ensemble import HistGradientBoostingRegressor  # noqa: PLC0415 (takes seconds)

    rng = np.random.default_rng([seed, 4])
    groups = np.unique(examples.group)
    options: dict[str, Any] = {**MEMBER, "early_stopping": False, "random_state": seed}
    members: list[tuple[Any, ...]] = []
    with _one_thread():
        for _ in range(NUM_MEMBERS):
            kept = rng.permutation(groups)[: max(1, round(MEMBER_SHARE * len(groups)))]
            part = examples.part(np.isin(examples.group, kept))
            members.append(
                tuple(
                    HistGradientBoostingRegressor(**options).fit(part.rows, part.targets[target])
                    for target in ("throughput", "starvation")
                )
            )
    return members


def _one_thread() -> Any:
    """Sums are then formed in one order, whatever the machine."""
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    return threadpool_limits(limits=1)
