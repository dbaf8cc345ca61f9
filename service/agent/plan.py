"""The calibration plan: which servers to launch and which states to hold them in.

A star of launches around a middle one: other slots at the same rank, other ranks at the same slots. The
middle one is held in every kind of state, the others in those that slots and rank may change. Which of a
launch's states are measured, and when to stop, is `service.agent.design`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.agent.settings import AgentSettings

Source = Literal["cpu", "disk"]
Kind = Literal["decode", "context", "prefill", "mixed", "queue"]

SPARE_CPU_LORAS = 2
"""Adapters in host memory beside those in slots, where loads are timed: few, so that disk is reached soon."""

FULL_SHARE = 0.8
"""Held states fill at most this share of the KV cache: nothing is preempted."""

LOAD_ROUNDS = 3
"""Times that each adapter's way into a slot is timed."""

SHORT_TOKENS = 4
PREFILLS = 4
"""Requests of one token's answer at a time: enough that each step computes prompts and nothing else."""

LONGEST_FACTOR = 1.5
"""Answers are drawn up to so many times their mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Flags of one server to start."""

    max_loras: int
    max_lora_rank: int
    max_cpu_loras: int

    @property
    def key(self) -> str:
        """Name of what starting it tells."""
        return f"launch/s{self.max_loras}-r{self.max_lora_rank}"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A state to hold a server in.

    Attributes
    ----------
    kind
        What it is there for.
    concurrency, adapters
        Requests open at a time, of so many adapters in turn.
    input_tokens, output_tokens
        Mean lengths.
    """

    kind: Kind
    concurrency: int
    adapters: int
    input_tokens: int
    output_tokens: int

    def key(self, launch: Launch) -> str:
        """Name of the point that it is on a launch."""
        shape = f"n{self.concurrency}-a{self.adapters}-i{self.input_tokens}-o{self.output_tokens}"
        return f"step/s{launch.max_loras}-r{launch.max_lora_rank}/{self.kind}-{shape}"

    @property
    def is_required(self) -> bool:
        """Whether it is held however certain its time is: it shows what the step law does not."""
        return self.kind in {"queue", "mixed"}

    @property
    def kv_tokens(self) -> float:
        """KV tokens that it holds at most."""
        return self.concurrency * LONGEST_FACTOR * (self.input_tokens + self.output_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTime:
    """An adapter's way into a slot to be timed."""

    adapter_rank: int
    source: Source

    def key(self, launch: Launch) -> str:
        """Name of the point that it is on a launch."""
        return f"load/s{launch.max_loras}-r{launch.max_lora_rank}/{self.source}-r{self.adapter_rank}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """An open-loop run that teaches nothing, at a share of the throughput that was held."""

    load: float
    adapters: int

    def key(self, launch: Launch) -> str:
        """Name of the point that it is on a launch."""
        return f"check/s{launch.max_loras}-r{launch.max_lora_rank}/x{self.load:g}-a{self.adapters}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A launch, and what may be measured on it."""

    launch: Launch
    states: tuple[State, ...]
    loads: tuple[LoadTime, ...]
    checks: tuple[Check, ...]


