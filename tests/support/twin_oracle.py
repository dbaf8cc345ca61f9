"""The server of `twin/README.md` in plain Python, request by request: the kernel's oracle.

Written from the numbered rules and for reading, not for speed: one list of RUNNING requests, one
list of WAITING ones scanned from its front in every step, each request with its own count of tokens
and blocks, and every least-recently-used choice made by looking at all candidates.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.twin_cases import MAX_SAMPLES, STOP_NAMES, TOTAL_NAMES, Outcome, StepSample

if TYPE_CHECKING:
    from tests.support.twin_cases import Scenario
    from twin.domain import SchedulerLaw


@dataclass(slots=True, eq=False)
class Request:
    """One request and what has happened to it.

    `generated` tokens are known to the client; `computed` tokens have their keys and values in
    `blocks` blocks. `prefilling` holds from admission until the step that emits a token.
    """

    index: int
    due_ns: int
    adapter: int
    prompt_tokens: int
    output_tokens: int
    generated: int = 0
    computed: int = 0
    blocks: int = 0
    prefilling: bool = False
    passed_over: bool = False
    sent_ns: int = -1
    enqueued_ns: int = -1
    admitted_ns: int = -1
    first_token_ns: int = -1
    last_token_ns: int = -1
    finish_ns: int = -1

    @property
    def tokens(self) -> int:
        """Prompt and generated tokens: all of them must be computed before the next one comes."""
        return self.prompt_tokens + self.generated


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A record of one step, for tests that look inside."""

    start_ns: int
    end_ns: int
    running: tuple[int, ...]
    waiting: tuple[int, ...]
    admitted: tuple[int, ...]
    preempted: tuple[int, ...]
    finished: tuple[int, ...]
    adapters: frozenset[int]
    resident: frozenset[int]
    in_host_memory: frozenset[int]
    new_tokens: int
    blocks_of: dict[int, int]
    computed_of: dict[int, int]
    free_blocks: int
    sample: StepSample
    stop: str


@dataclass(slots=True)
class _Plan:
    """What one step will do."""

    budget_left: int
    new_tokens: dict[Request, int] = field(default_factory=dict)
    admitted: list[Request] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)
    num_passed_over: int = 0
    load_ns: int = 0


def lat_model_ms(scenario: Scenario, sample: StepSample) -> float:
    """Return the model's time for a step, term by term."""
    law = scenario.step
    num_tokens = sample.num_decodes + sample.prefill_tokens
    total_ms = law.base_ms
    total_ms += law.decode_ms * sample.num_decodes
    total_ms += law.prefill_ms * sample.prefill_tokens
    total_ms += law.context_ms * 1e-3 * sample.context_tokens
    total_ms += law.compute_ms * max(num_tokens - 512, 0)
    adapter_ms = law.adapter_ms + law.adapter_prefill_ms * 1e-3 * sample.prefill_tokens
    total_ms += sample.num_adapters * adapter_ms
    total_ms += law.rank_ms * max(scenario.max_lora_rank / 8 - 1, 0.0)
    slot_ms = law.slot_ms + law.slot_token_ms * 1e-3 * num_tokens
    total_ms += scenario.max_loras * slot_ms
    return total_ms + (law.eager_ms if num_tokens > 512 else 0.0)


def lat_sched_us(law: SchedulerLaw, *, num_requests_running: int, num_scanned: int) -> float:
    """Return the scheduler's time for a step."""
    walk_us = law.scanned_us * num_scanned + law.far_us * max(num_scanned - 13_000, 0)
    return law.base_us + law.running_us * num_requests_running + walk_us


def gap_bin(gap_ns: int) -> int:
    """Return the bin, 1 % wide from 1 microsecond, of a gap between tokens."""
    return min(int(100 * math.log(max(gap_ns, 1000) * 1e-3)), 2399)


