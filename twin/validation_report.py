"""The validation of the twin as a page: tables, scatter plots, and the runs it predicts worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from twin.scatter import ended, scatter
from twin.validate import baseline_predictions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from twin.validate import Prediction

NUM_WORST = 10


def write_report(
    path: Path, predictions: Sequence[Prediction], document: Mapping[str, Any], *, command: str
) -> None:
    """Write Markdown to `path` and one PNG for each base model beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    models = list(document["by_model"])
    baseline = baseline_predictions([row.run for row in predictions])
    lines = [
        "# The twin against measured runs",
        "",
        (
            f"Printed by `{command}`. The step law was fitted to these runs; figures for runs left out of "
            "the fit, and what the worst residuals are, stand in [residuals.md](residuals.md)."
        ),
        "",
    ]
    lines += _figures_table("twin", document["by_model"])
    lines += _figures_table("one-line baseline", document["baseline"]["by_model"])
    if document["speedup_median"] is not None:
        lines += [
            (
                f"Speed: {document['speedup_median']:,.0f} simulated seconds a wall second at the median, "
                f"{document['speedup_min']:,.0f} at the least, one core, drawing of requests included."
            ),
            "",
        ]
    for model in models:
        rows = [row for row in predictions if row.run.model == model and ended(row)]
        if not rows:
            continue
        image = path.with_name(f"{path.stem}-{model}.png")
        scatter(model, {"twin": rows}, [row for row in baseline if row.run.model == model]).savefig(image)
        lines += [f"## {model}", "", f"![predicted against measured]({image.name})", ""]
        lines += _regimes_table(document, model) + _slots_table(rows) + _worst_table(rows)
    path.write_text("\n".join(lines), encoding="utf-8")


def relative_error(row: Prediction) -> float:
    """Return predicted less measured throughput over their sum, of a run that `ended`."""
    assert row.run.outcome is not None
    assert row.throughput_tok_s is not None
    measured = row.run.outcome.throughput_tok_s
    return (row.throughput_tok_s - measured) / ((row.throughput_tok_s + measured) or 1.0)


def _figures_table(title: str, by_model: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names = list(next(iter(by_model.values())))
    lines = [f"| {title} | " + " | ".join(by_model) + " |", "|---" * (len(by_model) + 1) + "|"]
    for name in names:
        values = " | ".join(_text(rows[name]) for rows in by_model.values())
        lines.append(f"| {name} | {values} |")
    return [*lines, ""]


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _regimes_table(document: Mapping[str, Any], model: str) -> list[str]:
    """Return the errors in each regime, the baseline's throughput beside them."""
    names = (
        *("runs", "throughput_smape_half_pct", "itl_smape_half_pct"),
        *("ttft_incl_unfinished_smape_half_pct", "starvation_accuracy"),
    )
    lines = [f"| regime | {' | '.join(names)} | baseline throughput |", "|---" * (len(names) + 2) + "|"]
    baseline = document["baseline"]["by_regime"][model]
    for regime, rows in document["by_regime"][model].items():
        values = [_text(rows[name]) for name in names]
        values.append(_text(baseline[regime]["throughput_smape_half_pct"]))
        lines.append(f"| {regime} | {' | '.join(values)} |")
    return [*lines, ""]


def _slots_table(rows: Sequence[Prediction]) -> list[str]:
    """Return the throughput error of starved and other runs, by slots."""
    lines = ["| slots | runs | throughput_smape_half_pct | mean signed, % |", "|---|---|---|---|"]
    for starved in (False, True):
        regime = [row for row in rows if row.run.is_starved(row.run.outcome.throughput_tok_s) is starved]  # type: ignore[union-attr]
        for slots in sorted({row.run.max_loras for row in regime}):
            errors = np.array([relative_error(row) for row in regime if row.run.max_loras == slots])
            name = f"{'starved' if starved else 'not starved'}, max_loras {slots}"
            lines.append(
                f"| {name} | {errors.size} | {100 * np.abs(errors).mean():.2f} | {100 * errors.mean():+.2f} |"
            )
    return [*lines, ""]


def _worst_table(rows: Sequence[Prediction]) -> list[str]:
    lines = [f"The {NUM_WORST} runs predicted worst:", ""]
    lines += [
        "| run | predicted tok/s | measured tok/s | predicted ITL ms | measured ITL ms |",
        "|---" * 5 + "|",
    ]
    for row in sorted(rows, key=lambda row: -abs(relative_error(row)))[:NUM_WORST]:
        assert row.run.outcome is not None
        cells = (
            row.run.run_id,
            f"{row.throughput_tok_s:,.0f}",
            f"{row.run.outcome.throughput_tok_s:,.0f}",
            f"{row.itl_ms:.1f}",
            f"{row.run.outcome.itl_ms:.1f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]
