"""Refreshes: a surrogate is taught anew, with what runs, where plans in force leave what it was taught.

A round looks at every GPU of the plans in force. One calls for twin runs where a feature leaves the trained
range, or where few of the runs that taught are near it. What such GPUs serve is kept, without names; once
some leave the range, or there are enough of them, a recalibration is proposed or begun that simulates them
and their neighbourhood beside the design. It measures nothing: the calibration stays.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import structlog

from models.features import FEATURE_NAMES, aggregate, features_of
from models.live import MAX_SERVERS, LiveServers, live_server
from placer.explain import server_config
from service.errors import ConflictError, InvalidRequestError, NotFoundError
from service.observability import REFRESH_ROUNDS
from service.services.measuring import MeasuringTarget
from service.services.recalibration_request import RecalibrationRequest, Refresh
from service.services.rounds import survived
from service.storage.coverage import coverage_of
from service.storage.jobs import TRAIN_QUEUE
from service.storage.refreshes import RefreshState, keep_live_servers
from service.storage.steps import Step

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from models.coverage import Coverage
    from models.live import LiveServer
    from models.surrogate import Surrogate
    from service.services.clock import Clock
    from service.services.in_force import PlanInForce
    from service.services.measurements import MeasurementSets
    from service.services.placement import PlacementService, Plan
    from service.services.recalibration import RecalibrationService
    from service.settings import Settings
    from service.storage.files import FileExchange
    from service.storage.recalibrations import Recalibration
    from service.storage.refreshes import RefreshStore
    from service.storage.steps import StepQueue
    from service.storage.versions import VersionStore

LEAST_NEAR = 4.0
"""Twin runs near a GPU, below which there are few."""

ENOUGH_SERVERS = 8
"""Servers with few runs near them that are worth a recalibration, where none leaves the range."""

FEW_NEAR = "few twin runs near"
ACTOR = "refresh"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """A GPU of a plan: what it serves, its features, and where these leave the trained range.

    One that leaves it nowhere is thin where few of the runs that taught are near it.
    """

    server: LiveServer
    row: NDArray[np.float32]
    out_of_range: tuple[str, ...]
    is_thin: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What hosts share: files, versions among them, and measurement sets."""

    files: FileExchange
    versions: VersionStore
    measurements: MeasurementSets


