"""How the number of GPUs changed over time, beside what was reported to run."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from service.schemas.fleet import HistoryPointSchema, HistorySchema
from service.services.rounds import survived
from service.storage.history import GpuCounts, RunningReport

if TYPE_CHECKING:
    from service.services.bounded import BoundedPool
    from service.services.clock import Clock
    from service.services.fleet import FleetService
    from service.settings import Settings
    from service.storage.history import HistoryStore
    from service.storage.workloads import FleetKey

REPORT_LIFE_S = 900
"""A report of what runs counts for this long; its reporter repeats it."""


class HistoryService:
    """Writes down each change; reads come from the store."""

    def __init__(
        self,
        settings: Settings,
        fleet: FleetService,
        store: HistoryStore,
        clock: Clock,
        *,
        store_pool: BoundedPool,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._store = store
        self._clock = clock
        self._pool = store_pool
        self._written: dict[FleetKey, GpuCounts] = {}

    async def points(self, key: FleetKey, limit: int) -> bytes:
        """Return the newest changes of a workload in force, encoded."""
        found = await self._pool.run(lambda: self._store.points(key, limit))
        points = [
            HistoryPointSchema(
                at=datetime.fromtimestamp(point.at_s, UTC),
                gpus_needed=point.counts.gpus_needed,
                planned=point.counts.planned,
                running=point.counts.running,
            )
            for point in found
        ]
        answer = HistorySchema(base_model=key.base_model, gpu_type=key.gpu_type, points=points)
        return answer.model_dump_json().encode()

    async def report_running(self, key: FleetKey, num_gpus: int) -> None:
        """Remember how many GPUs run, and write the change down."""
        report = RunningReport(num_gpus=num_gpus, at_s=self._clock.wall_s())
        await self._pool.run(lambda: self._store.report(key, report))
        await self.record()

    async def record(self) -> None:
        """Write down what changed since this process last did."""
        present = await self._pool.run(self._present)
        for key, counts in present.items():
            if self._written.get(key) != counts:
                await self._pool.run(lambda key=key, counts=counts: self._store.append(key, counts))
        self._written = present

    def _present(self) -> dict[FleetKey, GpuCounts]:
        reports = self._store.reports()
        now_s = self._clock.wall_s()
        found: dict[FleetKey, GpuCounts] = {}
        for current in self._fleet.in_force:
            if current.window is None:
                continue
            report = reports.get(current.key)
            is_fresh = report is not None and now_s - report.at_s < REPORT_LIFE_S
            found[current.key] = GpuCounts(
                gpus_needed=current.window.level_at(now_s, self._settings.scale_down_window_s),
                planned=current.plan.placement.num_gpus or None,
                running=report.num_gpus if report is not None and is_fresh else None,
            )
        return found

    async def keep(self) -> None:
        """Record until cancelled."""
        while True:
            await asyncio.sleep(self._settings.refresh_interval_s)
            with survived("history", event="history_failed"):
                await self.record()
