"""The server of `docs/paged-engine.md` in plain Python, request by request: the kernel's oracle.

Written from the numbered rules and for reading, not for speed: the need of a batch is found by
playing it to its end, and every sum over the batch is taken anew.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.paged_cases import MAX_SAMPLES, STOP_NAMES, TOTAL_NAMES, PagedOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.paged_cases import PagedScenario


@dataclass(slots=True, eq=False)
class Request:
    """One request and what has happened to it."""

    index: int
    due_ns: int
    adapter: int
    prompt_tokens: int
    output_tokens: int
    declared_tokens: int
    generated: int = 0
    sent_ns: int = -1
    admitted_ns: int = -1
    first_token_ns: int = -1
    last_token_ns: int = -1
    finish_ns: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A record of one step, for tests that look inside."""

    is_prefill: bool
    start_ns: int
    end_ns: int
    running: tuple[int, ...]
    admitted: tuple[int, ...]
    loaded: tuple[int, ...]
    pool_used: int


def largest_need(batch: Sequence[tuple[int, int]]) -> int:
    """Return the most tokens that a batch holds at one time, by playing it to its end.

    Each request is (tokens held, tokens still to come); all gain one token at a time, and a request
    that has none to come leaves after it was counted.
    """
    playing = list(batch)
    most = 0
    while playing:
        most = max(most, sum(held for held, _ in playing))
        playing = [(held + 1, left - 1) for held, left in playing if left > 0]
    return most


