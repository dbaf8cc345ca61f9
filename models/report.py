"""What a training learned, in words: rules, importance, accuracy against size, and reliability.

Markdown, so that a page of the documentation is what the training printed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.features import FEATURES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from models.tree import TreeArrays

RELIABILITY_EDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 1.0)
"""Bounds of the classes of predicted probability."""


def reliability(probability: NDArray[np.float64], starved: NDArray[np.bool_]) -> list[dict[str, float]]:
    """Return, for each class of predicted probability that has rows, what was said and what happened.

    Returns
    -------
    Dicts of `low` and `high` (the class), `rows`, `predicted` (mean) and `starved` (frequency).
    """
    table = []
    inner = np.array(RELIABILITY_EDGES[1:-1])
    classes = np.searchsorted(inner, probability, side="right")
    for number in range(len(RELIABILITY_EDGES) - 1):
        inside = classes == number
        if inside.any():
            table.append(
                {
                    "low": RELIABILITY_EDGES[number],
                    "high": RELIABILITY_EDGES[number + 1],
                    "rows": float(inside.sum()),
                    "predicted": float(probability[inside].mean()),
                    "starved": float(starved[inside].mean()),
                }
            )
    return table


def importance(tree: TreeArrays, rows: NDArray[np.float32]) -> dict[str, float]:
    """Return each feature's share of the decisions that the tree makes of these rows, largest first."""
    counts = np.zeros(len(FEATURES))
    places = np.zeros(len(rows), dtype=np.int64)
    leaf = tree.is_leaf
    while not leaf[places].all():
        walking = np.flatnonzero(~leaf[places])
        nodes = places[walking]
        feature = tree.feature[nodes]
        counts += np.bincount(feature, minlength=len(FEATURES))
        above = rows[walking, feature] > tree.threshold[nodes]
        places[walking] = tree.children[nodes, above.astype(np.int64)]
    order = np.argsort(-counts, kind="stable")
    total = max(counts.sum(), 1.0)
    return {FEATURES[k].name: float(counts[k] / total) for k in order if counts[k] > 0}


def rules(tree: TreeArrays) -> Iterator[tuple[str, float]]:
    """Yield each leaf's condition in words, with units, and its value; from left to right."""
    yield from _rules(tree, 0, {})


def _rules(
    tree: TreeArrays, node: int, limits: Mapping[int, tuple[float, float]]
) -> Iterator[tuple[str, float]]:
    left, right = (int(child) for child in tree.children[node])
    if left == node:
        yield " and ".join(_words(feature, *limit) for feature, limit in limits.items()), tree.value[node]
        return
    feature, threshold = int(tree.feature[node]), float(tree.threshold[node])
    low, high = limits.get(feature, (-np.inf, np.inf))
    yield from _rules(tree, left, {**limits, feature: (low, min(high, threshold))})
    yield from _rules(tree, right, {**limits, feature: (max(low, threshold), high)})


def _words(feature: int, low: float, high: float) -> str:
    name, unit = FEATURES[feature].name, FEATURES[feature].unit
    suffix = "" if unit == "1" else f" {unit}"
    if low == -np.inf:
        return f"`{name}` at most {high:.4g}{suffix}"
    if high == np.inf:
        return f"`{name}` above {low:.4g}{suffix}"
    return f"`{name}` above {low:.4g} up to {high:.4g}{suffix}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def training_report(
    title: str,
    metrics: Mapping[str, Mapping[str, float | None]],
    reliability_rows: Sequence[Mapping[str, float]],
    importances: Mapping[str, Mapping[str, float]],
    printed: Mapping[str, TreeArrays],
) -> str:
    """Return the page that `loadmaster train --report` writes.

    Parameters
    ----------
    title
        Heading.
    metrics
        Figures on held-out rows by model, as in the manifest.
    reliability_rows
        From `reliability`.
    importances
        By target, from `importance`.
    printed
        By target, the edition of the trees that fits on a page.
    """
    names = list(next(iter(metrics.values())))
    figures = [
        [name, *("-" if block.get(name) is None else f"{block[name]:.4g}" for block in metrics.values())]
        for name in names
    ]
    reliable = [
        [
            f"{row['low']:.2f} to {row['high']:.2f}",
            f"{row['rows']:.0f}",
            f"{row['predicted']:.3f}",
            f"{row['starved']:.3f}",
            "#" * round(20 * row["starved"]),
        ]
        for row in reliability_rows
    ]
    parts = [
        f"# {title}\n",
        "Written by `loadmaster train --report`; not edited by hand.\n",
        "## Errors on held-out scenarios\n",
        markdown_table(["figure", *metrics], figures),
        "## Reliability of the starvation probability\n",
        markdown_table(["predicted", "rows", "mean predicted", "starved", ""], reliable),
        "## Share of a tree's decisions by feature\n",
        *(_importance_section(target, shares) for target, shares in importances.items()),
        "## Rules of the printed edition\n",
        *(_rules_section(target, tree) for target, tree in printed.items()),
    ]
    return "\n".join(parts)


def _importance_section(target: str, shares: Mapping[str, float]) -> str:
    rows = [[f"`{name}`", f"{share:.3f}", "#" * round(60 * share)] for name, share in shares.items()]
    return f"### {target}\n\n" + markdown_table(["feature", "share", ""], rows[:12])


_MEANING = {
    "throughput": "the server serves {:.3f} x the formula's fraction",
    "starvation": "it starves in {:.1%} of such cases",
    "itl": "ITL is {:.3f} x the formula's",
    "ttft": "TTFT is {:.3f} x the formula's",
}


def _rules_section(target: str, tree: TreeArrays) -> str:
    lines = [
        f"{number}. {condition or 'always'}: {_MEANING[target].format(value)}."
        for number, (condition, value) in enumerate(rules(tree), start=1)
    ]
    return f"### {target}, {tree.num_leaves} leaves\n\n" + "\n".join(lines) + "\n"
