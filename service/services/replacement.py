"""Re-placements: from the plan in force and a workload to the next plan, as the answer's bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from placer.delta import RunningGpu
from placer.errors import InvalidProblemError
from placer.replicas import re_place_replicated
from service.errors import InvalidRequestError
from service.reading import WorkloadRequest
from service.schemas.workload import ReplaceRequest
from service.services.limits import check_size
from service.services.placement import NOT_ASKED, Plan, plan_document, plan_id_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from placer.delta import PlacementDelta
    from service.schemas.workload import CurrentSchema
    from service.services.placement import PlacementService
    from service.settings import Settings


class ReplacementService:
    """Answers how to get from the plan in force to one that holds. Needs nothing but memory."""

    def __init__(self, placements: PlacementService, settings: Settings) -> None:
        self._placements = placements
        self._settings = settings

    def answer(self, document: bytes) -> bytes:
        """Return the encoded answer of ``POST /re-place`` to a request body.

        Raises
        ------
        ServiceError, InvalidInputError
            Naming the field.
        """
        request = ReplaceRequest.parse(document)
        check_size(len(request.adapters), self._settings)
        if request.options.verify:
            raise InvalidRequestError("is an option of POST /place only", field="options.verify")
        problem = self._placements.problem_of(
            WorkloadRequest(workload=request.to_domain(), options=request.options)
        )
        current = running_gpus(request.current, problem.workload.adapter_ids)
        try:
            delta, replicas = re_place_replicated(problem, current, request.options.max_moves)
        except InvalidProblemError as error:
            raise InvalidRequestError(error.message, field=error.field) from error
        plan = Plan(
            plan_id=plan_id_of(document, problem),
            problem=problem if replicas is None else replicas.problem,
            placement=delta.placement,
            verification=NOT_ASKED,
            adapter_ids=problem.workload.adapter_ids,
            replicas=replicas,
        )
        return encode_delta(plan, delta)


def running_gpus(current: CurrentSchema, adapter_ids: Sequence[str]) -> tuple[RunningGpu, ...]:
    """Return the servers that run; adapters that the workload no longer has are left out.

    Raises
    ------
    InvalidRequestError
        Naming the field.
    """
    row_of = {name: row for row, name in enumerate(adapter_ids)}
    running = []
    for number, gpu in enumerate(current.gpus):
        try:
            running.append(
                RunningGpu(
                    gpu=gpu.gpu,
                    max_loras=gpu.max_loras,
                    max_lora_rank=gpu.max_lora_rank,
                    rows=tuple(row_of[name] for name in gpu.adapters if name in row_of),
                )
            )
        except InvalidProblemError as error:
            field = f"current.gpus[{number}].max_lora_rank"
            raise InvalidRequestError(error.message, field=field) from error
    return tuple(running)


def encode_delta(plan: Plan, delta: PlacementDelta) -> bytes:
    """Return the plan and its difference as JSON (`service.schemas.plan.DeltaSchema`)."""
    document = plan_document(plan)
    document["feasible"] = delta_holds(delta)
    document["gap"] = document["gap"] if document["feasible"] else None
    return orjson.dumps(
        document
        | {
            "moves": [
                {"adapter": plan.name_of(move.row), "from": move.source, "to": move.target}
                for move in delta.moves
            ],
            "restarts": list(delta.restarts),
            "opened": list(delta.opened),
            "closed": list(delta.closed),
            "unmended": unmended_documents(delta),
        }
    )


def delta_holds(delta: PlacementDelta) -> bool:
    """Tell whether every adapter has a GPU and no GPU is too full."""
    return delta.placement.feasible and not delta.unmended


def unmended_documents(delta: PlacementDelta) -> list[dict[str, Any]]:
    """Return the GPUs that stay too full as JSON values."""
    return [{"gpu": row.gpu, "reason": row.reason} for row in delta.unmended]
