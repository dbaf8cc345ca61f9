"""How many GPUs to ask for while rates change: up at once, down late and only with room to spare.

Two numbers are observed at each change of the workload: `raw`, the GPUs of its plan, and `held`, the GPUs
it would need at rates a margin higher. The level that an autoscaler is told

- is never below `raw`: it rises at once;
- falls to the largest `held` of the last `window_s` seconds, and no further.

The window keeps a short dip from closing servers. The margin is the hysteresis: where noise carries the rates
to and fro over a border between two counts, the larger count stays until the smaller one holds at
rates a margin above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from placer.packing import place
from twin.domain import MAX_RATE_RPS

if TYPE_CHECKING:
    from placer.placement import Placement
    from placer.problem import PlacementProblem

MAX_PAST = 64
"""Remembered counts; beyond it the two oldest become one, the larger that lasts the longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleWindow:
    """What was observed of one workload, as far as it still matters.

    Attributes
    ----------
    level
        GPUs that were asked for at the last observation.
    raw, held
        The last observation; it stands until the next.
    past
        Earlier values of `held` with the time until which each stood, seconds since the epoch: times
        ascend, values descend, all of them above `held`.
    """

    level: int
    raw: int
    held: int
    past: tuple[tuple[float, int], ...] = ()

    def level_at(self, now_s: float, window_s: float) -> int:
        """Return the GPUs to ask for at a time not before the last observation."""
        recent = max((held for until_s, held in self.past if until_s > now_s - window_s), default=0)
        return max(self.raw, min(self.level, max(self.held, recent)))

    def observed(self, now_s: float, *, raw: int, held: int, window_s: float) -> ScaleWindow:
        """Return the window after a new observation.

        A clock that was set back makes old values count from now. A value whose window ends at this very
        moment still counts: what was observed now takes its place before anything closes.
        """
        ended = [*self.past, (now_s, self.held)]
        past: list[tuple[float, int]] = []
        for until_s, value in ended:
            if until_s > now_s - window_s and value > held:
                past = [entry for entry in past if entry[1] > value]
                past.append((min(until_s, now_s), value))
        while len(past) > MAX_PAST:
            past[:2] = [(past[1][0], past[0][1])]
        level = max(raw, self.level_at(math.nextafter(now_s, -math.inf), window_s))
        return ScaleWindow(level=level, raw=raw, held=held, past=tuple(past))


def first_window(*, raw: int, held: int) -> ScaleWindow:
    """Return the window of a workload that was never observed."""
    return ScaleWindow(level=raw, raw=raw, held=held)


def gpus_with_margin(problem: PlacementProblem, placement: Placement, rate_noise: float) -> int:
    """Return the GPUs of a workload at rates `rate_noise` higher, at least those of its own plan.

    An adapter that only the higher rate makes too heavy for a GPU counts as one GPU.
    """
    if rate_noise == 0 or placement.num_gpus == 0:
        return placement.num_gpus
    rates = np.minimum(problem.workload.rate_rps * (1 + rate_noise), MAX_RATE_RPS)
    higher = place(replace(problem, workload=replace(problem.workload, rate_rps=rates)))
    too_heavy = max(0, len(higher.unplaced) - len(placement.unplaced))
    held = max(placement.num_gpus, higher.num_gpus + too_heavy)
    return held if problem.max_gpus is None else min(held, max(problem.max_gpus, placement.num_gpus))
