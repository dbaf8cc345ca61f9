"""The functions that workers run. Arguments and results are JSON; equal arguments, equal results."""

from __future__ import annotations

import os
import time
from typing import Any

import orjson
import structlog

from service.schemas.simulation import SimulateRequest, report_document
from service.services.catalog import Catalog
from service.services.placement import PlacementService, encode_plan
from service.settings import Settings
from service.storage.connection import connect
from service.storage.files import FileExchange
from service.storage.versions import VersionStore
from twin.simulate import TWIN_VERSION, simulate

log = structlog.get_logger()


def run_simulation(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a report of the twin (`service.schemas.simulation.SimulateRequest`), its calibration named."""
    request = SimulateRequest.model_validate(payload["request"])
    assert request.calibration_id is not None, "a queued run names its calibration"
    calibration = _versions(Settings()).calibration(request.calibration_id, payload["calibration_digest"])
    started = time.perf_counter()
    workload = request.workload.to_domain()
    report = simulate(
        workload,
        request.server_config(),
        calibration,
        horizon_s=request.horizon_s,
        seed=request.seed,
    )
    log.info("simulated", job_id=os.environ.get("RQ_JOB_ID"), wall_s=round(time.perf_counter() - started, 3))
    document = dict(report_document(report, workload.adapter_ids))
    return document | {"calibration_id": request.calibration_id, "twin_version": TWIN_VERSION}


def run_verification(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the plan of a workload document as it is after its replay (`service.schemas.plan.PlanSchema`).

    The plan is made again, with the version that made it: the same document and surrogate give the same one.
    """
    started = time.perf_counter()
    settings = Settings()
    target = _versions(settings).load(payload["calibration_id"], payload["surrogate_version"])
    placements = PlacementService(Catalog(targets={payload["calibration_id"]: target}), settings)
    plan = placements.verified(payload["document"].encode())
    log.info(
        "verified",
        job_id=os.environ.get("RQ_JOB_ID"),
        status=plan.verification["status"],
        wall_s=round(time.perf_counter() - started, 3),
    )
    return orjson.loads(encode_plan(plan))


def _versions(settings: Settings) -> VersionStore:
    return VersionStore(FileExchange(settings.data_dir, connect(settings)))