class Oracle:
    """One server; `run` serves a scenario to its horizon and leaves `requests` and `steps` to read."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.requests = [
            Request(index, *row)
            for index, row in enumerate(
                zip(
                    scenario.arrival_ns,
                    scenario.adapter_of,
                    scenario.prompt_tokens,
                    scenario.output_tokens,
                    strict=True,
                )
            )
        ]
        self.upcoming = list(self.requests)
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self.now_ns = 0
        self.num_sent = 0
        self.num_finished = 0
        self.num_finished_before_boundary = 0
        self.steps: list[Step] = []
        self.totals: Counter[str] = Counter(dict.fromkeys(TOTAL_NAMES, 0))
        self.stop_ns: Counter[str] = Counter(dict.fromkeys(STOP_NAMES, 0))
        self.gap_counts: Counter[int] = Counter()
        self.slots_wait_ns = [0] * scenario.num_adapters
        self.last_used = dict.fromkeys(range(scenario.num_adapters), -1)
        self.slots: set[int] = set()
        self.host_memory: set[int] = set()
        self.num_received = 0
        self.set_changed = False
        if scenario.starts_in_cpu:
            self.host_memory = set(list(range(scenario.num_adapters))[-scenario.max_cpu_loras :])

    def run(self) -> Outcome:
        """Serve the requests until the horizon or until none is left."""
        while True:
            self._receive()
            if self.now_ns >= self.scenario.horizon_ns:
                break
            if self.running or self.waiting:
                self._step()
                continue
            if not self.upcoming or self.upcoming[0].due_ns >= self.scenario.horizon_ns:
                break
            self.now_ns = self.upcoming[0].due_ns
        self.totals["NUM_SENT"] = self.num_sent
        return Outcome(
            sent_ns=[request.sent_ns for request in self.requests],
            admitted_ns=[request.admitted_ns for request in self.requests],
            first_token_ns=[request.first_token_ns for request in self.requests],
            finish_ns=[request.finish_ns for request in self.requests],
            slots_wait_ns=self.slots_wait_ns,
            gap_counts={gap: count for gap, count in sorted(self.gap_counts.items()) if count},
            samples=[step.sample for step in self._steps_in_window()[:MAX_SAMPLES]],
            stop_ns=dict(self.stop_ns),
            totals=dict(self.totals),
        )

    def _in_window(self) -> bool:
        """Whether a step that starts now counts."""
        return self.now_ns >= self.scenario.warmup_ns

    def _steps_in_window(self) -> list[Step]:
        return [step for step in self.steps if step.start_ns >= self.scenario.warmup_ns]

    # --- The client.

    def _receive(self) -> None:
        """Enqueue the requests sent up to now (R1, R2)."""
        while self.upcoming:
            request = self.upcoming[0]
            if request.due_ns > self.now_ns or request.due_ns >= self.scenario.horizon_ns:
                break
            if self._client_may_send(self.num_finished_before_boundary):
                request.sent_ns = request.due_ns
            elif self._client_may_send(self.num_finished) and self.now_ns < self.scenario.horizon_ns:
                request.sent_ns = self.now_ns
            else:
                break
            self.num_sent += 1
            request.enqueued_ns = self.now_ns
            self.waiting.append(self.upcoming.pop(0))
        if self._in_window():
            self.totals["MAX_WAITING"] = max(self.totals["MAX_WAITING"], len(self.waiting))

    def _client_may_send(self, num_finished: int) -> bool:
        limit = self.scenario.max_unfinished
        return limit == 0 or self.num_sent - num_finished < limit

    # --- The scheduler.

    def _step(self) -> None:
        plan = _Plan(budget_left=self.scenario.max_num_batched_tokens)
        self._schedule_running(plan)
        if not plan.preempted:
            self._schedule_waiting(plan)
        self._load_adapters(plan)
        self._execute(plan)

    def _schedule_running(self, plan: _Plan) -> None:
        """Give every RUNNING request its tokens, in order (R3), preempting from the end (R4)."""
        position = 0
        while position < len(self.running):
            request = self.running[position]
            new_tokens = min(request.tokens - request.computed, plan.budget_left)
            while request in self.running and not self._allocate(request, new_tokens):
                self._preempt(self.running[-1], plan)
            if request in self.running:
                plan.new_tokens[request] = new_tokens
                plan.budget_left -= new_tokens
            position += 1

    def _preempt(self, request: Request, plan: _Plan) -> None:
        self.running.remove(request)
        self.waiting.insert(0, request)
        request.computed = 0
        request.blocks = 0
        request.prefilling = False
        plan.preempted.append(request)
        self.set_changed |= request.adapter not in self._adapters_in_batch()
        self.totals["NUM_PREEMPTIONS"] += self._in_window()

    def _schedule_waiting(self, plan: _Plan) -> None:
        """Admit WAITING requests in order while budget, sequences and KV blocks last (R5, R6)."""
        scenario = self.scenario
        for request in list(self.waiting):
            if len(self.running) >= scenario.max_num_seqs or plan.budget_left <= 0:
                break
            batch = self._adapters_in_batch()
            if request.adapter not in batch and len(batch) >= scenario.max_loras:
                plan.num_passed_over += 1
                request.passed_over = True
                continue
            new_tokens = min(request.tokens, plan.budget_left)
            if not self._allocate(request, new_tokens):
                break
            self.waiting.remove(request)
            self.running.append(request)
            request.prefilling = True
            if request.admitted_ns < 0:
                request.admitted_ns = self.now_ns
            plan.new_tokens[request] = new_tokens
            plan.budget_left -= new_tokens
            plan.admitted.append(request)
            self.set_changed |= request.adapter not in batch

    def _load_adapters(self, plan: _Plan) -> None:
        """Touch the batch's adapters one after another, loading those that are in no slot (R7)."""
        touched: set[int] = set()
        for adapter in sorted(self._adapters_in_batch()):
            if adapter not in self.slots:
                plan.load_ns += self._load(adapter, touched)
            touched.add(adapter)

    def _why_admission_ended(self, plan: _Plan) -> str:
        scenario = self.scenario
        batch = self._adapters_in_batch()
        if plan.preempted:
            return "STOP_PREEMPTED"
        if not self.waiting:
            return "STOP_QUEUE_EMPTY"
        if len(self.running) >= scenario.max_num_seqs:
            return "STOP_SEQS"
        if plan.budget_left <= 0:
            return "STOP_TOKENS"
        if len(batch) >= scenario.max_loras and all(r.adapter not in batch for r in self.waiting):
            return "STOP_SLOTS"
        return "STOP_KV"

    def _adapters_in_batch(self) -> frozenset[int]:
        return frozenset(request.adapter for request in self.running)

    # --- Memory.

    def _free_blocks(self) -> int:
        return self.scenario.num_blocks - sum(request.blocks for request in self.requests)

    def _allocate(self, request: Request, new_tokens: int) -> bool:
        """Give the request blocks for its next tokens, if so many are free."""
        blocks = math.ceil((request.computed + new_tokens) / self.scenario.block_size)
        if blocks - request.blocks > self._free_blocks():
            return False
        request.blocks = blocks
        return True

    def _load(self, adapter: int, touched: set[int]) -> int:
        """Bring an adapter into a slot (R7, R8) and return how long that takes, nanoseconds."""
        from_disk = adapter not in self.host_memory
        if from_disk:
            if len(self.host_memory) == self.scenario.max_cpu_loras:
                evicted = self._least_recently_used(self.host_memory - self._adapters_in_batch())
                self.host_memory.remove(evicted)
                self.slots.discard(evicted)
            self.host_memory.add(adapter)
        if len(self.slots) == self.scenario.max_loras:
            self.slots.remove(self._least_recently_used(self.slots - touched))
        self.slots.add(adapter)
        self.totals["NUM_LOADS_DISK" if from_disk else "NUM_LOADS_CPU"] += self._in_window()
        return (self.scenario.disk_load_ns if from_disk else self.scenario.cpu_load_ns)[adapter]

    def _least_recently_used(self, adapters: set[int]) -> int:
        return min(adapters, key=lambda adapter: (self.last_used[adapter], adapter))

    # --- The step runs.

    def _execute(self, plan: _Plan) -> None:
        sample = self._sample(plan)
        scheduler_us = lat_sched_us(
            self.scenario.scheduler,
            num_requests_running=len(self.running),
            num_scanned=sample.num_scanned,
        )
        scheduler_ns = int(1e3 * scheduler_us)
        duration_ns = int(1e6 * lat_model_ms(self.scenario, sample)) + scheduler_ns + plan.load_ns
        sample = sample._replace(duration_ns=duration_ns)
        start_ns, end_ns = self.now_ns, self.now_ns + duration_ns
        stop = self._why_admission_ended(plan)
        self._count(end_ns, stop)
        if self._in_window():
            self.totals["LOAD_NS"] += plan.load_ns
            self.totals["SCHEDULER_NS"] += scheduler_ns
        for adapter in self._adapters_in_batch():
            self.last_used[adapter] = len(self.steps)
        record = {
            "start_ns": start_ns,
            "end_ns": end_ns,
            "running": tuple(request.index for request in self.running),
            "waiting": tuple(request.index for request in self.waiting),
            "admitted": tuple(request.index for request in plan.admitted),
            "preempted": tuple(request.index for request in plan.preempted),
            "adapters": self._adapters_in_batch(),
            "resident": frozenset(self.slots),
            "in_host_memory": frozenset(self.host_memory),
            "new_tokens": sum(plan.new_tokens.values()),
            "blocks_of": {request.index: request.blocks for request in self.requests},
            "computed_of": {r.index: r.computed + plan.new_tokens.get(r, 0) for r in self.requests},
            "free_blocks": self._free_blocks(),
            "sample": sample,
            "stop": stop,
        }
        counts = self._in_window()
        self.now_ns = end_ns
        self.num_finished_before_boundary = self.num_finished
        finished = self._emit_tokens(plan, counts=counts)
        self.steps.append(Step(finished=tuple(request.index for request in finished), **record))

    def _sample(self, plan: _Plan) -> StepSample:
        decodes = [request for request in self.running if not request.prefilling]
        return StepSample(
            num_decodes=len(decodes),
            prefill_tokens=sum(tokens for r, tokens in plan.new_tokens.items() if r.prefilling),
            context_tokens=sum(request.tokens for request in decodes),
            num_adapters=len(self._adapters_in_batch()),
            num_scanned=len(plan.admitted) + plan.num_passed_over,
            duration_ns=0,  # known once the laws have seen the rest
            num_prefills=sum(request.prefilling for request in plan.new_tokens),
        )

    def _count(self, end_ns: int, stop: str) -> None:
        """Add the step to the integrals, from the end of the warm-up to the horizon."""
        counted_ns = min(end_ns, self.scenario.horizon_ns) - max(self.now_ns, self.scenario.warmup_ns)
        counted_ns = max(counted_ns, 0)
        used_blocks = self.scenario.num_blocks - self._free_blocks()
        if self._in_window():
            self.totals["NUM_STEPS"] += 1
            self.totals["NUM_ARRIVAL_STEPS"] += self.num_sent > self.num_received
            self.totals["NUM_SET_CHANGES"] += self.set_changed
        self.num_received = self.num_sent
        self.set_changed = False
        self.totals["BUSY_NS"] += counted_ns
        self.totals["RUNNING_NS"] += len(self.running) * counted_ns
        self.totals["WAITING_NS"] += len(self.waiting) * counted_ns
        self.totals["ADAPTER_NS"] += len(self._adapters_in_batch()) * counted_ns
        self.totals["KV_BLOCK_NS"] += used_blocks * counted_ns
        if self._in_window():
            self.totals["MAX_KV_BLOCKS"] = max(self.totals["MAX_KV_BLOCKS"], used_blocks)
        self.stop_ns[stop] += counted_ns
        batch = self._adapters_in_batch()
        for request in self.waiting:
            all_taken = len(batch) == self.scenario.max_loras
            if request.passed_over and all_taken and request.adapter not in batch:
                self.slots_wait_ns[request.adapter] += counted_ns

    def _emit_tokens(self, plan: _Plan, *, counts: bool) -> list[Request]:
        """Emit a token for every request that is computed to its end; return the finished ones (R9)."""
        for request, new_tokens in plan.new_tokens.items():
            request.computed += new_tokens
            if request.computed < request.tokens:
                continue
            request.prefilling = False
            if request.generated == 0:
                request.first_token_ns = self.now_ns
            else:
                self.gap_counts[gap_bin(self.now_ns - request.last_token_ns)] += counts
            request.last_token_ns = self.now_ns
            request.generated += 1
        finished = [request for request in self.running if request.generated == request.output_tokens]
        for request in finished:
            self.running.remove(request)
            request.blocks = 0
            request.finish_ns = self.now_ns
            self.num_finished += 1
            self.set_changed |= request.adapter not in self._adapters_in_batch()
        return finished


def run_oracle(scenario: Scenario) -> Outcome:
    """Return what the plain server makes of a scenario."""
    return Oracle(scenario).run()