class RefreshService:
    """Looks at plans in force, proposes recalibrations with what they run, and begins them."""

    def __init__(
        self,
        store: RefreshStore,
        shared: Shared,
        recalibrations: RecalibrationService,
        steps: StepQueue,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._store = store
        self._files = shared.files
        self._versions = shared.versions
        self._measurements = shared.measurements
        self._recalibrations = recalibrations
        self._steps = steps
        self._settings = settings
        self._clock = clock

    def tick(self, plans: Iterable[Plan]) -> None:
        """Look at the plans that nobody has looked at for a period; one process at a time does."""
        period_ms = round(1000 * self._settings.refresh_period_s)
        if period_ms == 0:
            return
        for plan in plans:
            surrogate = plan.problem.surrogate
            names = surrogate.calibration_id, surrogate.version
            if self._store.take_turn(*names, period_ms):
                state = self.look(plan)
                if state.num_thin is not None:  # else again soon: a worker is about to tell
                    self._store.end_turn(*names, period_ms)

    def look(self, plan: Plan) -> RefreshState:
        """Compare a plan with what its surrogate was taught; returns what is kept of it."""
        seen, before = self._seen(plan)
        wanted = chosen([one for one in seen if one.out_of_range or one.is_thin])
        state = self._answered(replace(before, live=_pool(wanted, before.live)), plan, _reasons(seen))
        self._store.put(state)
        return state

    def ask(
        self, plan: Plan, asked: RecalibrationRequest, *, actor: str, request_id: str | None = None
    ) -> Recalibration:
        """Begin a recalibration with what a plan runs, whether it is called for or not.

        Raises
        ------
        InvalidRequestError
            The plan has no GPU, is of another engine version, or measurements came with the request.
        ConflictError
            Another one of the same target is under way.
        """
        _check(asked, plan.problem.surrogate)
        seen, before = self._seen(plan)
        live = _pool(chosen(seen), before.live)
        if live is None:
            raise InvalidRequestError("has no plan with a GPU in force", field="base_model")
        request = self._request(plan, live, f"refresh by request; live servers: {len(live.servers)}")
        request = replace(request, num_rows=asked.num_rows, seed=asked.seed)
        job = self._recalibrations.submit(request, actor=actor, request_id=request_id)
        done = tuple(sorted({*before.asked, *_reasons(seen)}))
        self._store.put(replace(before, live=live, asked=done, job_id=job.job_id))
        return job

    def known(self) -> tuple[RefreshState, ...]:
        """Return what rounds saw, by calibration id."""
        return self._store.known()

    def _seen(self, plan: Plan) -> tuple[list[Seen], RefreshState]:
        """Return the GPUs of a plan, and how it stands; what earlier looks at its surrogate kept is kept."""
        surrogate = plan.problem.surrogate
        coverage = self._coverage(surrogate)
        seen = seen_of(plan, coverage)
        before = self._store.get(surrogate.calibration_id)
        if before is None or before.surrogate_version != surrogate.version:
            before = RefreshState(
                calibration_id=surrogate.calibration_id, surrogate_version=surrogate.version
            )
        return seen, replace(
            before,
            as_of=datetime.fromtimestamp(self._clock.wall_s(), UTC).isoformat(),
            num_gpus=len(seen),
            out_of_range=_counted(seen),
            num_out_of_range=sum(bool(one.out_of_range) for one in seen),
            num_thin=None if coverage is None else sum(one.is_thin for one in seen),
            proposal="",
        )

    def _answered(self, state: RefreshState, plan: Plan, reasons: Collection[str]) -> RefreshState:
        """Return the state after what it calls for was begun or proposed; nothing is begun twice."""
        num_live = 0 if state.live is None else len(state.live.servers)
        if not reasons:
            return _told(state, "covered")
        if state.live is None or (state.num_out_of_range == 0 and num_live < ENOUGH_SERVERS):
            return _told(state, "waiting")
        if not set(reasons) - set(state.asked):
            return _told(state, "asked_before")
        reason = _sentence(state)
        if not self._settings.refresh_recalibrates:
            how = "POST /recalibrate with refresh, or loadmaster recalibrate --refresh"
            return _told(replace(state, proposal=f"{reason}: refresh ({how})"), "proposed")
        try:
            request = self._request(plan, state.live, f"refresh: {reason}")
            job = self._recalibrations.submit(request, actor=ACTOR)
        except ConflictError as error:
            return _told(replace(state, proposal=f"{reason}: {error.detail}"), "busy")
        log.info("refresh_begun", job_id=job.job_id, calibration_id=state.calibration_id, reason=reason)
        asked = tuple(sorted({*state.asked, *reasons}))
        return _told(replace(state, asked=asked, job_id=job.job_id), "begun")

    def _request(self, plan: Plan, live: LiveServers, reason: str) -> RecalibrationRequest:
        """Return the recalibration that simulates live servers on the calibration in force."""
        calibration = plan.problem.calibration
        return RecalibrationRequest(
            target=MeasuringTarget(
                base_model=calibration.base_model,
                gpu_type=calibration.gpu_type,
                engine_version=calibration.engine_version,
            ),
            measurement_set=self._measurement_set(plan.problem.surrogate),
            refresh=Refresh(
                calibration_digest=self._versions.publish_calibration(calibration),
                live_servers=keep_live_servers(self._files, calibration.calibration_id, live),
                reason=reason,
            ),
        )

    def _measurement_set(self, surrogate: Surrogate) -> str | None:
        """Return the set that the calibration in force was fitted to, None where it is not at hand."""
        with suppress(NotFoundError):
            version = self._versions.version(surrogate.calibration_id, surrogate.version)
            set_id = version.lineage.measurement_set
            return None if set_id is None else self._measurements.get(set_id).set_id
        return None

    def _coverage(self, surrogate: Surrogate) -> Coverage | None:
        """Return where a surrogate was taught, None where a worker has yet to tell."""
        names = surrogate.calibration_id, surrogate.version
        try:
            return coverage_of(self._files, *names)
        except NotFoundError:
            self._steps.ensure(
                Step(
                    step_id=f"survey-{surrogate.version}",
                    name="survey",
                    queue=TRAIN_QUEUE,
                    function="service.steps.survey.run",
                    payload={"calibration_id": names[0], "surrogate_version": names[1]},
                )
            )
            return None


def _check(asked: RecalibrationRequest, surrogate: Surrogate) -> None:
    if asked.measurement_set is not None:
        raise InvalidRequestError("must be left out: a refresh measures nothing", field="measurement_set")
    if asked.target.calibration_id != surrogate.calibration_id:
        raise InvalidRequestError(
            f"must be that of the plan in force, {surrogate.calibration_id}", field="engine_version"
        )


def seen_of(plan: Plan, coverage: Coverage | None) -> list[Seen]:
    """Return the GPUs of a plan beside what its surrogate was taught."""
    problem = plan.problem
    found = []
    for gpu in plan.placement.gpus:
        part = problem.workload.subset(gpu.rows)
        row, _ = features_of(aggregate(part), gpu.max_loras, gpu.max_lora_rank, problem.surrogate.calibration)
        outside = problem.surrogate.out_of_range(row)
        found.append(
            Seen(
                server=live_server(part, server_config(gpu, problem)),
                row=row,
                out_of_range=outside,
                is_thin=not outside and coverage is not None and coverage.near(row) < LEAST_NEAR,
            )
        )
    return found


def chosen(seen: Sequence[Seen], limit: int = MAX_SERVERS) -> list[Seen]:
    """Return up to `limit` different servers that stand for all.

    First those that go farthest in a feature that leaves the range, then, one by one, the one that is
    farthest from all that were taken.
    """
    different = list({one.server: one for one in seen}.values())
    if len(different) <= limit:
        return different
    rows = np.stack([one.row for one in different]).astype(np.float64)
    taken = _farthest_out(different, rows)[:limit] or [0]
    scaled = np.log1p(np.abs(rows))
    scaled /= np.maximum(np.ptp(scaled, axis=0), 1e-9)
    apart = np.min([np.abs(scaled - scaled[place]).sum(axis=1) for place in taken], axis=0)
    while len(taken) < limit:
        place = int(np.argmax(apart))
        taken.append(place)
        apart = np.minimum(apart, np.abs(scaled - scaled[place]).sum(axis=1))
    return [different[place] for place in taken]


def _farthest_out(seen: Sequence[Seen], rows: NDArray[np.float64]) -> list[int]:
    """Return the places of the least and the greatest of each feature that leaves the range."""
    names = sorted({name for one in seen for name in one.out_of_range})
    columns = [FEATURE_NAMES.index(name) for name in names]
    ends = [int(find(rows[:, column])) for column in columns for find in (np.argmin, np.argmax)]
    return list(dict.fromkeys(ends))


def _pool(wanted: Sequence[Seen], before: LiveServers | None) -> LiveServers | None:
    """Return what is to be simulated: the newest servers, and those of earlier rounds while there is room."""
    earlier = () if before is None else before.servers
    servers = tuple(dict.fromkeys([*(one.server for one in wanted), *earlier]))[:MAX_SERVERS]
    return LiveServers(servers=servers) if servers else None


def _reasons(seen: Sequence[Seen]) -> set[str]:
    found = {name for one in seen for name in one.out_of_range}
    return found | ({FEW_NEAR} if any(one.is_thin for one in seen) else set())


def _counted(seen: Sequence[Seen]) -> dict[str, int]:
    names = [name for one in seen for name in one.out_of_range]
    return {name: names.count(name) for name in sorted(set(names))}


def _sentence(state: RefreshState) -> str:
    told = []
    if state.num_out_of_range:
        features = ", ".join(state.out_of_range)
        told.append(
            f"GPUs out of the trained range: {state.num_out_of_range} of {state.num_gpus} ({features})"
        )
    if state.num_thin:
        told.append(f"GPUs with few twin runs near them: {state.num_thin} of {state.num_gpus}")
    return "; ".join(told)


def _told(state: RefreshState, outcome: str) -> RefreshState:
    REFRESH_ROUNDS.labels(outcome).inc()
    return state


def try_round(service: RefreshService, placements: PlacementService, in_force: Iterable[PlanInForce]) -> None:
    """Look at the plans of the surrogates in force; a failure is counted, and the next round comes soon."""
    with survived("refresh", event="refresh_round_failed"):
        service.tick([one.plan for one in in_force if placements.is_current(one.plan)])