class PagedOracle:
    """The plain server; `run` serves a scenario and returns its outcome, `steps` the record."""

    def __init__(self, scenario: PagedScenario) -> None:
        self.scenario = scenario
        self.to_come = [
            Request(index, *row)
            for index, row in enumerate(
                zip(
                    scenario.arrival_ns,
                    scenario.adapter_of,
                    scenario.prompt_tokens,
                    scenario.output_tokens,
                    scenario.declared_tokens,
                    strict=True,
                )
            )
        ]
        self.requests = list(self.to_come)
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.decodes_since_prefill = 0
        self.gap_counts: Counter[int] = Counter()
        self.totals: Counter[str] = Counter()
        self.steps: list[Step] = []
        self.samples: list[tuple[int, ...]] = []
        self.stop = "STOP_QUEUE_EMPTY"
        self.stop_ns: Counter[str] = Counter()

    def run(self) -> PagedOutcome:
        """Serve until the horizon."""
        scenario = self.scenario
        now_ns = 0
        while True:
            self._receive(now_ns)
            if now_ns >= scenario.horizon_ns:
                break
            if self.running or self.waiting:
                now_ns = self._step(now_ns)
                continue
            if not self.to_come or self.to_come[0].due_ns >= scenario.horizon_ns:
                break
            now_ns = self._next_look(now_ns, self.to_come[0].due_ns)
        return PagedOutcome(
            first_token_ns=[request.first_token_ns for request in self.requests],
            finish_ns=[request.finish_ns for request in self.requests],
            sent_ns=[request.sent_ns for request in self.requests],
            admitted_ns=[request.admitted_ns for request in self.requests],
            stop_ns={name: self.stop_ns[name] for name in STOP_NAMES},
            gap_counts=dict(self.gap_counts),
            totals=self._all_totals(),
            samples=self.samples[:MAX_SAMPLES],
        )

    def adapters_of(self, requests: Sequence[Request]) -> set[int]:
        return {request.adapter for request in requests}

    def _receive(self, now_ns: int) -> None:
        while self.to_come and self.to_come[0].due_ns <= now_ns:
            if self.to_come[0].due_ns >= self.scenario.horizon_ns:
                break
            request = self.to_come.pop(0)
            request.sent_ns = request.due_ns
            self.waiting.append(request)
        self.totals["MAX_WAITING"] = max(self.totals["MAX_WAITING"], len(self.waiting))

    def _next_look(self, now_ns: int, due_ns: int) -> int:
        if self.scenario.idle_poll_ns == 0:
            return due_ns
        while now_ns < due_ns:
            now_ns += self.scenario.idle_poll_ns
        return now_ns

    def _admissible(self) -> list[Request]:
        scenario = self.scenario
        if self.running and self.decodes_since_prefill < scenario.max_wait_tokens:
            return []
        admitted: list[Request] = []
        self.stop = "STOP_QUEUE_EMPTY"
        for request in self.waiting:
            batch = [*self.running, *admitted, request]
            adapters = sum(
                scenario.rank[adapter] * scenario.tokens_per_rank for adapter in self.adapters_of(batch)
            )
            need = largest_need(
                [(other.prompt_tokens + max(other.generated, 1), self._left(other)) for other in batch]
            )
            prompt_tokens = sum(other.prompt_tokens for other in [*admitted, request])
            if len(batch) > scenario.running_max_req_size:
                self.stop = "STOP_SEQS"
            elif need >= scenario.pool_tokens - adapters:
                self.stop = "STOP_KV"
            elif prompt_tokens > scenario.batch_max_tokens:
                self.stop = "STOP_TOKENS"
            if self.stop != "STOP_QUEUE_EMPTY":
                break
            admitted.append(request)
        return admitted

    def _left(self, request: Request) -> int:
        return request.declared_tokens - request.generated - 1

    def _step(self, now_ns: int) -> int:
        scenario = self.scenario
        c = scenario.step_coefficients
        admitted = self._admissible()
        loaded = sorted(self.adapters_of(admitted) - self.adapters_of(self.running))
        load_ns = sum(scenario.rank[adapter] * scenario.load_ns_per_rank for adapter in loaded)
        del self.waiting[: len(admitted)]
        self.running.extend(admitted)
        prefill_tokens = sum(request.prompt_tokens for request in admitted)
        decoding = [] if admitted else list(self.running)
        if admitted:
            ranks = sum(scenario.rank[adapter] for adapter in self.adapters_of(admitted))
            model_ms = c[4] + c[5] * prefill_tokens + c[6] * ranks
        else:
            ranks = sum(scenario.rank[adapter] for adapter in self.adapters_of(decoding))
            num_decodes = len(decoding)
            model_ms = c[0] + c[1] * num_decodes + c[2] * 1e-3 * num_decodes * num_decodes + c[3] * ranks
        end_ns = now_ns + int(1e6 * model_ms) + (load_ns if admitted else 0)
        used, context = self._pool_used(decoding)
        self._count(now_ns, end_ns, load_ns, used, len(loaded))
        adapters = self.adapters_of(self.running)
        self.samples.append(
            (
                len(decoding),
                prefill_tokens,
                context,
                len(adapters),
                len(admitted),
                end_ns - now_ns,
                len(admitted),
            )
        )
        if not self.waiting:
            self.stop = "STOP_QUEUE_EMPTY"
        self.stop_ns[self.stop] += min(end_ns, scenario.horizon_ns) - now_ns
        for request in admitted:
            request.admitted_ns = now_ns
        self.steps.append(
            Step(
                is_prefill=bool(admitted),
                start_ns=now_ns,
                end_ns=end_ns,
                running=tuple(request.index for request in self.running),
                admitted=tuple(request.index for request in admitted),
                loaded=tuple(loaded),
                pool_used=used,
            )
        )
        for request in admitted or decoding:
            self._emit(request, end_ns)
        self.decodes_since_prefill = 0 if admitted else self.decodes_since_prefill + 1
        self.running = [request for request in self.running if request.finish_ns < 0]
        return end_ns

    def _pool_used(self, decoding: Sequence[Request]) -> tuple[int, int]:
        """Tokens held in the step, and those of them that were there before it."""
        context = sum(request.prompt_tokens + max(request.generated - 1, 0) for request in self.running)
        adapters = sum(
            self.scenario.rank[adapter] * self.scenario.tokens_per_rank
            for adapter in self.adapters_of(self.running)
        )
        return context + adapters + len(decoding), context

    def _emit(self, request: Request, end_ns: int) -> None:
        request.generated += 1
        if request.generated == 1:
            request.first_token_ns = end_ns
        else:
            gap_us = max(end_ns - request.last_token_ns, 1000) * 1e-3
            self.gap_counts[int(100 * math.log(gap_us))] += 1
        request.last_token_ns = end_ns
        if request.generated == request.output_tokens:
            request.finish_ns = end_ns

    def _count(self, now_ns: int, end_ns: int, load_ns: int, used: int, num_loads: int) -> None:
        counted_ns = min(end_ns, self.scenario.horizon_ns) - now_ns
        totals = self.totals
        totals["NUM_STEPS"] += 1
        totals["NUM_LOADS_CPU"] += num_loads
        totals["RUNNING_NS"] += len(self.running) * counted_ns
        totals["WAITING_NS"] += len(self.waiting) * counted_ns
        totals["KV_BLOCK_NS"] += used * counted_ns
        totals["MAX_KV_BLOCKS"] = max(totals["MAX_KV_BLOCKS"], used)
        totals["ADAPTER_NS"] += len(self.adapters_of(self.running)) * counted_ns
        totals["BUSY_NS"] += counted_ns
        totals["LOAD_NS"] += load_ns

    def _all_totals(self) -> dict[str, float]:
        self.totals["NUM_SENT"] = sum(request.sent_ns >= 0 for request in self.requests)
        return {name: float(self.totals[name]) for name in TOTAL_NAMES}


def run_paged_oracle(scenario: PagedScenario) -> PagedOutcome:
    """Return what the plain server says of a scenario."""
    return PagedOracle(scenario).run()
