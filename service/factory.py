"""Builds the services of a process from its context; what a request needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.services.clock import Clock
from service.services.fleet import FleetService
from service.services.history import HistoryService
from service.services.placement import PlacementService
from service.services.replacement import ReplacementService
from service.services.simulation import SimulationService
from service.services.verification import VerificationService
from service.services.what_if import WhatIfService
from service.storage.history import HistoryStore
from service.storage.jobs import JobStore
from service.storage.workloads import WorkloadStore

if TYPE_CHECKING:
    from service.context import ProcessContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The services of one process."""

    context: ProcessContext
    placements: PlacementService
    replacements: ReplacementService
    what_ifs: WhatIfService
    fleet: FleetService
    history: HistoryService
    simulations: SimulationService
    verifications: VerificationService
    workloads: WorkloadStore


def build_services(context: ProcessContext, clock: Clock | None = None) -> Services:
    """Return the services of this process; without a clock, the machine's."""
    settings = context.settings
    clock = clock or Clock()
    placements = PlacementService(context.catalog, settings)
    workloads = WorkloadStore(context.client)
    jobs = JobStore(context.client, settings)
    fleet = FleetService(
        settings,
        placements,
        workloads,
        clock,
        place_pool=context.place_pool,
        store_pool=context.store_pool,
    )
    return Services(
        context=context,
        placements=placements,
        replacements=ReplacementService(placements, settings),
        what_ifs=WhatIfService(placements, settings),
        workloads=workloads,
        fleet=fleet,
        history=HistoryService(
            settings, fleet, HistoryStore(context.client), clock, store_pool=context.store_pool
        ),
        simulations=SimulationService(context.catalog, jobs, settings),
        verifications=VerificationService(jobs, settings, context.store_pool),
    )
