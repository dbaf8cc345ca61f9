"""Twin and surrogate against measured runs as a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.reports.page import Section, as_image, number, page
from twin.scatter import QUANTITIES, close_share, ended, scatter
from twin.validate import baseline_predictions, figures, figures_by_regime, regimes
from twin.validation_report import NUM_WORST, relative_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from twin.validate import Prediction

TWIN, TREE = "twin", "tree"

LABELS = {
    "runs": "runs that ended",
    "throughput_smape_half_pct": "throughput, half sMAPE, %",
    "throughput_mape_pct": "throughput, MAPE, %",
    "itl_smape_half_pct": "mean ITL, half sMAPE, %",
    "ttft_incl_unfinished_smape_half_pct": "TTFT incl. unfinished, half sMAPE, %",
    "ttft_completed_mape_pct": "TTFT of completed requests, MAPE, %",
    "starvation_accuracy": "starvation verdict right, share",
    "starvation_f1": "starvation verdict, F1",
    "fits_accuracy": "fits in memory or not: right, share",
}
"""What a reader calls the figures of `validate`."""

TOLD = (
    "Each run is predicted from its configuration alone: nothing that came out of it is an input. The "
    "one-line baseline is the smaller of what is asked for and the median throughput of other starved runs "
    "with the same slots and rank; it says nothing of latencies and memory."
)


TREE_TOLD = (
    "The tree is what answers POST /place. Its latencies are the server's; those measured, and the twin's, "
    "are the client's, behind an API server."
)


def validation_report(predictors: Mapping[str, Sequence[Prediction]], command: str) -> str:
    """Return the HTML of a validation: figures beside the baseline's, plots, regimes, and the worst runs.

    Parameters
    ----------
    predictors
        Predictions by predictor: `TWIN`, and `TREE` where a surrogate was compared too.
    command
        What made it, as typed.
    """
    lines = [TOLD, TREE_TOLD] if TREE in predictors else [TOLD]
    sections = [Section(heading="What is compared", lines=lines)]
    for model in sorted({row.run.model for row in predictors[TWIN]}):
        own = {name: [row for row in rows if row.run.model == model] for name, rows in predictors.items()}
        sections += _sections(model, {name: rows for name, rows in own.items() if rows})
    title = f"{' and '.join(predictors).capitalize()} against measured runs"
    return page(title, f"Made by {command}.", sections)


def plot(model: str, predictors: Mapping[str, Sequence[Prediction]]) -> Figure:
    """Return predicted against measured values of one base model, the baseline's beside them."""
    return scatter(model, predictors, baseline_predictions([row.run for row in predictors[TWIN]]))


def _sections(model: str, predictors: Mapping[str, Sequence[Prediction]]) -> list[Section]:
    sections = [_figures(model, predictors)]
    num_runs = sum(map(ended, predictors[TWIN]))
    if not num_runs:
        return sections
    says = (
        f"Predicted against measured, {num_runs} runs. On the line they are equal; beyond the dashed lines "
        "they are more than 10 % off."
    )
    image = as_image(plot(model, predictors))
    sections.append(Section(heading=f"{model}: runs", plot=image, plot_says=says))
    return [*sections, _regimes(model, predictors[TWIN]), _worst(model, predictors)]


def _figures(model: str, predictors: Mapping[str, Sequence[Prediction]]) -> Section:
    baseline = baseline_predictions([row.run for row in predictors[TWIN]])
    compared = {**predictors, "one-line baseline": baseline}
    columns = {name: figures(rows) for name, rows in compared.items()}
    columns["one-line baseline"]["fits_accuracy"] = None
    rows = [(label, *(_shown(column[name]) for column in columns.values())) for name, label in LABELS.items()]
    for quantity, label in QUANTITIES:
        shares = [close_share(told, quantity) for told in compared.values()]
        name = f"{label.rpartition(',')[0]} within 10 %, share of runs"
        rows.append((name, *map(_shown, shares)))
    return Section(heading=model, header=("", *columns), rows=rows)


def _shown(value: float | None) -> str:
    return number(value, 3) if isinstance(value, float) else number(value)


def _regimes(model: str, rows: Sequence[Prediction]) -> Section:
    """Return the errors of the twin's throughput in each regime, the baseline's beside them."""
    regime_of = regimes(rows)
    ours = figures_by_regime(rows, regime_of).get(model, {})
    theirs = figures_by_regime(baseline_predictions([row.run for row in rows]), regime_of).get(model, {})
    name = "throughput_smape_half_pct"
    shown = [
        (
            regime,
            number(told["runs"]),
            _shown(told[name]),
            _shown(theirs[regime][name]),
            _shown(told["itl_smape_half_pct"]),
            _shown(told["ttft_incl_unfinished_smape_half_pct"]),
        )
        for regime, told in ours.items()
    ]
    header = (
        "regime",
        "runs",
        "throughput, %",
        "baseline: throughput, %",
        "ITL, %",
        "TTFT incl. unfinished, %",
    )
    lines = ["Half sMAPE of the twin, by what the measured run was and what the twin says binds it."]
    return Section(heading=f"{model}: regimes", lines=lines, header=header, rows=shown)


def _worst(model: str, predictors: Mapping[str, Sequence[Prediction]]) -> Section:
    """Return the runs whose throughput the twin predicts worst, the other predictors' beside it."""
    worst = sorted(filter(ended, predictors[TWIN]), key=lambda row: -abs(relative_error(row)))[:NUM_WORST]
    said = [{row.run.run_id: row.throughput_tok_s for row in rows} for rows in predictors.values()]
    shown = [
        (
            row.run.run_id,
            number(row.run.max_loras),
            number(row.run.outcome.throughput_tok_s if row.run.outcome else None),
            *(number(told.get(row.run.run_id)) for told in said),
            f"{100 * relative_error(row):+.1f}",
        )
        for row in worst
    ]
    header = (
        *("run", "max_loras", "measured tok/s"),
        *(f"{name}: tok/s" for name in predictors),
        "twin less measured, % of their sum",
    )
    return Section(heading=f"{model}: predicted worst", header=header, rows=shown)
