"""Carry out a calibration plan on real servers: launch, hold, time, check; go on where it stopped.

Everything measured is a point that is kept before the next one begins. A point that is known is not
measured again, and a launch from which nothing is wanted any more is not made.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import structlog

from service.agent.border import next_launch
from service.agent.checking import RunPlan, run_open_loop, stream_of_run
from service.agent.design import Knowledge, expected_state, next_state, uncertain_states
from service.agent.errors import AgentError, LaunchError, PointError
from service.agent.holding import Live, Windows, hold, load_adapters, time_loads
from service.agent.materials import make_adapter
from service.agent.plan import fits, stages_of
from service.agent.points import Point
from service.agent.server import OutOfMemory
from twin.measurement_set import CHECKS, LAUNCHES, LOADS, STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from service.agent.plan import Check, Launch, LoadTime, Stage, State
    from service.agent.points import PointSink
    from service.agent.server import Started, VllmServer
    from service.agent.settings import AgentSettings
    from twin.domain import ModelShape

log = structlog.get_logger()

TRIES = 2
"""A point or launch that fails is tried so often in a session; then it is left out and told of."""


class ServerEndedError(AgentError):
    """A server that was being measured ended by itself."""


class StoppedError(AgentError):
    """Whoever asked for the calibration does not want it any more, or the agent is to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is calibrated.

    Attributes
    ----------
    base_model, model
        Its name, and its directory.
    config
        Its ``config.json``.
    shape
        The same as shapes.
    adapters
        Where random adapters are kept.
    """

    base_model: str
    model: Path
    config: Mapping[str, Any]
    shape: ModelShape
    adapters: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a calibration ended.

    Attributes
    ----------
    num_measured, num_known
        Points measured in this session, and those that were known before.
    uncertain
        What stays uncertain and why, a sentence each.
    engine_version
        As the servers said; empty where none was launched.
    """

    num_measured: int
    num_known: int
    uncertain: tuple[str, ...]
    engine_version: str


