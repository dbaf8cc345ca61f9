"""Recalibrations: a state machine whose every step may be repeated, driven by whoever is alive.

`advance` looks at a document and makes sure that what its stage needs is queued; a step that ends calls
`complete`, which moves the document on. Both may be called at any time by any process, and twice: a stage is
left once, by compare-and-swap, and a step's RQ job has one name.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import structlog

from service.errors import ConflictError, InvalidRequestError, NotFoundError
from service.observability import RECALIBRATION_STAGE
from service.services.recalibration_steps import STEP_OF, batch_of, step_of, train_steps_of
from service.services.rounds import survived
from service.storage.connection import hold
from service.storage.jobs import TRAIN_QUEUE, TWIN_QUEUE
from service.storage.recalibrations import PREFIX, Recalibration, RecalibrationStore, StageRecord
from service.storage.steps import StepQueue
from service.storage.waves import Wave
from service.tracing import traceparent

if TYPE_CHECKING:
    import numpy as np
    import redis
    from numpy.typing import NDArray

    from service.services.clock import Clock
    from service.services.measurements import MeasurementSets
    from service.services.measuring import Measuring
    from service.services.recalibration_request import RecalibrationRequest, Refresh
    from service.settings import Settings
    from service.storage.recalibrations import Stage
    from service.storage.steps import Step

BATCHES_A_WORKER = 3
LEAST_WINDOW, LARGEST_WINDOW = 4, 256
DRAINED_AT = 256
"""Results that the store holds before they are gathered to disk while a wave goes on."""

TICK_LOCK = "loadmaster:{recalibrations}:tick"

log = structlog.get_logger()


class RecalibrationService:
    """Takes recalibrations, moves them on, ends them."""

    def __init__(
        self,
        client: redis.Redis,
        measurements: MeasurementSets,
        measuring: Measuring,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._client = client
        self._store = RecalibrationStore(client)
        self._steps = StepQueue(client, settings)
        self._measurements = measurements
        self._measuring = measuring
        self._clock = clock
        self._settings = settings

    def submit(
        self, request: RecalibrationRequest, *, actor: str, request_id: str | None = None
    ) -> Recalibration:
        """Begin a recalibration, or return the one of the same target that is under way.

        Raises
        ------
        InvalidRequestError
            The measurement set has no runs of the base model.
        NotFoundError
            There is no such set.
        ConflictError
            The one under way was asked for with other measurements or another size.
        """
        self._check_set(request)
        now_s = self._clock.wall_s()
        new = Recalibration(
            job_id=f"{PREFIX}{uuid.uuid4().hex[:24]}",
            base_model=request.target.base_model,
            gpu_type=request.target.gpu_type,
            engine_version=request.target.engine_version,
            measurement_set=request.measurement_set,
            num_rows=request.num_rows or self._settings.recalibration_rows,
            seed=request.seed,
            requested_at_s=now_s,
            request_id=request_id,
            traceparent=traceparent(),
            actor=actor,
            stages=(StageRecord(stage="requested", started_at_s=now_s),),
            **_of_refresh(request.refresh),
        )
        known = self._store.add(new)
        if known.job_id != new.job_id:
            known = self._joined(known, request)
        self.advance(known.job_id)
        return self._store.get(known.job_id)

    def _check_set(self, request: RecalibrationRequest) -> None:
        if request.measurement_set is None:
            return
        known = self._measurements.get(request.measurement_set)
        if request.target.base_model not in known.base_models:
            raise InvalidRequestError(
                f"has no runs of {request.target.base_model}, only of {', '.join(known.base_models)}",
                field="measurement_set",
            )

    def _joined(self, known: Recalibration, request: RecalibrationRequest) -> Recalibration:
        """Return the job under way, given the measurements that it waits for where the request has them."""
        wanted, refresh = request.measurement_set, request.refresh
        if known.live_servers != (None if refresh is None else refresh.live_servers):
            what = "no refresh" if known.live_servers is None else "a refresh with other servers"
            raise ConflictError(f"{known.job_id} of the same target is under way, {what}")
        if request.num_rows not in {None, known.num_rows} or request.seed != known.seed:
            raise ConflictError(f"{known.job_id} of the same target is under way with another size or seed")
        if wanted in {None, known.measurement_set}:
            return known

        def given(current: Recalibration) -> Recalibration | None:
            is_waiting = current.stage in {"requested", "measuring"} and current.measurement_set is None
            return replace(current, measurement_set=wanted) if is_waiting else None

        changed = self._store.update(known.job_id, given)
        if changed is None:
            raise ConflictError(f"{known.job_id} of the same target is under way with other measurements")
        self._measuring.withdraw(known.job_id)
        return changed

    def get(self, job_id: str) -> Recalibration:
        """Return how one stands."""
        return self._store.get(job_id)

    def latest(self, limit: int) -> tuple[Recalibration, ...]:
        """Return the newest."""
        return self._store.latest(limit)

    def cancel(self, job_id: str) -> Recalibration:
        """End one that is under way; what it has published stays.

        Raises
        ------
        ConflictError
            It has ended.
        """
        changed = self._move(job_id, None, "cancelled", detail="cancelled by request")
        if changed is None:
            raise ConflictError(f"{job_id} has ended: {self._store.get(job_id).stage}")
        self._measuring.withdraw(job_id)
        self._stop_steps(changed)
        return changed

    def retry(self, job_id: str) -> Recalibration:
        """Go on with one that failed or was cancelled, at the stage where it was.

        Raises
        ------
        ConflictError
            It did not fail, or its target has another job under way by now.
        """
        now_s = self._clock.wall_s()
        busy = {one.target.calibration_id: one.job_id for one in self._store.under_way()}

        def revived(current: Recalibration) -> Recalibration | None:
            if current.stage not in {"failed", "cancelled"}:
                return None
            again = current.stages[-2].stage
            return replace(
                current.entered(again, now_s, detail="tried again"),
                generation=current.generation + 1,
                traceparent=traceparent() or current.traceparent,
                error=None,
            )

        current = self._store.get(job_id)
        other = busy.get(current.target.calibration_id)
        if other is not None and other != job_id:
            raise ConflictError(f"{other} of the same target is under way")
        if current.stage == "failed" and current.stages[-2].stage == "measuring":
            self._measuring.withdraw(job_id)  # what failed is asked for anew
        changed = self._store.update(job_id, revived)
        if changed is None:
            raise ConflictError(f"{job_id} is {current.stage}: only what failed or was cancelled is retried")
        if changed.wave is not None:
            Wave(self._client, job_id, changed.wave).expire(None)
        self.advance(job_id)
        return self._store.get(job_id)

    def tick(self) -> None:
        """Advance everything that is under way; one process at a time does."""
        period_ms = max(1, round(500 * self._settings.refresh_interval_s))
        if not hold(self._client, TICK_LOCK, period_ms):
            return
        for one in self._store.under_way():
            self.advance(one.job_id)

    def advance(self, job_id: str) -> None:
        """Make sure that what a recalibration needs next is under way."""
        current = self._store.get(job_id)
        if current.stage == "requested":
            self._begin(current)
        elif current.stage == "measuring":
            self._measure(current)
        elif current.stage == "simulating":
            self._simulate(current)
        elif current.stage in STEP_OF:
            self._ensure(current, step_of(current, STEP_OF[current.stage]))

    def complete(self, job_id: str, generation: int, stage: Stage, following: Stage, **made: Any) -> bool:
        """Leave a stage whose step has done its work; False where it was left before."""
        moved = self._move(job_id, (generation, stage), following, **made)
        if moved is None:
            return False
        if moved.has_ended:
            self._forget_simulations(moved)  # and not its steps: the last one is the caller
        else:
            self.advance(job_id)
        return True

    def note(self, job_id: str, generation: int, *, progress: float, detail: str) -> None:
        """Tell how far the present stage is."""

        def noted(current: Recalibration) -> Recalibration | None:
            if current.has_ended or current.generation != generation:
                return None
            return current.noted(progress=progress, detail=detail)

        self._store.update(job_id, noted)

    def now_s(self) -> float:
        """Return the time on the calendar, seconds since the epoch."""
        return self._clock.wall_s()

    def is_wanted(self, job_id: str, generation: int) -> bool:
        """Whether a step of this generation still has a purpose."""
        try:
            current = self._store.get(job_id)
        except NotFoundError:
            return False
        return not current.has_ended and current.generation == generation

    def _move(
        self,
        job_id: str,
        expected: tuple[int, Stage] | None,
        stage: Stage,
        *,
        detail: str = "",
        **changes: Any,
    ) -> Recalibration | None:
        now_s = self._clock.wall_s()

        def moved(current: Recalibration) -> Recalibration | None:
            if current.has_ended or (
                expected is not None and expected != (current.generation, current.stage)
            ):
                return None
            return current.entered(stage, now_s, detail=detail, **changes)

        result = self._store.update(job_id, moved)
        if result is not None:
            RECALIBRATION_STAGE.labels(stage).inc()
            log.info("recalibration_stage", job_id=job_id, stage=stage, error=result.error)
        return result

    def _fail(self, current: Recalibration, error: str) -> None:
        expected = (current.generation, current.stage)
        failed = self._move(current.job_id, expected, "failed", detail=error, error=error)
        if failed is not None:
            self._stop_steps(failed)

    def _begin(self, current: Recalibration) -> None:
        is_fitted = current.calibration_digest is not None
        following: Stage = "simulating" if is_fitted else "measuring"
        self._move(current.job_id, (current.generation, "requested"), following, detail=current.reason)
        self.advance(current.job_id)

    def _measure(self, current: Recalibration) -> None:
        expected = (current.generation, "measuring")
        if current.measurement_set is not None:
            self._move(current.job_id, expected, "fitting")  # type: ignore[arg-type]
            self.advance(current.job_id)
            return
        self._measuring.ask(current.job_id, current.target)
        outcome = self._measuring.outcome(current.job_id)
        if outcome.state == "failed":
            self._fail(current, outcome.reason)
        elif outcome.state == "done":
            detail, set_id = outcome.reason, outcome.set_id
            self._move(current.job_id, expected, "fitting", detail=detail, measurement_set=set_id)  # type: ignore[arg-type]
            self.advance(current.job_id)
        else:
            self.note(current.job_id, current.generation, progress=outcome.progress, detail=outcome.reason)

    def _simulate(self, current: Recalibration) -> None:
        wave = None if current.wave is None else Wave(self._client, current.job_id, current.wave)
        state = None if wave is None else wave.state()
        if current.wave is None or wave is None or state is None or state.is_done:
            self._ensure(current, step_of(current, "gather", str(current.wave)))
            return
        self.note(
            current.job_id,
            current.generation,
            progress=state.rows_done / max(state.num_rows, 1),
            detail=f"round {current.wave + 1}: {state.rows_done} of {state.num_rows} servers",
        )
        if state.num_held >= DRAINED_AT:
            self._ensure(current, step_of(current, "gather", f"{current.wave}-drain"))
        self.top_up(current, wave)
        for index in wave.open_batches():
            if not self._ensure(current, batch_of(current, index)):
                return

    def open_wave(self, job_id: str, generation: int, number: int, rows: NDArray[np.int64]) -> None:
        """Ask for rows to be simulated, as the wave of this number; asked twice, it is one wave."""
        Wave(self._client, job_id, number).open(rows, self._settings.rows_a_batch)

        def opened(current: Recalibration) -> Recalibration | None:
            is_next = (current.stage, current.generation) == ("simulating", generation)
            return replace(current, wave=number) if is_next else None

        if self._store.update(job_id, opened) is not None and number > 0:
            Wave(self._client, job_id, number - 1).close()
        self.advance(job_id)

    def top_up(self, current: Recalibration, wave: Wave) -> None:
        """Queue as many batches as the window has room for."""
        for index in wave.take(self._window()):
            self._steps.ensure(batch_of(current, index))

    def _window(self) -> int:
        wanted = BATCHES_A_WORKER * self._steps.num_workers(TWIN_QUEUE)
        return min(max(wanted, LEAST_WINDOW), LARGEST_WINDOW)

    def _ensure(self, current: Recalibration, step: Step) -> bool:
        """Make sure that a step is queued; one that failed for good fails the recalibration."""
        state, error = self._steps.ensure(step)
        if state == "failed":
            self._fail(current, f"{step.step_id.partition('_')[2]}: {error}")
            return False
        if state == "finished" and not self._has_moved(current, step):
            self._steps.again(step)  # what it made was lost on the way, or there is more of it to do
        return True

    def _has_moved(self, before: Recalibration, step: Step) -> bool:
        """Whether a step that has finished did what it was for, as far as the store knows."""
        now = self._store.get(before.job_id)
        if (now.stage, now.wave, now.generation) != (before.stage, before.wave, before.generation):
            return True
        if step.queue == TRAIN_QUEUE:
            return False
        assert now.wave is not None, "batches belong to a wave"
        return step.payload["index"] not in Wave(self._client, now.job_id, now.wave).open_batches()

    def _stop_steps(self, ended: Recalibration) -> None:
        for step in train_steps_of(ended):
            self._steps.stop(step.step_id)
        if ended.wave is not None:
            wave = Wave(self._client, ended.job_id, ended.wave)
            for index in wave.open_batches():
                self._steps.stop(batch_of(ended, index).step_id)
            wave.expire(self._settings.result_ttl_s)  # until then it may be tried again

    def _forget_simulations(self, ended: Recalibration) -> None:
        if ended.wave is not None:
            Wave(self._client, ended.job_id, ended.wave).close()


def _of_refresh(refresh: Refresh | None) -> dict[str, Any]:
    """Return what a refresh begins with, by the names of `Recalibration`."""
    return {} if refresh is None else asdict(refresh)


def try_tick(service: RecalibrationService) -> None:
    """Tick; a failure is counted, and the next round comes soon."""
    with survived("recalibrations", event="tick_failed"):
        service.tick()
