"""The workloads in force and their plans: kept in memory, confirmed against the store."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from placer.problem import DEFAULT_NUM_TRIALS
from service.errors import (
    ConflictError,
    InvalidRequestError,
    NoPlanError,
    ServiceError,
    StoreUnavailableError,
)
from service.observability import LOOP_ERRORS
from service.services.bounded import BoundedTurn
from service.services.gauges import forget_plan, show_age, show_plan
from service.services.in_force import PlanInForce, plan_in_force
from service.services.rates import with_rates
from service.services.scaling import ScaleWindow, first_window, gpus_with_margin
from service.storage.workloads import WITHDRAWN, FleetKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.schemas.fleet import RatesRequest
    from service.services.bounded import BoundedPool
    from service.services.clock import Clock
    from service.services.placement import PlacementService, Plan
    from service.settings import Settings
    from service.storage.workloads import StoredWorkload, WorkloadStore

RETRY_AFTER_S = 5
NUM_TRIES = 4
"""Attempts to write a workload that another process writes at the same time."""

log = structlog.get_logger()


class FleetService:
    """Holds the plans in force. Reads answer from memory; writes go to the store first."""

    def __init__(
        self,
        settings: Settings,
        placements: PlacementService,
        store: WorkloadStore,
        clock: Clock,
        *,
        place_pool: BoundedPool,
        store_pool: BoundedPool,
    ) -> None:
        self._settings = settings
        self._placements = placements
        self._store = store
        self._clock = clock
        self._place_pool = place_pool
        self._store_pool = store_pool
        self._turn = asyncio.Lock()
        self._writes = BoundedTurn(
            self._turn,
            "writes of workloads",
            backlog=settings.place_backlog,
            deadline_s=settings.place_deadline_s,
        )
        self._plans: dict[FleetKey, PlanInForce] = {}
        self._failures: dict[FleetKey, str] = {}
        self._store_up: bool | None = None
        self._news = asyncio.Event()

    async def put_workload(self, document: bytes) -> bytes:
        """Put a workload in force beside those of other keys and return its plan, once the store has it."""
        plan, held = await self._place_pool.run(lambda: self._sized(document))
        key = _key_of(plan)
        async with self._writes.taken():
            for _ in range(NUM_TRIES):
                if await self._write(key, document, plan, held):
                    return self._plans[key].answer
                await self._follow(key)
        raise _too_busy(key)

    async def patch_rates(self, key: FleetKey, request: RatesRequest) -> bytes:
        """Replace some rates of the workload in force and return the new plan, once the store has it.

        Raises
        ------
        InvalidRequestError
            Naming a rate or an adapter that the workload does not have.
        """
        async with self._writes.taken():
            for _ in range(NUM_TRIES):
                current = self._in_force(*key)
                changed = current.document
                document = await self._place_pool.run(lambda old=changed: with_rates(old, request))
                plan, held = await self._place_pool.run(lambda new=document: self._sized(new))
                if await self._write(key, document, plan, held):
                    return self._plans[key].answer
                await self._follow(key)
        raise _too_busy(key)

    async def withdraw(self, key: FleetKey) -> None:
        """Take a workload out of force, once the store has acknowledged it."""
        async with self._writes.taken():
            for _ in range(NUM_TRIES):
                version = self._in_force(*key).version
                if await self._store_pool.run(lambda old=version: self._store.withdraw(key, expected=old)):
                    self._forget(key)
                    return
                await self._follow(key)
        raise _too_busy(key)

    def chosen(self, base_model: str | None, gpu_type: str | None) -> FleetKey:
        """Return the key of the one workload in force that is meant.

        Raises
        ------
        NoPlanError
            None is in force.
        InvalidRequestError
            Several are.
        """
        return self._in_force(base_model, gpu_type).key

    def plan_of(self, base_model: str | None, gpu_type: str | None) -> Plan:
        """Return the plan in force that is meant; raises as `chosen`."""
        return self._in_force(base_model, gpu_type).plan

    def plan(self, key: FleetKey) -> bytes:
        """Return the plan in force for a key, encoded."""
        return self._plans[key].answer

    def document(self, key: FleetKey) -> bytes:
        """Return the workload in force for a key, as it was put."""
        return self._plans[key].document

    def gpus_needed(self, key: FleetKey) -> bytes:
        """Return how many GPUs to ask for, encoded; never a guess.

        Raises
        ------
        NoPlanError
            Since this key is in force no adapter of it could be served: no number would be right.
        """
        return self._plans[key].gpus_needed(
            now_s=self._clock.monotonic_s(),
            wall_s=self._clock.wall_s(),
            settings=self._settings,
            failure=self._failures.get(key),
        )

    @property
    def in_force(self) -> Iterable[PlanInForce]:
        """The plans in force, by name."""
        return [self._plans[key] for key in sorted(self._plans)]

    def _in_force(self, base_model: str | None, gpu_type: str | None) -> PlanInForce:
        asked = {"base_model": base_model, "gpu_type": gpu_type}
        found = [
            plan
            for key, plan in self._plans.items()
            if base_model in {None, key.base_model} and gpu_type in {None, key.gpu_type}
        ]
        if not found:
            told = ", ".join(f"{name} {value!r}" for name, value in asked.items() if value is not None)
            raise NoPlanError(
                f"no workload{' of ' + told if told else ''} is in force",
                retry_after_s=RETRY_AFTER_S,
            )
        if len(found) > 1:
            field = "base_model" if len({plan.key.base_model for plan in found}) > 1 else "gpu_type"
            known = ", ".join(sorted({getattr(plan.key, field) for plan in found}))
            raise InvalidRequestError(
                f"must be given, {len(found)} workloads are in force: {known}", field=field
            )
        return found[0]

    def _sized(self, document: bytes) -> tuple[Plan, int]:
        plan = self._placements.plan(document, default_trials=DEFAULT_NUM_TRIALS)
        return plan, gpus_with_margin(plan.problem, plan.placement, self._settings.rate_noise)

    async def _write(self, key: FleetKey, document: bytes, plan: Plan, held: int) -> bool:
        """Write a workload that follows the one we know; False where the store has another one."""
        known = self._plans.get(key)
        window = self._observed(known.window if known else None, plan, held)
        stored = await self._store_pool.run(
            lambda: self._store.put(key, document, window, expected=known.version if known else None)
        )
        if stored is None:
            return False
        self._adopt(key, stored, plan)
        return True

    def _observed(self, window: ScaleWindow | None, plan: Plan, held: int) -> ScaleWindow | None:
        raw = plan.placement.num_gpus
        if raw == 0:  # nothing can be served: no reason to close what runs
            return window
        if window is None:
            return first_window(raw=raw, held=held)
        now_s = self._clock.wall_s()
        return window.observed(now_s, raw=raw, held=held, window_s=self._settings.scale_down_window_s)

    async def _follow(self, key: FleetKey) -> None:
        """Adopt what the store has for a key."""
        stored = await self._store_pool.run(lambda: self._store.get(key))
        if stored is None:
            self._forget(key)
            return
        plan, held = await self._place_pool.run(lambda: self._sized(stored.document))
        self._adopt(key, stored, plan, self._observed(stored.window, plan, held))
        log.info(
            "workload_adopted", version=stored.version, num_gpus=plan.placement.num_gpus, **key._asdict()
        )

    def _adopt(
        self, key: FleetKey, stored: StoredWorkload, plan: Plan, window: ScaleWindow | None = None
    ) -> None:
        current = plan_in_force(key, stored, plan, window or stored.window, self._clock)
        self._plans[key] = current
        self._failures.pop(key, None)
        show_plan(current, self._clock, self._settings)

    def _forget(self, key: FleetKey) -> None:
        self._failures.pop(key, None)
        if self._plans.pop(key, None) is not None:
            forget_plan(key)

    async def refresh(self) -> None:
        """Confirm the plans in force against the store; adopt what other processes have put there.

        A workload is planned anew when another surrogate came into force.

        A workload that is missing from the store without having been withdrawn is not forgotten: the
        store has lost its data, and the plan goes stale.
        """
        async with self._turn:
            versions = await self._store_pool.run(self._store.versions)
            for key, version in versions.items():
                known = self._plans.get(key)
                if version == WITHDRAWN:
                    self._forget(key)
                elif known is not None and known.version == version and self._is_current(known):
                    self._plans[key] = known.confirmed(self._clock)
                else:
                    await self._try_follow(key)
            for key in self._plans.keys() - versions.keys():
                self._failures[key] = "the store has no such workload"

    def _is_current(self, known: PlanInForce) -> bool:
        """Whether another surrogate in force would not plan anew; replicas then agree on the plan."""
        return self._placements.is_current(known.plan)

    async def _try_follow(self, key: FleetKey) -> None:
        """Adopt a workload; one that cannot be planned here leaves the plan before and the others alone."""
        try:
            await self._follow(key)
        except StoreUnavailableError:
            raise
        except Exception as error:
            LOOP_ERRORS.labels("refresh").inc()
            reason = f"the workload of the store cannot be planned: {error}"
            if self._failures.get(key) != reason:
                log.warning("workload_refused", reason=str(error), exc_info=error, **key._asdict())
            self._failures[key] = reason

    def hear(self) -> None:
        """Have the plans in force refreshed now: another process has written."""
        self._news.set()

    async def keep_fresh(self) -> None:
        """Refresh at news, and now and then without, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.refresh_interval_s):
                    await self._news.wait()
            self._news.clear()
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
        for plan in self._plans.values():
            show_age(plan, self._clock, self._settings)

    @property
    def store_up(self) -> bool | None:
        """Whether the store answered the last refresh; None before the first."""
        return self._store_up

    def _note_store(self, *, up: bool) -> None:
        if up != self._store_up and not (up and self._store_up is None):
            log.warning("store_is_back" if up else "store_is_down")
        self._store_up = up


def _key_of(plan: Plan) -> FleetKey:
    workload = plan.problem.workload
    return FleetKey(workload.base_model, workload.gpu_type)


def _too_busy(key: FleetKey) -> ConflictError:
    return ConflictError(
        f"the workload of {key.base_model} on {key.gpu_type} is being written by others", retry_after_s=1
    )
