"""Predicted against measured values of runs, as a figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from twin.validate import Prediction

QUANTITIES = (
    ("throughput_tok_s", "throughput, tok/s"),
    ("itl_ms", "mean ITL, ms"),
    ("ttft_incl_unfinished_ms", "TTFT incl. unfinished, ms"),
)

CLOSE = 0.1
"""The dashed lines: this share of the measured value above and below it."""

FEW_DECADES = 50.0
"""Up to this ratio of the ends of an axis there are numbers between powers of ten too."""

HELD, STARVED, BASELINE = "#2471a3", "#d35400", "#616a6b"


def ended(row: Prediction) -> bool:
    """Return whether a run has a measured and a predicted throughput to compare."""
    outcome = row.run.outcome
    return (
        outcome is not None and math.isfinite(outcome.throughput_tok_s) and row.throughput_tok_s is not None
    )


def pairs_of(rows: Sequence[Prediction], quantity: str) -> NDArray[np.float64]:
    """Return ``(n, 2)`` float64, measured and predicted values of `quantity` where a run has both."""
    told = [(getattr(row.run.outcome, quantity), getattr(row, quantity)) for row in rows if ended(row)]
    pairs = np.array(told, dtype=np.float64).reshape(-1, 2)  # None becomes not a number
    return pairs[np.isfinite(pairs).all(axis=1)]


def close_share(rows: Sequence[Prediction], quantity: str) -> float | None:
    """Return the share of runs predicted within `CLOSE` of what was measured; None without runs."""
    measured, predicted = pairs_of(rows, quantity).T
    return float(np.mean(np.abs(predicted - measured) <= CLOSE * measured)) if measured.size else None


def scatter(
    title: str, predictors: Mapping[str, Sequence[Prediction]], baseline: Sequence[Prediction] = ()
) -> Figure:
    """Return plots of predicted against measured values, a row of them for each predictor.

    Parameters
    ----------
    title
        Above all of them.
    predictors
        Predictions of the same runs by the predictor's name; only runs that `ended` are drawn.
    baseline
        Those of the one-line baseline, drawn behind where it says anything.
    """
    figure = Figure(figsize=(12, 0.6 + 4.1 * len(predictors)), layout="constrained")
    grid = figure.subplots(len(predictors), len(QUANTITIES), squeeze=False)
    for row_of_axes, (name, rows) in zip(grid, predictors.items(), strict=True):
        for axes, (quantity, label) in zip(row_of_axes, QUANTITIES, strict=True):
            _draw(axes, rows, baseline, quantity)
            axes.set(xlabel=f"measured {label}", ylabel=f"{name}: {label}")
    marks = {label: mark for axes in grid.flat for mark, label in zip(*axes.get_legend_handles_labels())}  # noqa: B905
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=len(marks), frameon=False)
    figure.suptitle(title)
    return figure


def _draw(axes: Axes, rows: Sequence[Prediction], baseline: Sequence[Prediction], quantity: str) -> None:
    groups = (
        ("one-line baseline", BASELINE, "x", baseline),
        ("not starved", HELD, "o", [row for row in rows if not _starved(row)]),
        ("starved, as measured", STARVED, "^", [row for row in rows if _starved(row)]),
    )
    drawn = []
    for label, colour, marker, group in groups:
        pairs = pairs_of(group, quantity)
        pairs = pairs[(pairs > 0).all(axis=1)]  # the axes are logarithmic
        if not pairs.size:
            continue
        style = {"color": colour, "marker": marker, "markersize": 3.5, "alpha": 0.6, "linestyle": "none"}
        axes.plot(*pairs.T, label=label, markeredgewidth=0.6, **style)
        drawn.append(pairs)
    axes.set(xscale="log", yscale="log", box_aspect=1)
    if drawn:
        _guides(axes, np.concatenate(drawn))


def _guides(axes: Axes, pairs: NDArray[np.float64]) -> None:
    """Draw where both values are equal, and `CLOSE` beside it, over equal axes."""
    ends = np.array([pairs.min() / 1.15, pairs.max() * 1.15])
    axes.plot(ends, ends, color="k", linewidth=0.8, label="equal")
    for factor, label in ((1 + CLOSE, "10 % off"), (1 - CLOSE, None)):
        axes.plot(ends, factor * ends, color="k", linewidth=0.6, linestyle="--", label=label)
    axes.set(xlim=ends, ylim=ends)
    subs = (1.0,) if ends[1] / ends[0] > FEW_DECADES else (1.0, 2.0, 5.0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_minor_locator(NullLocator())


def _starved(row: Prediction) -> bool:
    return ended(row) and row.run.is_starved(row.run.outcome.throughput_tok_s)  # type: ignore[union-attr]
