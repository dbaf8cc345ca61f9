"""Placements: from a JSON document to the plan, as values or as the answer's bytes."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from placer.errors import InvalidProblemError
from placer.explain import vllm_args
from placer.problem import DEFAULT_MAX_REPLICAS, DEFAULT_NUM_TRIALS, PlacementProblem
from placer.replicas import place_replicated
from placer.verify import HORIZON_S, verify
from service.errors import InvalidRequestError
from service.observability import PLACEMENT_ADAPTERS
from service.reading import read_workload
from service.schemas.workload import OptionsSchema
from service.tracing import span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from placer.placement import GpuPlan, Placement, Unplaced
    from placer.replicas import Replicated
    from placer.verify import Verification
    from service.reading import WorkloadRequest
    from service.services.catalog import Catalog
    from service.settings import Settings

NOT_ASKED: dict[str, Any] = {"status": "not_asked"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A placement with what it was made for and from.

    Attributes
    ----------
    plan_id
        Equal requests to equal surrogates share it.
    problem, placement
        With a row for each replica of an adapter that has several.
    verification
        What the twin said, as JSON values.
    adapter_ids
        Of the workload that was asked for.
    replicas
        Which rows are one adapter; None where each is one.
    """

    plan_id: str
    problem: PlacementProblem
    placement: Placement
    verification: dict[str, Any]
    adapter_ids: tuple[str, ...]
    replicas: Replicated | None = None

    def name_of(self, row: int) -> str:
        """Return the name of a row's adapter."""
        return self.adapter_ids[row if self.replicas is None else int(self.replicas.origin[row])]


