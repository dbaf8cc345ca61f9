"""The workload in force and its plan: kept in memory, confirmed against the store."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from service.errors import NoPlanError, ServiceError, StoreUnavailableError
from service.observability import GPUS_NEEDED, LOOP_ERRORS, PLAN_AGE
from service.schemas import GpusNeededSchema
from service.services.placement import encode_plan

if TYPE_CHECKING:
    from service.services.bounded import BoundedPool
    from service.services.placement import PlacementService, Plan
    from service.settings import Settings
    from service.storage.workloads import StoredWorkload, WorkloadStore

RETRY_AFTER_S = 5

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInForce:
    """The plan of one stored workload, and when that workload was last known to be the one in force.

    Attributes
    ----------
    version
        The stored workload's.
    answer
        Encoded, as ``POST /place`` would give it.
    confirmed_at, confirmed_at_s
        The same moment on the calendar and on the monotonic clock.
    """

    version: str
    plan: Plan
    answer: bytes
    confirmed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    confirmed_at_s: float = field(default_factory=time.monotonic)

    def confirmed_now(self) -> PlanInForce:
        """Return the same plan, confirmed at this moment."""
        return replace(self, confirmed_at=datetime.now(UTC), confirmed_at_s=time.monotonic())


class FleetService:
    """Holds the plan in force. Reads answer from memory; writes go to the store first."""

    def __init__(
        self,
        settings: Settings,
        placements: PlacementService,
        store: WorkloadStore,
        *,
        place_pool: BoundedPool,
        store_pool: BoundedPool,
    ) -> None:
        self._settings = settings
        self._placements = placements
        self._store = store
        self._place_pool = place_pool
        self._store_pool = store_pool
        self._turn = asyncio.Lock()
        self._current: PlanInForce | None = None
        self._store_up: bool | None = None

    async def put_workload(self, document: bytes) -> bytes:
        """Put a workload in force and return its plan's answer, once the store has it."""
        plan = await self._place_pool.run(lambda: self._placements.plan(document))
        async with self._turn:
            stored = await self._store_pool.run(lambda: self._store.put(document))
            self._adopt(stored, plan)
        return encode_plan(plan)

    def plan(self) -> bytes:
        """Return the plan in force, encoded.

        Raises
        ------
        NoPlanError
            There never was one.
        """
        return self._in_force().answer

    def gpus_needed(self) -> bytes:
        """Return how many GPUs the workload in force needs, encoded; never a guess.

        Raises
        ------
        NoPlanError
            There is no plan, or none of its adapters can be served: no number would be right.
        """
        current = self._in_force()
        placement, workload = current.plan.placement, current.plan.problem.workload
        if placement.num_gpus == 0:
            raise NoPlanError(
                f"has no adapter that a GPU can serve: {placement.unplaced[0].reason}",
                field="adapters",
                retry_after_s=RETRY_AFTER_S,
            )
        age_s = time.monotonic() - current.confirmed_at_s
        answer = GpusNeededSchema(
            gpus_needed=placement.num_gpus,
            raw=placement.num_gpus,
            lower_bound=placement.lower_bound,
            reason=self._reason(current, age_s),
            as_of=current.confirmed_at,
            stale=age_s > self._settings.stale_after_s,
            age_s=round(age_s, 3),
            feasible=placement.feasible,
            plan_id=current.plan.plan_id,
            base_model=workload.base_model,
            gpu_type=workload.gpu_type,
        )
        return answer.model_dump_json().encode()

    def _reason(self, current: PlanInForce, age_s: float) -> str:
        placement, workload = current.plan.placement, current.plan.problem.workload
        reason = (
            f"{workload.num_adapters} adapters offering {workload.offered_tok_s:.0f} tok/s "
            f"are planned on {placement.num_gpus} GPUs (lower bound {placement.lower_bound})"
        )
        if not placement.feasible:
            reason += f"; {len(placement.unplaced)} adapters could not be placed"
        if age_s > self._settings.stale_after_s:
            reason += f"; the workload in force could not be confirmed for {age_s:.0f} s"
        return reason

    def _in_force(self) -> PlanInForce:
        if self._current is None:
            raise NoPlanError("no workload was put in force yet", retry_after_s=RETRY_AFTER_S)
        return self._current

    async def refresh(self) -> None:
        """Confirm the plan in force against the store; adopt what another process has put there."""
        async with self._turn:
            known = self._current.version if self._current else None
            stored = await self._store_pool.run(lambda: self._store.get(known))
            if stored is None:
                return
            if stored.version == known and self._current is not None:
                self._current = self._current.confirmed_now()
                return
            plan = await self._place_pool.run(lambda: self._placements.plan(stored.document))
            self._adopt(stored, plan)
            log.info("workload_adopted", version=stored.version, num_gpus=plan.placement.num_gpus)

    def _adopt(self, stored: StoredWorkload, plan: Plan) -> None:
        self._current = PlanInForce(version=stored.version, plan=plan, answer=encode_plan(plan))
        workload = plan.problem.workload
        GPUS_NEEDED.clear()
        if plan.placement.num_gpus > 0:
            GPUS_NEEDED.labels(workload.base_model, workload.gpu_type).set(plan.placement.num_gpus)

    async def keep_fresh(self) -> None:
        """Refresh until cancelled."""
        while True:
            await asyncio.sleep(self._settings.refresh_interval_s)
            await self.try_refresh()

    async def try_refresh(self) -> None:
        """Refresh; a failure is counted, and logged when the state changes."""
        try:
            await self.refresh()
            self._note_store(up=True)
        except StoreUnavailableError:
            LOOP_ERRORS.labels("refresh").inc()
            self._note_store(up=False)
        except ServiceError as error:
            LOOP_ERRORS.labels("refresh").inc()
            log.warning("refresh_failed", code=error.code, detail=error.detail)
        except Exception:
            LOOP_ERRORS.labels("refresh").inc()
            log.exception("refresh_failed")
        if self._current is not None:
            PLAN_AGE.set(time.monotonic() - self._current.confirmed_at_s)

    @property
    def store_up(self) -> bool | None:
        """Whether the store answered the last refresh; None before the first."""
        return self._store_up

    def _note_store(self, *, up: bool) -> None:
        if up != self._store_up and not (up and self._store_up is None):
            log.warning("store_is_back" if up else "store_is_down")
        self._store_up = up