@dataclass(slots=True)
class Session:
    """One agent at work on one calibration.

    Attributes
    ----------
    settings, subject, server, sink
        What to measure and with what, and where points go.
    should_stop
        Asked between points.
    """

    settings: AgentSettings
    subject: Subject
    server: VllmServer
    sink: PointSink
    should_stop: Callable[[], bool] = lambda: False
    points: dict[str, Point] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    num_measured: int = 0
    version: str = ""
    began_s: float = field(default_factory=time.monotonic)

    def run(self) -> Summary:
        """Measure until everything is certain enough, or the budget of minutes is spent.

        Raises
        ------
        StoppedError
            `should_stop` said so.
        LaunchError
            No server starts, for a reason that is not memory.
        """
        self.points = dict(self.sink.known())
        num_known = len(self.points)
        stages = stages_of(self.settings)
        knowledge = self._knowledge(stages)
        for stage in stages:
            if self._is_spent(self.settings.start_s):
                break
            self._run_stage(stage, knowledge)
        self._find_border(min(self.settings.ranks))
        return Summary(
            num_measured=self.num_measured,
            num_known=num_known,
            uncertain=tuple(self._uncertain(stages, knowledge)),
            engine_version=self.version,
        )

    # --- Stages.

    def _run_stage(self, stage: Stage, knowledge: Knowledge) -> None:
        """Measure what a stage still wants; a server that ends on the way is started again."""
        for _ in range(TRIES + 1):
            if not self._wants(stage, knowledge):
                return
            try:
                started = self._launch(stage.launch)
                if started is not None:
                    self._measure_on(started, stage, knowledge)
            except ServerEndedError as error:
                log.error("server_ended", launch=stage.launch.key, reason=str(error))  # noqa: TRY400
                self.server.stop()
            else:
                return
        self.failures.setdefault(stage.launch.key, "its server ended again and again")

    def _measure_on(self, started: Started, stage: Stage, knowledge: Knowledge) -> None:
        live = self._live(started, stage)
        for load in stage.loads:
            self._take(load.key(stage.launch), LOADS, lambda load=load: self._time_load(live, stage, load))
        while not self._is_spent(self.settings.window_s):
            state = self._next(stage, knowledge, started.kv_tokens)
            if state is None:
                break
            row = self._take(
                state.key(stage.launch), STEPS, lambda state=state: self._hold(live, stage.launch, state)
            )
            if row is not None and state.kind != "queue":
                knowledge.learn(row, stage.launch)
        for check in stage.checks:
            self._take(
                check.key(stage.launch), CHECKS, lambda check=check: self._check(live, stage.launch, check)
            )
        self.server.stop()

    def _wants(self, stage: Stage, knowledge: Knowledge) -> bool:
        """Tell whether anything of a stage is still to be measured."""
        launch = stage.launch
        keys = [launch.key, *(one.key(launch) for one in (*stage.loads, *stage.checks))]
        if any(key not in self.points for key in keys):
            return not self._failed_for_memory(launch)
        return self._next(stage, knowledge, int(self.points[launch.key].row["kv_tokens"] or 0)) is not None

    def _failed_for_memory(self, launch: Launch) -> bool:
        point = self.points.get(launch.key)
        return point is not None and not point.row["kv_tokens"]

    def _next(self, stage: Stage, knowledge: Knowledge, kv_tokens: int) -> State | None:
        longest = min(self.subject.shape.max_model_len, kv_tokens)
        open_states = [
            state
            for state in stage.states
            if state.key(stage.launch) not in self.points
            and self._may_try(state.key(stage.launch))
            and fits(state, kv_tokens, longest)
        ]
        optional = [state for state in open_states if not state.is_required]
        found = next_state(knowledge, optional, stage.launch, self.settings.target_error)
        return found or next((state for state in open_states if state.is_required), None)

    def _knowledge(self, stages: tuple[Stage, ...]) -> Knowledge:
        terms = [expected_state(state, stage.launch) for stage in stages for state in stage.states]
        knowledge = Knowledge(np.max(terms, axis=0))
        for stage in stages:
            for state in stage.states:
                point = self.points.get(state.key(stage.launch))
                if point is not None and state.kind != "queue":
                    knowledge.learn(point.row, stage.launch)
        return knowledge

    def _uncertain(self, stages: tuple[Stage, ...], knowledge: Knowledge) -> list[str]:
        asked = [
            (state, stage.launch)
            for stage in stages
            for state in stage.states
            if state.kind != "queue" and state.key(stage.launch) not in self.points
        ]
        left_out = [f"{key} was not measured: {reason}" for key, reason in self.failures.items()]
        missing = [
            f"{key} was not measured: the time was up"
            for stage in stages
            for key in (stage.launch.key, *(one.key(stage.launch) for one in (*stage.loads, *stage.checks)))
            if key not in self.points
            and key not in self.failures
            and not self._failed_for_memory(stage.launch)
        ]
        return [*uncertain_states(knowledge, asked, self.settings.target_error), *left_out, *missing]

    # --- The memory border.

    def _find_border(self, max_lora_rank: int) -> None:
        """Bracket the largest `max_loras` that starts, from both sides of what launches so far predict."""
        while not self._is_spent(self.settings.start_s):
            launches = {
                int(point.row["max_loras"]): point.row["kv_tokens"] or 0
                for point in self.points.values()
                if point.table == LAUNCHES and int(point.row["max_lora_rank"]) == max_lora_rank
            }
            launch = next_launch(launches, max_lora_rank, self.subject.shape.max_model_len)
            if launch is None or not self._may_try(launch.key):
                return
            self._launch(launch)
            self.server.stop()

    # --- One thing at a time.

    def _launch(self, launch: Launch) -> Started | None:
        """Start a server and keep what that tells; None where it did not start."""
        self._check_stop()
        for attempt in range(1, TRIES + 1):
            try:
                outcome = self.server.start(launch)
            except LaunchError as error:
                log.error("launch_failed", launch=launch.key, attempt=attempt, reason=str(error)[-800:])  # noqa: TRY400
                self.failures[launch.key] = str(error)[:200]
                if attempt == TRIES and not any(p.table == LAUNCHES for p in self.points.values()):
                    raise
            else:
                break
        else:
            return None
        self.failures.pop(launch.key, None)
        ran_out = isinstance(outcome, OutOfMemory)
        if launch.key not in self.points:
            self._keep(
                launch.key,
                LAUNCHES,
                {
                    "max_loras": launch.max_loras,
                    "max_lora_rank": launch.max_lora_rank,
                    "kv_tokens": None if ran_out else outcome.kv_tokens,
                    "start_s": outcome.start_s,
                    "failed": str(ran_out),
                    "error": outcome.error if ran_out else "",
                },
            )
        if ran_out:
            return None
        self.version = self.version or outcome.version
        return outcome

    def _take(
        self, key: str, table: str, measure: Callable[[], Coroutine[Any, Any, dict[str, Any]]]
    ) -> dict[str, Any] | None:
        """Measure a point that is not known and keep it; None where it is known or cannot be had."""
        if key in self.points or not self._may_try(key) or self._is_spent(self.settings.window_s):
            return None
        self._check_stop()
        for attempt in range(1, TRIES + 1):
            try:
                row = asyncio.run(measure())
            except (PointError, httpx.HTTPError, TimeoutError, OSError) as error:
                reason = str(error)[:200] or repr(error)
                log.error("point_failed", key=key, attempt=attempt, reason=reason)  # noqa: TRY400
                if not self.server.answers():
                    raise ServerEndedError(f"while {key} was measured: {reason}") from error
                self.failures[key] = reason
            else:
                self.failures.pop(key, None)
                return self._keep(key, table, row)
        return None

    def _keep(self, key: str, table: str, row: dict[str, Any]) -> dict[str, Any]:
        row = {"model": self.subject.base_model} | row
        self.points[key] = Point(key=key, table=table, row=row)
        self.sink.add(self.points[key])
        self.num_measured += 1
        log.info(
            "point",
            key=key,
            **{name: row[name] for name in ("step_ms", "median_ms", "kv_tokens", "tot_tok_s") if name in row},
        )
        return row

    def _may_try(self, key: str) -> bool:
        return key not in self.failures

    def _is_spent(self, needed_s: float) -> bool:
        return time.monotonic() - self.began_s + needed_s > 60.0 * self.settings.budget_minutes

    def _check_stop(self) -> None:
        if self.should_stop():
            raise StoppedError("the calibration was stopped")

    # --- What is measured.

    def _live(self, started: Started, stage: Stage) -> Live:
        """Make every adapter that a stage's states need known to the server."""
        most = max(
            [state.adapters + (state.kind == "queue") for state in stage.states]
            + [check.adapters for check in stage.checks]
        )
        directories = self._materials(stage.launch.max_lora_rank, most)
        try:
            asyncio.run(load_adapters(started.url, directories))
        except (PointError, httpx.HTTPError) as error:
            if self.server.answers():
                raise LaunchError(f"adapters cannot be loaded: {error}") from error
            raise ServerEndedError(f"while adapters were loaded: {error!r}") from error
        return Live(
            url=started.url,
            adapters=tuple(directories),
            vocab_size=self.subject.shape.vocab_size,
            block_size=started.block_size,
        )

    def _materials(self, rank: int, count: int) -> dict[str, Path]:
        """Return the directories of made adapters of a rank by name."""
        names = [f"r{rank}-{number}" for number in range(count)]
        return {
            name: make_adapter(self.subject.adapters / name, self.subject.config, rank, seed=number)
            for number, name in enumerate(names)
        }

    async def _hold(self, live: Live, launch: Launch, state: State) -> dict[str, Any]:
        windows = Windows(ramp_s=self.settings.ramp_s, window_s=self.settings.window_s)
        row = await hold(live, state, windows)
        return row | {"max_loras": launch.max_loras, "max_lora_rank": launch.max_lora_rank}

    async def _time_load(self, live: Live, stage: Stage, load: LoadTime) -> dict[str, Any]:
        launch = stage.launch
        directories = self._materials(load.adapter_rank, launch.max_cpu_loras + 1)
        await load_adapters(live.url, directories)
        known = replace(live, adapters=tuple(directories))
        row = await time_loads(known, load, max_loras=launch.max_loras, max_cpu_loras=launch.max_cpu_loras)
        return row | {"max_lora_rank": launch.max_lora_rank}

    async def _check(self, live: Live, launch: Launch, check: Check) -> dict[str, Any]:
        """Run open-loop traffic at a share of the highest throughput that mixed states showed."""
        mixed = [
            float(point.row["tot_tok_s"])
            for point in self.points.values()
            if point.table == STEPS and point.row["kind"] == "mixed"
        ]
        if not mixed:
            raise PointError("no mixed state was held that would tell a throughput")
        tokens = float(self.settings.prompt_tokens[0] + self.settings.answer_tokens // 2)
        rate_rps = check.load * max(mixed) / tokens / check.adapters
        plan = RunPlan(
            run_id=check.key(launch),
            workload="check",
            base_model=self.subject.base_model,
            launch=launch,
            ranks=(launch.max_lora_rank,),
            rates_rps=(rate_rps,) * check.adapters,
            input_len=float(self.settings.prompt_tokens[0]),
            output_len=float(self.settings.answer_tokens // 2),
            window_s=self.settings.check_window_s,
        )
        stream = stream_of_run(plan, self.subject.shape.max_model_len)
        row, _ = await run_open_loop(live, plan, stream)
        return row
