"""The twin against measured runs as a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.reports.page import Section, as_image, number, page
from twin.validation_report import NUM_WORST, ended, relative_error, scatter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twin.validate import Prediction


def validation_report(predictions: Sequence[Prediction], document: Mapping[str, Any], command: str) -> str:
    """Return the HTML of a validation: figures beside the baseline's, plots, and the worst runs."""
    sections = []
    for model in document["by_model"]:
        sections.append(_figures(model, document))
        rows = [row for row in predictions if row.run.model == model and ended(row)]
        if rows:
            sections += [_plot(model, rows), _worst(model, rows)]
    return page("The twin against measured runs", f"Made by {command}.", sections)


def _figures(model: str, document: Mapping[str, Any]) -> Section:
    ours, baseline = document["by_model"][model], document["baseline"]["by_model"][model]
    rows = [(name, _shown(ours[name]), _shown(baseline.get(name))) for name in ours]
    return Section(heading=model, header=("", "twin", "one-line baseline"), rows=rows)


def _shown(value: float | None) -> str:
    return number(value, 3) if isinstance(value, float) else number(value)


def _plot(model: str, rows: Sequence[Prediction]) -> Section:
    says = f"Predicted against measured, {len(rows)} runs; on the line they are equal."
    return Section(heading=f"{model}: runs", plot=as_image(scatter(rows, model)), plot_says=says)


def _worst(model: str, rows: Sequence[Prediction]) -> Section:
    worst = sorted(rows, key=lambda row: -abs(relative_error(row)))[:NUM_WORST]
    shown = [
        (
            row.run.run_id,
            number(row.throughput_tok_s),
            number(row.run.outcome.throughput_tok_s if row.run.outcome else None),
            f"{100 * relative_error(row):+.1f}",
        )
        for row in worst
    ]
    header = ("run", "predicted tok/s", "measured tok/s", "signed, % (half)")
    return Section(heading=f"{model}: predicted worst", header=header, rows=shown)
