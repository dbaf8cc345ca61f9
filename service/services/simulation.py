"""Twin runs as jobs: check, queue once, tell how they stand."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson

from service.errors import InvalidRequestError
from service.schemas.border import parse
from service.schemas.simulation import SimulateRequest
from service.services.limits import check_size
from twin.calibration import calibration_digest, load_calibration, shipped_calibration_ids
from twin.errors import InvalidInputError
from twin.simulate import TWIN_VERSION, check_server

if TYPE_CHECKING:
    from service.services.catalog import Catalog
    from service.settings import Settings
    from service.storage.jobs import JobRecord, JobStore
    from twin.domain import Calibration

JOB_FUNCTION = "service.worker.jobs.run_simulation"


class SimulationService:
    """Takes twin runs and answers how they stand."""

    def __init__(self, catalog: Catalog, jobs: JobStore, settings: Settings) -> None:
        self._catalog = catalog
        self._jobs = jobs
        self._settings = settings

    def submit(self, document: bytes) -> JobRecord:
        """Queue a run; the same run asked for again is the same job.

        Raises
        ------
        ServiceError
            Naming the field; nothing that cannot run is queued.
        """
        request = parse(SimulateRequest, document)
        check_size(len(request.workload.adapters), self._settings, "workload.adapters")
        calibration = self._calibration(request)
        try:
            workload = request.workload.to_domain()
            check_server(workload.rank, request.server_config(), calibration)
        except InvalidInputError as error:
            raise _as_asked(error, request) from error
        expected = float(workload.rate_rps.sum()) * request.horizon_s
        if expected > self._settings.max_simulated_requests:
            raise InvalidRequestError(
                f"x the sum of rates must stay below {self._settings.max_simulated_requests} requests, "
                f"got {expected:.3g}",
                field="horizon_s",
            )
        payload = request.model_dump() | {"calibration_id": calibration.calibration_id}
        return self._jobs.submit(
            job_id=job_key(payload, calibration),
            kind="simulate",
            function=JOB_FUNCTION,
            payload={"request": payload, "calibration_digest": calibration_digest(calibration)},
        )

    def _calibration(self, request: SimulateRequest) -> Calibration:
        """Return the named calibration, else the workload's; never a path on this machine."""
        if request.calibration_id is None:
            try:
                return self._catalog.find(
                    gpu_type=request.workload.gpu_type, base_model=request.workload.base_model
                ).calibration
            except InvalidRequestError as error:
                message = error.detail.removeprefix(f"{error.field} ")
                raise InvalidRequestError(message, field=f"workload.{error.field}") from error
        if request.calibration_id in self._catalog.targets:
            return self._catalog.targets[request.calibration_id].calibration
        if request.calibration_id not in shipped_calibration_ids():
            known = ", ".join(sorted({*shipped_calibration_ids(), *self._catalog.targets}))
            raise InvalidRequestError(f"is unknown; known: {known}", field="calibration_id")
        return load_calibration(request.calibration_id)

    def get(self, job_id: str) -> JobRecord:
        """Return one job."""
        return self._jobs.get(job_id)


def _as_asked(error: InvalidInputError, request: SimulateRequest) -> InvalidRequestError:
    """Return the error under the field that the caller gave; a slot rank not given comes of an adapter's."""
    if error.field == "max_lora_rank" and request.max_lora_rank is None:
        ranks = [adapter.rank for adapter in request.workload.adapters]
        field = f"workload.adapters[{ranks.index(max(ranks))}].rank"
        return InvalidRequestError(f"{max(ranks)} asks for a max_lora_rank that {error.message}", field=field)
    within = "workload." if error.field.startswith("adapters") else ""
    return InvalidRequestError(error.message, field=f"{within}{error.field}")


def job_key(payload: dict[str, Any], calibration: Calibration) -> str:
    """Return the name of a run: equal inputs on an equal twin give equal names, and equal reports."""
    text = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
    digest = hashlib.blake2b(text, digest_size=12)
    digest.update(TWIN_VERSION.encode() + calibration_digest(calibration).encode())
    return f"simulate-{digest.hexdigest()}"
