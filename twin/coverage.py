"""Whether predicted intervals hold: measured runs inside them, and starvation as likely as said."""

from __future__ import annotations

import math
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from typing import TYPE_CHECKING

from twin.measured import server_of
from twin.memory import fits_in_memory
from twin.uncertainty import throughput_interval
from twin.validate import simulate_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from twin.domain import Calibration
    from twin.measured import MeasuredRun
    from twin.uncertainty import ThroughputInterval

LEVEL = 0.9
NUM_BANDS = 5
"""Bands of equal width that starvation probabilities are compared with outcomes in."""


def predict_intervals(
    runs: Sequence[MeasuredRun], calibrations: Mapping[str, Calibration], *, num_draws: int, threads: int
) -> list[tuple[MeasuredRun, ThroughputInterval]]:
    """Return the interval of each run that ended and fits, from `num_draws` simulations each."""
    ended = [
        run
        for run in runs
        if run.outcome is not None
        and math.isfinite(run.outcome.throughput_tok_s)
        and run.rates_rps
        and fits_in_memory(calibrations[run.model], server_of(run))
    ]

    def interval(run: MeasuredRun) -> ThroughputInterval:
        return throughput_interval(
            lambda calibration, seed: simulate_run(run, calibration, seed=seed),
            calibrations[run.model],
            offered_tok_s=run.ideal_tok_s,
            num_draws=num_draws,
            level=LEVEL,
        )

    with ThreadPoolExecutor(threads) as pool:
        return list(zip(ended, pool.map(interval, ended), strict=True))


def coverage(intervals: Iterable[tuple[MeasuredRun, ThroughputInterval]]) -> dict[str, object]:
    """Return the share of runs inside their interval, its width, and starvation as said and as seen.

    Returns
    -------
    ``{"level", "by_model": {MODEL: {REGIME: {"runs", "inside", "width_pct"}}}, "starvation": {"brier",
    "bands": [{"from", "to", "runs", "said", "seen"}]}}``; regimes are ``not starved`` and ``starved``.
    """
    regimes: dict[str, dict[str, list[tuple[bool, float]]]] = defaultdict(lambda: defaultdict(list))
    verdicts: list[tuple[float, bool]] = []
    for run, interval in intervals:
        assert run.outcome is not None, "intervals are of runs that ended"
        measured = run.outcome.throughput_tok_s
        starved = run.is_starved(measured)
        inside = interval.low_tok_s <= measured <= interval.high_tok_s
        width = (interval.high_tok_s - interval.low_tok_s) / interval.median_tok_s
        regimes[run.model]["starved" if starved else "not starved"].append((inside, width))
        verdicts.append((interval.starvation_probability, starved))
    return {
        "level": LEVEL,
        "by_model": {
            model: {
                regime: {
                    "runs": len(rows),
                    "inside": fmean(inside for inside, _ in rows),
                    "width_pct": 100 * fmean(width for _, width in rows),
                }
                for regime, rows in sorted(by_regime.items())
            }
            for model, by_regime in sorted(regimes.items())
        },
        "starvation": {
            "brier": fmean((said - seen) ** 2 for said, seen in verdicts) if verdicts else None,
            "bands": _bands(verdicts),
        },
    }


def _bands(verdicts: Sequence[tuple[float, bool]]) -> list[dict[str, float | int]]:
    bands: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for said, seen in verdicts:
        bands[min(int(said * NUM_BANDS), NUM_BANDS - 1)].append((said, seen))
    return [
        {
            "from": band / NUM_BANDS,
            "to": (band + 1) / NUM_BANDS,
            "runs": len(rows),
            "said": fmean(said for said, _ in rows),
            "seen": fmean(seen for _, seen in rows),
        }
        for band, rows in sorted(bands.items())
    ]
