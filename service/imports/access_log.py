"""A workload from access logs: each request's `model` is its adapter, counts over the window are rates."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import ImportSourceError
from service.imports.log_lines import LogRequest, NotARequest, read_line, read_with
from service.imports.observations import Observations
from service.imports.tally import OVER_THE_WINDOW, RateRule, RequestTally
from twin.traces import UNPACKING_ERRORS, open_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLogs:
    """One log in one or several files, such as a rotated one; gzip or not.

    Attributes
    ----------
    paths
        The files, in any order.
    rule
        How counts become rates.
    pattern
        A regular expression with the group ``model`` for lines of another form; see `log_lines.read_with`.
    progress
        Called with the bytes of each line that was read.
    """

    paths: tuple[Path, ...]
    rule: RateRule = OVER_THE_WINDOW
    pattern: str | None = None
    progress: Callable[[int], None] = lambda _num_bytes: None

    def read(self) -> Observations:
        """Return rates, lengths and their variation; raises as `Source.read`."""
        tally, dropped = RequestTally(), Counter()
        read = self._reader()
        for path in self.paths:
            self._count(path, read, tally, dropped)
        source = ", ".join(path.name for path in self.paths)
        if not tally.num_requests:
            told = "; ".join(f"{count} {reason}" for reason, count in dropped.items()) or "it is empty"
            raise ImportSourceError(f"{source}: no line names a model and a request: {told}")
        window_s = tally.window_s(self.rule, source)
        return Observations(
            source=source,
            adapters=tally.adapters(self.rule, window_s),
            window_s=window_s,
            dropped=dropped,
            notes=(f"{tally.num_requests} requests in {window_s:.6g} s",),
        )

    def _reader(self) -> Callable[[str], LogRequest | NotARequest]:
        if self.pattern is None:
            return read_line
        try:
            compiled = re.compile(self.pattern)
        except re.error as error:
            raise ImportSourceError(f"is no regular expression: {error}", field="--line-pattern") from error
        if "model" not in compiled.groupindex:
            raise ImportSourceError("must have a group (?P<model>...)", field="--line-pattern")
        return lambda line: read_with(compiled, line)

    def _count(
        self,
        path: Path,
        read: Callable[[str], LogRequest | NotARequest],
        tally: RequestTally,
        dropped: Counter[str],
    ) -> None:
        try:
            with open_text(path, errors="replace") as stream:
                for line in stream:
                    self.progress(len(line))
                    if not line.strip():
                        continue
                    found = read(line)
                    if isinstance(found, NotARequest):
                        dropped[found.reason] += 1
                        continue
                    tally.add(
                        found.adapter_id,
                        at_s=found.at_s,
                        input_tokens=found.input_tokens,
                        output_tokens=found.output_tokens,
                    )
        except UNPACKING_ERRORS as error:
            raise ImportSourceError(f"{path.name}: cannot be unpacked: {error}") from error
