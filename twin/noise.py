"""How well a perfect twin would do: the twin against another draw of itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from twin.client import client_view
from twin.measured import client_of
from twin.validate import figures_by_model, held_back_ttft_ms, simulate_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twin.domain import Calibration
    from twin.measured import MeasuredRun
    from twin.validate import Prediction

OTHER_SEED = 1


def noise_floor(
    predictions: Sequence[Prediction], calibrations: Mapping[str, Calibration], *, threads: int
) -> dict[str, dict[str, float | int | None]]:
    """Return the figures of predictions against runs that the twin itself made with another seed.

    Arrivals, lengths and which adapter has which rank are drawn anew, as they were for the measured
    run: no simulation from a configuration can be closer to measurements than this.

    Parameters
    ----------
    predictions
        Of measured runs; those that ended are drawn anew.
    calibrations
        By base model.
    """
    ended = [row for row in predictions if row.run.outcome is not None and row.throughput_tok_s is not None]
    with ThreadPoolExecutor(threads) as pool:
        drawn = pool.map(lambda row: _drawn_anew(row.run, calibrations[row.run.model]), ended)
        return figures_by_model(replace(row, run=run) for row, run in zip(ended, drawn, strict=True))


def _drawn_anew(run: MeasuredRun, calibration: Calibration) -> MeasuredRun:
    """Return the run with what the twin makes of it for its outcome; unfinished requests are counted."""
    assert run.outcome is not None, "only runs that ended are drawn anew"
    report = simulate_run(run, calibration, seed=OTHER_SEED)
    num_unfinished = float(report.num_requests_sent - report.num_requests_completed)
    counted = replace(report, num_unfinished_trend=num_unfinished)
    seen = client_view(counted, calibration.front_end, client_of(run))
    outcome = replace(
        run.outcome,
        throughput_tok_s=report.throughput_tok_s,
        itl_ms=seen.itl_ms,
        ttft_ms=seen.ttft_ms,
        ttft_incl_unfinished_ms=held_back_ttft_ms(run, counted, seen)
        if run.outcome.ttft_incl_unfinished_ms > 0
        else run.outcome.ttft_incl_unfinished_ms,
    )
    return replace(run, outcome=outcome)