class PlacementService:
    """Answers what goes where. Needs nothing but memory."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings

    def answer(self, document: bytes) -> bytes:
        """Return the encoded answer of ``POST /place`` to a request body."""
        return self.planned(document)[1]

    def planned(self, document: bytes) -> tuple[Plan, bytes]:
        """Return the plan for a request body, and its encoded answer."""
        plan = self.plan(document)
        return plan, encode_plan(plan)

    def plan(self, document: bytes, *, default_trials: int = 0) -> Plan:
        """Return the plan for a workload document.

        Parameters
        ----------
        document
            The request body.
        default_trials
            `num_trials` of a document that neither gives it nor asks for a replay.

        Raises
        ------
        ServiceError, InvalidInputError, InvalidProblemError
            Naming the field.
        """
        request = read_workload(document, self._settings)
        if request.options.max_moves is not None:
            raise InvalidRequestError("is an option of POST /re-place only", field="options.max_moves")
        problem = self.problem_of(
            request, default_trials=DEFAULT_NUM_TRIALS if request.options.verify else default_trials
        )
        if request.options.verify:
            _check_verifiable(problem, self._settings)
        plan_id, adapter_ids = plan_id_of(document, problem), problem.workload.adapter_ids
        verification = NOT_ASKED
        with span("place", adapters=len(adapter_ids), objective=problem.objective):
            placement, replicas = place_replicated(problem)
        if replicas is not None:
            problem = replicas.problem
        if request.options.verify:
            placement, verification = self._verified(placement, problem)
        PLACEMENT_ADAPTERS.inc(len(adapter_ids))
        return Plan(
            plan_id=plan_id,
            problem=problem,
            placement=placement,
            verification=verification,
            adapter_ids=adapter_ids,
            replicas=replicas,
        )

    def verified(self, document: bytes) -> Plan:
        """Return the plan for a workload document, replayed and mended whatever its options say.

        Without a deadline: the same document gives the same plan, and a worker has the time.
        """
        plan = self.plan(document)
        if plan.verification is not NOT_ASKED:
            return plan
        checked = verify(plan.placement, plan.problem, max_workers=1)
        return replace(plan, placement=checked.placement, verification=verification_document(checked))

    def is_current(self, plan: Plan) -> bool:
        """Whether a plan was made with the surrogate that would make it now."""
        workload = plan.problem.workload
        target = self._catalog.find(gpu_type=workload.gpu_type, base_model=workload.base_model)
        return target.surrogate.version == plan.problem.surrogate.version

    def _verified(self, placement: Placement, problem: PlacementProblem) -> tuple[Placement, dict[str, Any]]:
        settings = self._settings
        checked = verify(
            placement, problem, max_workers=settings.place_threads, deadline_s=settings.verify_deadline_s
        )
        return checked.placement, verification_document(checked)

    def problem_of(
        self, request: WorkloadRequest, *, default_trials: int = DEFAULT_NUM_TRIALS
    ) -> PlacementProblem:
        """Return what a workload document asks for, with `default_trials` where it leaves `num_trials` open.

        Raises
        ------
        InvalidRequestError, InvalidInputError
            Naming the field.
        """
        workload = request.workload
        target = self._catalog.find(gpu_type=workload.gpu_type, base_model=workload.base_model)
        options = request.options
        try:
            return PlacementProblem(
                workload=request.workload,
                calibration=target.calibration,
                surrogate=target.surrogate,
                objective=options.objective,
                max_gpus=options.max_gpus,
                starvation_risk=options.starvation_risk,
                max_ttft_ms=options.max_ttft_ms,
                num_trials=default_trials if options.num_trials is None else options.num_trials,
                max_loras=options.max_loras,
                max_replicas=DEFAULT_MAX_REPLICAS if options.replicas else 1,
            )
        except InvalidProblemError as error:
            is_option = error.field in OptionsSchema.model_fields
            field = f"options.{error.field}" if is_option else error.field
            raise InvalidRequestError(error.message, field=field) from error


def plan_id_of(document: bytes, problem: PlacementProblem) -> str:
    """Return a name that equal requests to equal surrogates share."""
    digest = hashlib.blake2b(document, digest_size=12)
    digest.update(problem.surrogate.version.encode())
    digest.update(problem.calibration.calibration_id.encode())
    digest.update(str(problem.num_trials).encode())
    return digest.hexdigest()


def verification_document(checked: Verification) -> dict[str, Any]:
    """Return what the twin said of each GPU, and what was mended, as JSON values."""
    if checked.status == "no_gpus":
        return {"status": "no_gpus"}
    return {
        "status": checked.status,
        "horizon_s": HORIZON_S,
        "gpus": [
            {
                "gpu": gpu.gpu,
                "starved": report.starved,
                "starving_adapters": int(report.adapters.starving.sum()),
                "throughput_tok_s": number_or_none(report.throughput_tok_s),
                "offered_tok_s": number_or_none(report.offered_tok_s),
                "itl_ms": number_or_none(report.itl.mean_ms),
                "ttft_ms": number_or_none(report.ttft.mean_ms),
            }
            for gpu, report in zip(checked.placement.gpus, checked.reports, strict=True)
            if report is not None
        ],
        "repairs": [
            {"gpu": repair.gpu, "action": repair.action, "adapters": repair.adapters}
            for repair in checked.repairs
        ],
    }


def _check_verifiable(problem: PlacementProblem, settings: Settings) -> None:
    """Refuse a replay that would outlast the request."""
    requests = float(problem.workload.rate_rps.sum()) * HORIZON_S
    if requests > settings.max_simulated_requests:
        raise InvalidRequestError(
            f"would replay {requests:.3g} requests, at most {settings.max_simulated_requests} are allowed",
            field="options.verify",
        )


def encode_plan(plan: Plan) -> bytes:
    """Return the plan as the contract's JSON (`service.schemas.plan.PlanSchema`)."""
    return orjson.dumps(plan_document(plan))


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values."""
    placement, problem = plan.placement, plan.problem
    rates = {"rate_z": number_or_none(placement.rate_z)} if placement.rate_z else {}
    return {
        "plan_id": plan.plan_id,
        "feasible": placement.feasible,
        "num_gpus": placement.num_gpus,
        "lower_bound": placement.lower_bound,
        "gap": placement.gap,
        "bound_rests_on": placement.bound_rests_on,
        "given_up": _given_up(placement, problem),
        "starvation_probability": number_or_none(placement.starvation_probability),
        "gpus": [_gpu_document(gpu, plan) for gpu in placement.gpus],
        "replicas": _replicas_document(plan),
        "unplaced": unplaced_documents(placement.unplaced, plan.name_of),
        "surrogate_version": problem.surrogate.version,
        "calibration_id": problem.calibration.calibration_id,
        "verification": plan.verification,
    } | rates


def _replicas_document(plan: Plan) -> list[dict[str, Any]]:
    """Return the adapters on several GPUs, and what share of its traffic each has there."""
    if plan.replicas is None:
        return []
    found: dict[int, dict[int, float]] = {}
    for gpu in plan.placement.gpus:
        for row in gpu.rows[plan.replicas.share[gpu.rows] < 1].tolist():
            shares = found.setdefault(int(plan.replicas.origin[row]), {})
            shares[gpu.gpu] = shares.get(gpu.gpu, 0.0) + float(plan.replicas.share[row])
    return [
        {
            "adapter": plan.adapter_ids[origin],
            "gpus": [{"gpu": gpu, "share": number_or_none(share)} for gpu, share in sorted(shares.items())],
        }
        for origin, shares in sorted(found.items())
    ]


def unplaced_documents(unplaced: Sequence[Unplaced], name_of: Callable[[int], str]) -> list[dict[str, str]]:
    """Return the adapters without a GPU as JSON values; one with several replicas is told once."""
    told = {name_of(row.row): row for row in unplaced}
    return [{"adapter": name, "code": row.code, "reason": row.reason} for name, row in told.items()]


def _given_up(placement: Placement, problem: PlacementProblem) -> str | None:
    """Return what the objective cost, for a reader; None where nothing is placed."""
    if not placement.gpus:
        return None
    slowest = max(placement.gpus, key=lambda gpu: gpu.predicted.itl_ms)
    pace = f"ITL {slowest.predicted.itl_ms:.0f} ms, TTFT {slowest.predicted.ttft_ms:.0f} ms"
    if problem.objective == "min_latency":
        more = placement.num_gpus - placement.lower_bound
        return f"{more} GPUs above the lower bound, for {pace} on the slowest GPU"
    return f"latency: {pace} on the slowest GPU"


def _gpu_document(gpu: GpuPlan, plan: Plan) -> dict[str, Any]:
    predicted = gpu.predicted
    rates = {"load_margin": number_or_none(gpu.load_margin)} if plan.placement.rate_z else {}
    return {
        "gpu": gpu.gpu,
        "max_loras": gpu.max_loras,
        "max_lora_rank": gpu.max_lora_rank,
        "adapters": _adapter_names(gpu, plan),
        "predicted": {
            "throughput_tok_s": number_or_none(predicted.throughput_tok_s),
            "offered_tok_s": number_or_none(predicted.offered_tok_s),
            "starvation_probability": number_or_none(predicted.starvation_probability),
            "itl_ms": number_or_none(predicted.itl_ms),
            "ttft_ms": number_or_none(predicted.ttft_ms),
            "out_of_range": list(predicted.out_of_range),
        },
        "binding_constraint": gpu.binding_constraint,
        "head_room": {name: number_or_none(share) for name, share in gpu.head_room.items()},
        "vllm_args": vllm_args(gpu, plan.problem),
    } | rates


def _adapter_names(gpu: GpuPlan, plan: Plan) -> list[str]:
    rows = gpu.rows.tolist()
    if plan.replicas is None:
        return [plan.adapter_ids[row] for row in rows]
    return list(dict.fromkeys(plan.name_of(row) for row in rows))


def number_or_none(value: float) -> float | None:
    """Return a number as answers show it, None where it is not finite."""
    return round(float(value), 6) if math.isfinite(value) else None
