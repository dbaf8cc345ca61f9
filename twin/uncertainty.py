"""How wrong a prediction may be: the step law's error and the luck of the draw, carried through the twin.

A simulation is one draw of arrivals and lengths by one law. Others, with other seeds and with the step law
slower or faster by as much as it errs on measured steps, spread as predictions of that server spread. A
normal law through their logarithms gives the interval and the probability of starvation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING

from twin.errors import InvalidInputError
from twin.latency import with_slower_steps
from twin.report import STARVED_BELOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from twin.domain import Calibration, SimulationReport

STEP_ERROR = "step.ms_mape_pct"
"""The calibration's error that the step law is varied by."""

SD_OF_MEAN_ABSOLUTE = math.sqrt(math.pi / 2)
"""Standard deviation over mean absolute value of a normal law."""

MIN_DRAWS = 3
SMALLEST_TOK_S = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputInterval:
    """Where the throughput of a server lies, and how likely it starves.

    Attributes
    ----------
    low_tok_s, median_tok_s, high_tok_s
        A future run lies between the outer two with probability `level`.
    level
        In (0, 1).
    starvation_probability
        That a run completes less than `STARVED_BELOW` of the tokens it is sent.
    num_draws
        Simulations that this rests on.
    """

    low_tok_s: float
    median_tok_s: float
    high_tok_s: float
    level: float
    starvation_probability: float
    num_draws: int


def throughput_interval(
    simulate_draw: Callable[[Calibration, int], SimulationReport],
    calibration: Calibration,
    *,
    offered_tok_s: float,
    num_draws: int = 9,
    level: float = 0.9,
) -> ThroughputInterval:
    """Return the interval that draws of the same server give.

    Parameters
    ----------
    simulate_draw
        Simulates the server with a calibration and a seed.
    calibration
        Its `errors` say how wrong the step law is; without them only seeds differ.
    offered_tok_s
        What starvation is judged against.
    num_draws, level
        Simulations, >= 3, and the interval's probability.

    Raises
    ------
    InvalidInputError
        Naming `num_draws` or `level`.
    """
    if num_draws < MIN_DRAWS:
        raise InvalidInputError("num_draws", f"must be >= {MIN_DRAWS}, got {num_draws!r}")
    if not 0.0 < level < 1.0:
        raise InvalidInputError("level", f"must be in (0, 1), got {level!r}")
    standard = NormalDist()
    spread = SD_OF_MEAN_ABSOLUTE * calibration.errors.get(STEP_ERROR, 0.0) / 100.0
    logs = []
    for draw in range(num_draws):
        # Equal slices of the law's error, so that few draws already spread as it does.
        factor = math.exp(spread * standard.inv_cdf((draw + 0.5) / num_draws))
        report = simulate_draw(with_slower_steps(calibration, factor), draw)
        logs.append(math.log(max(report.throughput_tok_s, SMALLEST_TOK_S)))
    # A future run has its own luck beside the mean's.
    law = NormalDist(fmean(logs), max(stdev(logs) * math.sqrt(1.0 + 1.0 / num_draws), 1e-9))
    border = math.log(max(STARVED_BELOW * offered_tok_s, SMALLEST_TOK_S))
    return ThroughputInterval(
        low_tok_s=math.exp(law.inv_cdf(0.5 - 0.5 * level)),
        median_tok_s=math.exp(law.mean),
        high_tok_s=math.exp(law.inv_cdf(0.5 + 0.5 * level)),
        level=level,
        starvation_probability=law.cdf(border),
        num_draws=num_draws,
    )