def stages_of(settings: AgentSettings) -> tuple[Stage, ...]:
    """Return the launches around the middle one, which comes first."""
    slots, ranks = sorted(set(settings.slots)), sorted(set(settings.ranks))
    middle, low = slots[len(slots) // 2], ranks[0]
    fewest = slots[0]
    flags = [(middle, low), *((count, low) for count in slots if count != middle)]
    flags += [(fewest, rank) for rank in ranks[1:]]
    return tuple(
        _stage(settings, count, rank, is_first=place == 0) for place, (count, rank) in enumerate(flags)
    )


def _stage(settings: AgentSettings, max_loras: int, max_lora_rank: int, *, is_first: bool) -> Stage:
    times_loads = max_loras == min(settings.slots)
    launch = Launch(
        max_loras=max_loras, max_lora_rank=max_lora_rank, max_cpu_loras=max_loras + SPARE_CPU_LORAS
    )
    states = full_states(settings, max_loras) if is_first else contrast_states(settings, max_loras)
    loads: tuple[LoadTime, ...] = ()
    if times_loads:
        smaller = max(max_lora_rank // 2, 1)
        loads = tuple(
            LoadTime(adapter_rank=rank, source=source)
            for rank in (max_lora_rank, smaller)
            for source in ("cpu", "disk")
        )
    checks = (
        (Check(load=0.6, adapters=max_loras), Check(load=1.4, adapters=2 * max_loras)) if is_first else ()
    )
    return Stage(launch=launch, states=states, loads=loads, checks=checks)


def full_states(settings: AgentSettings, max_loras: int) -> tuple[State, ...]:
    """Return states that tell every term of the step law apart, the widest first."""
    batches, prompts = sorted(settings.batches), sorted(settings.prompt_tokens)
    answer, middle, large = settings.answer_tokens, batches[len(batches) // 2], batches[-1]
    states = [
        _state("decode", batch, adapters, SHORT_TOKENS, answer)
        for batch in _ends_first(batches)
        for adapters in sorted({1, min(max_loras, batch)}, reverse=True)
    ]
    states += [
        _state("prefill", PREFILLS, min(max_loras, PREFILLS), tokens, 1) for tokens in _ends_first(prompts)
    ]
    states.append(_state("prefill", PREFILLS, 1, prompts[-1], 1))
    states += [_state("context", middle, min(max_loras, middle), prompts[-1], answer)]
    states += [
        _state("mixed", batch, min(max_loras, batch), prompts[0], answer // 2) for batch in (large, middle)
    ]
    queue = _state("queue", settings.queue_length, max_loras, SHORT_TOKENS, answer)
    return tuple(dict.fromkeys([*states, queue]))


def contrast_states(settings: AgentSettings, max_loras: int) -> tuple[State, ...]:
    """Return states that slots and rank may change."""
    batches, answer = sorted(settings.batches), settings.answer_tokens
    middle, large, short = batches[len(batches) // 2], batches[-1], min(settings.prompt_tokens)
    return tuple(
        dict.fromkeys(
            (
                _state("decode", large, min(max_loras, large), SHORT_TOKENS, answer),
                _state("mixed", middle, min(max_loras, middle), short, answer // 2),
                _state("decode", batches[0], 1, SHORT_TOKENS, answer),
                _state("prefill", PREFILLS, min(max_loras, PREFILLS), max(settings.prompt_tokens), 1),
                _state("decode", large, 1, SHORT_TOKENS, answer),
            )
        )
    )


def _state(kind: Kind, concurrency: int, adapters: int, input_tokens: int, output_tokens: int) -> State:
    return State(
        kind=kind,
        concurrency=concurrency,
        adapters=adapters,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
    )


def _ends_first(values: Sequence[int]) -> list[int]:
    """Return values with the largest and the smallest first: they tell most."""
    ordered = list(values)
    return [ordered[-1], ordered[0], *ordered[1:-1]] if len(ordered) > 1 else ordered


def fits(state: State, kv_tokens: int, max_num_tokens: int) -> bool:
    """Tell whether a state can be held without preemption, and its longest request served at all."""
    longest = LONGEST_FACTOR * (state.input_tokens + state.output_tokens)
    held = state.kv_tokens if state.kind != "queue" else 0.0
    return held <= FULL_SHARE * kv_tokens and longest <= max_num_tokens


def expected_minutes(settings: AgentSettings, stage: Stage) -> float:
    """Return the minutes that a stage takes if all of it is measured."""
    states_s = len(stage.states) * (settings.ramp_s + settings.window_s)
    loads_s = len(stage.loads) * LOAD_ROUNDS * (stage.launch.max_cpu_loras + 1) * 0.1
    checks_s = len(stage.checks) * settings.check_window_s
    return (settings.start_s + states_s + loads_s + checks_s) / 60.0


def plan_lines(settings: AgentSettings) -> list[str]:
    """Return the plan in words, a line each, with minutes."""
    lines, total = [], 0.0
    for stage in stages_of(settings):
        minutes = expected_minutes(settings, stage)
        total += minutes
        lines.append(
            f"max_loras {stage.launch.max_loras}, max_lora_rank {stage.launch.max_lora_rank}: launch, "
            f"up to {len(stage.states)} states, {len(stage.loads)} loads, {len(stage.checks)} checks, "
            f"up to {minutes:.1f} min"
        )
    border = 2 * settings.start_s / 60.0
    lines.append(f"the memory border at max_lora_rank {min(settings.ranks)}: 2 launches, {border:.1f} min")
    lines.append(
        f"at most {total + border:.1f} min; ends sooner where step times are certain to "
        f"{100 * settings.target_error:g} %, and after {settings.budget_minutes:g} min in any case"
    )
    return lines
