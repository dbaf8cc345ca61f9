"""Supposed changes: what each asks for, and the way there, as the answer's bytes."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from placer.delta import running_of
from placer.errors import InvalidProblemError
from placer.replicas import place_replicated
from placer.what_if import Change, consequence
from service.errors import InvalidRequestError
from service.reading import WorkloadRequest
from service.schemas.border import parse
from service.schemas.what_if import ChangeSchema, WhatIfRequest
from service.schemas.workload import OptionsSchema, WorkloadSchema
from service.services.limits import check_size
from service.services.placement import number_or_none, unplaced_documents
from service.services.replacement import delta_holds, running_gpus, unmended_documents
from twin.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from placer.delta import RunningGpu
    from placer.placement import Placement
    from placer.problem import PlacementProblem
    from placer.what_if import Consequence
    from service.schemas.workload import AdapterSchema
    from service.services.placement import PlacementService, Plan
    from service.settings import Settings
    from twin.domain import Workload

PARTS = tuple(name for name in ChangeSchema.model_fields if name != "name")
"""What a change may suppose."""

ADAPTER_FIELD = re.compile(r"^adapters\[(\d+)\]\.(\w+)$")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Start:
    """Where changes start: the workload as it is, its plan, and the servers that run."""

    problem: PlacementProblem
    placement: Placement
    current: tuple[RunningGpu, ...]


class WhatIfService:
    """Answers what a change would ask for. Needs nothing but memory; changes nothing."""

    def __init__(self, placements: PlacementService, settings: Settings) -> None:
        self._placements = placements
        self._settings = settings

    def read(self, document: bytes) -> WhatIfRequest:
        """Return what a request body asks.

        Raises
        ------
        MalformedBodyError, InvalidRequestError
            Naming the field.
        """
        request = parse(WhatIfRequest, document)
        for number, change in enumerate(request.changes):
            _check_change(change, f"changes[{number}]")
        if request.options is not None and request.options.verify:
            raise InvalidRequestError("is an option of POST /place only", field="options.verify")
        if not request.adapters:
            return request
        check_size(len(request.adapters), self._settings)
        for name in ("base_model", "gpu_type"):
            if getattr(request, name) is None:
                raise InvalidRequestError("must be given with adapters", field=name)
        return request

    def answer(self, request: WhatIfRequest, in_force: Plan | None) -> bytes:
        """Return the encoded answer (`service.schemas.what_if.WhatIfSchema`).

        Parameters
        ----------
        request
            From `read`.
        in_force
            The plan in force that is meant, where the request brings no adapters.

        Raises
        ------
        ServiceError, InvalidInputError
            Naming the field.
        """
        start = self._start(request, in_force)
        max_moves = None if request.options is None else request.options.max_moves
        row_of = {name: row for row, name in enumerate(start.problem.workload.adapter_ids)}
        changes = []
        for number, asked in enumerate(request.changes):
            where = f"changes[{number}]"
            known = start.problem.workload.num_adapters
            check_size(known + len(asked.add_adapters), self._settings, f"{where}.add_adapters")
            try:
                change = _change(asked, start.problem.workload, row_of, where)
                found = consequence(start.problem, start.current, change, max_moves)
            except (InvalidProblemError, InvalidInputError) as error:
                field = _changed_field(error.field, where, known)
                raise InvalidRequestError(error.message, field=field) from error
            changes.append(_consequence_document(found, asked, start.placement.num_gpus))
        return orjson.dumps(
            {
                "now": _size_document(start.placement),
                "running_gpus": len(start.current),
                "surrogate_version": start.problem.surrogate.version,
                "calibration_id": start.problem.calibration.calibration_id,
                "changes": changes,
            }
        )

    def _start(self, request: WhatIfRequest, in_force: Plan | None) -> _Start:
        if request.adapters:
            workload = _workload(request.adapters, request.base_model, request.gpu_type)
            problem = self._problem(workload, request.options or OptionsSchema())
            placement, replicas = place_replicated(problem)
            running = running_of(placement, None if replicas is None else replicas.origin)
        elif in_force is not None:
            replicas = in_force.replicas
            problem = in_force.problem if replicas is None else replicas.whole
            placement = in_force.placement
            running = running_of(placement, None if replicas is None else replicas.origin)
            if request.options is not None:
                problem = self._problem(problem.workload, request.options)
                placement, _ = place_replicated(problem)
        else:
            raise InvalidRequestError("must be given where no workload is in force", field="adapters")
        if request.current is not None:
            running = running_gpus(request.current, problem.workload.adapter_ids)
        return _Start(problem=problem, placement=placement, current=running)

    def _problem(self, workload: Workload, options: OptionsSchema) -> PlacementProblem:
        return self._placements.problem_of(WorkloadRequest(workload=workload, options=options))


def _check_change(change: ChangeSchema, where: str) -> None:
    if not any(getattr(change, name) for name in PARTS):
        raise InvalidRequestError("must suppose something", field=where)
    if change.adapters and change.scale_rates is None:
        raise InvalidRequestError("must be given with adapters", field=f"{where}.scale_rates")


def _workload(adapters: list[AdapterSchema], base_model: str | None, gpu_type: str | None) -> Workload:
    assert base_model is not None, "read() has checked it"
    assert gpu_type is not None, "read() has checked it"
    return WorkloadSchema(base_model=base_model, gpu_type=gpu_type, adapters=adapters).to_domain()


def _change(asked: ChangeSchema, workload: Workload, row_of: Mapping[str, int], where: str) -> Change:
    rows = None
    if asked.adapters:
        for number, name in enumerate(asked.adapters):
            if name not in row_of:
                raise InvalidRequestError(
                    "names no adapter of the workload", field=f"{where}.adapters[{number}]"
                )
        rows = np.array(sorted({row_of[name] for name in asked.adapters}), dtype=np.int64)
    added = None
    if asked.add_adapters:
        try:
            added = _workload(asked.add_adapters, workload.base_model, workload.gpu_type)
        except InvalidInputError as error:
            field = f"{where}.add_{error.field}"
            raise InvalidRequestError(error.message, field=field) from error
    return Change(
        scale_rates=asked.scale_rates or 1.0,
        scaled_rows=rows,
        added=added,
        lose_gpus=asked.lose_gpus or 0,
        max_loras=asked.max_loras,
        starvation_risk=asked.starvation_risk,
        max_ttft_ms=asked.max_ttft_ms,
    )


def _changed_field(field: str, where: str, num_known: int) -> str:
    """Return a field of the changed problem as the request names it.

    An adapter beyond those of the workload is an added one; of the others only the rate has changed.
    """
    adapter = ADAPTER_FIELD.match(field)
    if adapter is None:
        return field if field.startswith("current") else f"{where}.{field}"
    row, name = int(adapter[1]), adapter[2]
    if row >= num_known:
        return f"{where}.add_adapters[{row - num_known}].{name}"
    return f"{where}.scale_rates"


def _size_document(placement: Placement) -> dict[str, Any]:
    gpus = placement.gpus
    slowest = None
    if gpus:
        slowest = {
            name: number_or_none(max(getattr(gpu.predicted, name) for gpu in gpus))
            for name in ("itl_ms", "ttft_ms")
        }
    return {
        "num_gpus": placement.num_gpus,
        "lower_bound": placement.lower_bound,
        "gap": placement.gap,
        "feasible": placement.feasible,
        "starvation_probability": number_or_none(placement.starvation_probability),
        "binding_constraints": Counter(gpu.binding_constraint for gpu in gpus),
        "slowest": slowest,
    }


def _consequence_document(found: Consequence, asked: ChangeSchema, num_gpus_now: int) -> dict[str, Any]:
    placement, delta = found.placement, found.delta
    names = found.problem.workload.adapter_ids
    return _size_document(placement) | {
        "name": asked.name or _description(asked),
        "more_gpus": placement.num_gpus - num_gpus_now,
        "lost": list(found.lost),
        "unplaced": unplaced_documents(found.unplaced, names.__getitem__),
        "from_current": {
            "num_gpus": delta.placement.num_gpus,
            "feasible": delta_holds(delta),
            "moves": len(delta.moves),
            "loads": found.num_loads,
            "restarts": list(delta.restarts),
            "opened": list(delta.opened),
            "closed": list(delta.closed),
            "unmended": unmended_documents(delta),
        },
    }


def _description(asked: ChangeSchema) -> str:
    """Return a name for a change that has none: what it supposes."""
    parts = []
    for name in PARTS:
        value = getattr(asked, name)
        if value:
            parts.append(f"{name} of {len(value)}" if isinstance(value, list) else f"{name} {value:g}")
    return ", ".join(parts)
