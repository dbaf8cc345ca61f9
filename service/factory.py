"""Builds the services of a process from its context; what a request needs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import ConflictError
from service.services.agents import AgentMeasuring, AgentService
from service.services.catalog import load_catalog
from service.services.clock import Clock
from service.services.drift import DriftService
from service.services.fleet import FleetService
from service.services.history import HistoryService
from service.services.jobs import JobService
from service.services.measurements import MeasurementSets
from service.services.measuring import MeasuringTarget
from service.services.placement import PlacementService
from service.services.recalibration import RecalibrationService
from service.services.recalibration_request import RecalibrationRequest
from service.services.refresh import RefreshService, Shared
from service.services.replacement import ReplacementService
from service.services.simulation import SimulationService
from service.services.verification import VerificationService
from service.services.versions import VersionService
from service.services.what_if import WhatIfService
from service.storage.activations import ActivationStore
from service.storage.agents import AgentStore
from service.storage.connection import connect
from service.storage.files import FileExchange
from service.storage.history import HistoryStore
from service.storage.jobs import JobStore
from service.storage.refreshes import RefreshStore
from service.storage.steps import StepQueue
from service.storage.versions import VersionStore
from service.storage.workers import WorkerStore
from service.storage.workloads import WorkloadStore

if TYPE_CHECKING:
    import redis

    from service.context import ProcessContext
    from service.services.catalog import Catalog
    from service.services.measuring import Measuring
    from service.settings import Settings
    from twin.domain import Calibration


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
    versions: VersionService
    measurements: MeasurementSets
    recalibrations: RecalibrationService
    jobs: JobService
    workers: WorkerStore
    agents: AgentService
    drift: DriftService
    refresh: RefreshService


def build_services(context: ProcessContext, clock: Clock | None = None) -> Services:
    """Return the services of this process; without a clock, the machine's."""
    settings = context.settings
    clock = clock or Clock()
    placements = PlacementService(context.catalog, settings)
    jobs = JobStore(context.client, settings)
    fleet = FleetService(
        settings,
        placements,
        WorkloadStore(context.client),
        clock,
        place_pool=context.place_pool,
        store_pool=context.store_pool,
    )
    recalibrations = build_recalibrations(context.client, context.files, settings, clock)
    activations = ActivationStore(context.client, settings.activations_path)
    versions = VersionService(context.catalog, context.versions, activations, clock)
    versions.start()
    agents, measurements = AgentStore(context.client), MeasurementSets(context.files)
    return Services(
        context=context,
        placements=placements,
        replacements=ReplacementService(placements, settings),
        what_ifs=WhatIfService(placements, settings),
        fleet=fleet,
        history=HistoryService(
            settings, fleet, HistoryStore(context.client), clock, store_pool=context.store_pool
        ),
        simulations=SimulationService(context.catalog, jobs, settings),
        verifications=VerificationService(jobs, settings, context.store_pool),
        versions=versions,
        measurements=measurements,
        recalibrations=recalibrations,
        jobs=JobService(jobs, recalibrations),
        workers=WorkerStore(context.client, settings),
        agents=AgentService(agents, measurements, settings, clock),
        drift=DriftService(
            agents, lambda: _calibrations(context), settings, clock, lambda name: _begin(recalibrations, name)
        ),
        refresh=RefreshService(
            RefreshStore(context.client),
            Shared(files=context.files, versions=context.versions, measurements=measurements),
            recalibrations,
            StepQueue(context.client, settings),
            settings,
            clock,
        ),
    )


def _calibrations(context: ProcessContext) -> dict[str, Calibration]:
    return {name: target.calibration for name, target in context.catalog.targets.items()}


def _begin(recalibrations: RecalibrationService, calibration_id: str) -> None:
    """Begin a recalibration that drift calls for; one that is under way is enough."""
    gpu_type, base_model, engine_version = calibration_id.split("/")
    target = MeasuringTarget(base_model=base_model, gpu_type=gpu_type, engine_version=engine_version)
    with suppress(ConflictError):
        recalibrations.submit(RecalibrationRequest(target=target), actor="drift")


def build_recalibrations(
    client: redis.Redis, files: FileExchange, settings: Settings, clock: Clock
) -> RecalibrationService:
    """Return what moves recalibrations on, in whatever process."""
    measurements, measuring = MeasurementSets(files), build_measuring(client, settings, clock)
    return RecalibrationService(client, measurements, measuring, clock, settings)


def build_jobs(client: redis.Redis, settings: Settings) -> JobService:
    """Return the jobs as a command acts on them: nothing that plans is loaded."""
    files = FileExchange(settings.data_dir, client)
    return JobService(JobStore(client, settings), build_recalibrations(client, files, settings, Clock()))


def build_measuring(client: redis.Redis, settings: Settings, clock: Clock) -> Measuring:
    """Return whoever measures live servers for recalibrations: agents."""
    return AgentMeasuring(AgentStore(client), settings, clock)


def build_versions(files: FileExchange, client: redis.Redis, settings: Settings) -> VersionService:
    """Return the versions as a process without a catalog of its own acts on them: a step, a command."""
    activations = ActivationStore(client, settings.activations_path)
    return VersionService(load_catalog(), VersionStore(files), activations, Clock())


def local_catalog(settings: Settings) -> Catalog:
    """Return what this host knew to be in force last, without asking the store."""
    catalog, client = load_catalog(), connect(settings)
    versions = VersionStore(FileExchange(settings.data_dir, client))
    VersionService(catalog, versions, ActivationStore(client, settings.activations_path), Clock()).start()
    client.close()
    return catalog
