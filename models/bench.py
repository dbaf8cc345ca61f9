"""How fast the surrogate answers on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from models.artifact import load_shipped, shipped_surrogate_ids
from models.features import NUM_AGGREGATES, NUM_FEATURES, aggregate
from models.kernels.features import adapter_terms, add_terms
from models.kernels.surrogate import evaluate
from models.kernels.tree import find_leaf, predict_batch
from models.tree import depth
from twin.domain import Adapter, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models.surrogate import Surrogate
    from models.tree import TreeArrays

BATCH_ROWS = 10_000
SINGLE_ROWS = 200
REPEATS = 60


def bench_surrogate() -> dict[str, Any]:
    """Return times of the shipped surrogates, nanoseconds, the best of several repeats.

    Returns
    -------
    By calibration id: `tree_batch_ns_per_row` (fresh rows in batches), `tree_single_us` (one row
    from Python), `evaluate_ns` (features and two trees, from compiled code), `add_adapter_ns`, and
    scikit-learn's `sklearn_batch_ns_per_row` and `sklearn_single_us` on a tree of the same size, None
    where it is not installed.
    """
    return {name: _bench(load_shipped(name)) for name in shipped_surrogate_ids()}


def _bench(surrogate: Surrogate) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    low, high = surrogate.ranges[:, 0], surrogate.ranges[:, 1]

    def fresh(count: int) -> NDArray[np.float32]:
        return (low + (high - low) * rng.uniform(size=(count, NUM_FEATURES)) ** 4).astype(np.float32)

    tree = surrogate.throughput
    batch_ns, single_us = _tree_times(tree, fresh)
    sklearn_ns, sklearn_us = _sklearn_times(tree.num_leaves, fresh)
    return {
        "leaves": tree.num_leaves,
        "tree_batch_ns_per_row": batch_ns,
        "tree_single_us": single_us,
        "sklearn_batch_ns_per_row": sklearn_ns,
        "sklearn_single_us": sklearn_us,
        **_evaluate_times(surrogate),
    }


def _best_s(make: Callable[[], Any], run: Callable[[Any], Any], repeats: int = REPEATS) -> float:
    """Return the least wall seconds of `run` on a fresh argument each time."""
    run(make())
    best = float("inf")
    for _ in range(repeats):
        argument = make()
        start = time.perf_counter()
        run(argument)
        best = min(best, time.perf_counter() - start)
    return best


def _tree_times(tree: TreeArrays, fresh: Callable[[int], NDArray[np.float32]]) -> tuple[float, float]:
    edges = depth(tree)
    leaves, out = np.empty(BATCH_ROWS, dtype=np.int32), np.empty(BATCH_ROWS)

    def batch(rows: NDArray[np.float32]) -> None:
        predict_batch(*tree, 0, edges, rows, leaves, out)

    def single(rows: list[NDArray[np.float32]]) -> None:
        for row in rows:
            find_leaf(tree.feature, tree.threshold, tree.children, 0, row)

    batch_s = _best_s(lambda: fresh(BATCH_ROWS), batch)
    single_s = _best_s(lambda: list(fresh(SINGLE_ROWS)), single)
    return 1e9 * batch_s / BATCH_ROWS, 1e6 * single_s / SINGLE_ROWS


def _sklearn_times(
    num_leaves: int, fresh: Callable[[int], NDArray[np.float32]]
) -> tuple[float | None, float | None]:
    try:
        from sklearn.tree import DecisionTreeRegressor  # noqa: PLC0415 (takes seconds, and is optional)
    except ImportError:
        return None, None
    rows = fresh(BATCH_ROWS)
    model = DecisionTreeRegressor(max_leaf_nodes=max(num_leaves, 2), random_state=0)
    model.fit(rows, np.sin(rows / (1.0 + np.abs(rows).mean(axis=0))).sum(axis=1))
    batch_s = _best_s(lambda: fresh(BATCH_ROWS), model.predict, repeats=5)
    single_s = _best_s(lambda: fresh(1), model.predict, repeats=50)
    return 1e9 * batch_s / BATCH_ROWS, 1e6 * single_s


@njit(nogil=True)
def _evaluate_many(arrays, aggregates, scratch, count):  # noqa: ANN001, ANN202 (Numba infers the types)
    total = 0.0
    for i in range(count):
        served, starvation = evaluate(arrays, aggregates, 8 + i % 64, 16, scratch)
        total += served + starvation
    return total


@njit(nogil=True)
def _add_many(aggregates, terms, count):  # noqa: ANN001, ANN202
    for i in range(count):
        adapter_terms(terms, 16, 0.1 + 1e-9 * i, 223.0, 197.0, np.nan, np.nan, 1.0)
        add_terms(aggregates, terms)


def _evaluate_times(surrogate: Surrogate) -> dict[str, float]:
    workload = Workload.from_adapters(
        Adapter(
            adapter_id=str(row),
            rank=16,
            rate_rps=0.05 * (1 + row % 3),
            input_tokens_mean=223.0,
            output_tokens_mean=197.0,
        )
        for row in range(100)
    )
    aggregates = aggregate(workload)
    scratch = np.empty(NUM_FEATURES, dtype=np.float32)
    terms = np.empty(NUM_AGGREGATES)
    count = 2_000
    arrays = surrogate.kernel_args()
    evaluate_s = _best_s(lambda: None, lambda _: _evaluate_many(arrays, aggregates, scratch, count))
    add_s = _best_s(lambda: np.zeros(NUM_AGGREGATES), lambda start: _add_many(start, terms, count))
    return {"evaluate_ns": 1e9 * evaluate_s / count, "add_adapter_ns": 1e9 * add_s / count}
