"""A workload from a trace that names each request's adapter: ours, or another's with a column more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from service.errors import ImportSourceError
from service.imports.observations import Observations
from service.imports.tally import OVER_THE_WINDOW, RateRule, RequestTally
from twin.traces import read_any_trace

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFile:
    """A trace as `twin.traces` reads it.

    Attributes
    ----------
    path
        The file.
    rule
        How counts become rates.
    adapter_column
        The column that names the adapter, where the format has none of its own.
    """

    path: Path
    rule: RateRule = OVER_THE_WINDOW
    adapter_column: str | None = None

    def read(self) -> Observations:
        """Return rates, lengths and their variation; raises as `Source.read`, naming line and column."""
        trace = read_any_trace(self.path, adapter_column=self.adapter_column)
        if trace.adapter_ids is None:
            raise ImportSourceError(
                f"{self.path.name}: names no adapters; name their column with --adapter-column",
            )
        tally = RequestTally()
        columns = (trace.arrival_ns / 1e9, trace.prompt_tokens, trace.output_tokens)
        rows = zip(trace.adapter_ids, *(np.asarray(column).tolist() for column in columns), strict=True)
        for name, at_s, prompt, output in rows:
            tally.add(name, at_s=at_s, input_tokens=prompt, output_tokens=output)
        if not tally.num_requests:
            raise ImportSourceError(f"{self.path.name}: holds no requests")
        window_s = tally.window_s(self.rule, self.path.name)
        return Observations(
            source=self.path.name,
            adapters=tally.adapters(self.rule, window_s),
            window_s=window_s,
            notes=(f"{tally.num_requests} requests in {window_s:.6g} s",),
        )
