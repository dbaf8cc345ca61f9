"""Placements: from a JSON document to the plan, as values or as the answer's bytes."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from placer.errors import InvalidProblemError
from placer.explain import vllm_args
from placer.packing import place
from placer.problem import PlacementProblem
from placer.verify import replay
from service.errors import InvalidRequestError
from service.observability import PLACEMENT_ADAPTERS
from service.reading import read_workload
from service.schemas import OptionsSchema

if TYPE_CHECKING:
    from placer.placement import GpuPlan, Placement
    from service.reading import WorkloadRequest
    from service.services.catalog import Catalog
    from service.settings import Settings

VERIFIED_S = 3600.0
"""The window of a replay, as long as that of the measured runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A placement with what it was made for and from."""

    plan_id: str
    problem: PlacementProblem
    placement: Placement
    verification: dict[str, Any]


class PlacementService:
    """Answers what goes where. Needs nothing but memory."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings

    def answer(self, document: bytes) -> bytes:
        """Return the encoded answer of ``POST /place`` to a request body."""
        return encode_plan(self.plan(document))

    def plan(self, document: bytes) -> Plan:
        """Return the plan for a workload document.

        Raises
        ------
        ServiceError, InvalidInputError, InvalidProblemError
            Naming the field.
        """
        request = read_workload(document, self._settings)
        problem = self._problem(request)
        if request.options.verify:
            _check_verifiable(problem, self._settings)
        placement = place(problem)
        verification: dict[str, Any] = {"status": "not_asked"}
        if request.options.verify:
            verification = _verify(placement, problem, self._settings)
        PLACEMENT_ADAPTERS.inc(problem.workload.num_adapters)
        return Plan(
            plan_id=_plan_id(document, problem),
            problem=problem,
            placement=placement,
            verification=verification,
        )

    def _problem(self, request: WorkloadRequest) -> PlacementProblem:
        target = self._catalog.find(
            gpu_type=request.workload.gpu_type, base_model=request.workload.base_model
        )
        options = request.options
        try:
            return PlacementProblem(
                workload=request.workload,
                calibration=target.calibration,
                surrogate=target.surrogate,
                objective=options.objective,
                max_gpus=options.max_gpus,
                starvation_risk=options.starvation_risk,
            )
        except InvalidProblemError as error:
            is_option = error.field in OptionsSchema.model_fields
            field = f"options.{error.field}" if is_option else error.field
            raise InvalidRequestError(error.message, field=field) from error


def _plan_id(document: bytes, problem: PlacementProblem) -> str:
    """Return a name that equal requests to equal surrogates share."""
    digest = hashlib.blake2b(document, digest_size=12)
    digest.update(problem.surrogate.version.encode())
    digest.update(problem.calibration.calibration_id.encode())
    return digest.hexdigest()


def _verify(placement: Placement, problem: PlacementProblem, settings: Settings) -> dict[str, Any]:
    """Replay each GPU in the twin and tell what came of it."""
    reports = replay(placement, problem, horizon_s=VERIFIED_S, max_workers=settings.place_threads)
    if not reports:
        return {"status": "no_gpus"}
    return {
        "status": "starved" if any(report.starved for report in reports) else "verified",
        "horizon_s": VERIFIED_S,
        "gpus": [
            {
                "gpu": gpu.gpu,
                "starved": report.starved,
                "throughput_tok_s": _number(report.throughput_tok_s),
                "offered_tok_s": _number(report.offered_tok_s),
                "itl_ms": _number(report.itl.mean_ms),
                "ttft_ms": _number(report.ttft.mean_ms),
            }
            for gpu, report in zip(placement.gpus, reports, strict=True)
        ],
    }


def _check_verifiable(problem: PlacementProblem, settings: Settings) -> None:
    """Refuse a replay that would outlast the request."""
    requests = float(problem.workload.rate_rps.sum()) * VERIFIED_S
    if requests > settings.max_simulated_requests:
        raise InvalidRequestError(
            f"would replay {requests:.3g} requests, at most {settings.max_simulated_requests} are allowed",
            field="options.verify",
        )


def encode_plan(plan: Plan) -> bytes:
    """Return the plan as the contract's JSON (`service.schemas.PlanSchema`)."""
    placement, problem = plan.placement, plan.problem
    ids = problem.workload.adapter_ids
    return orjson.dumps(
        {
            "plan_id": plan.plan_id,
            "feasible": placement.feasible,
            "num_gpus": placement.num_gpus,
            "lower_bound": placement.lower_bound,
            "gap": placement.gap,
            "gpus": [_gpu_document(gpu, problem, ids) for gpu in placement.gpus],
            "unplaced": [
                {"adapter": ids[row.row], "code": row.code, "reason": row.reason}
                for row in placement.unplaced
            ],
            "surrogate_version": problem.surrogate.version,
            "calibration_id": problem.calibration.calibration_id,
            "verification": plan.verification,
        }
    )


def _gpu_document(gpu: GpuPlan, problem: PlacementProblem, ids: tuple[str, ...]) -> dict[str, Any]:
    predicted = gpu.predicted
    return {
        "gpu": gpu.gpu,
        "max_loras": gpu.max_loras,
        "max_lora_rank": gpu.max_lora_rank,
        "adapters": [ids[row] for row in gpu.rows.tolist()],
        "predicted": {
            "throughput_tok_s": _number(predicted.throughput_tok_s),
            "offered_tok_s": _number(predicted.offered_tok_s),
            "starvation_probability": _number(predicted.starvation_probability),
            "itl_ms": _number(predicted.itl_ms),
            "ttft_ms": _number(predicted.ttft_ms),
        },
        "binding_constraint": gpu.binding_constraint,
        "vllm_args": vllm_args(gpu, problem),
    }


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
