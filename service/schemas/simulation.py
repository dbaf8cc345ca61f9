"""A twin run: what is asked for, and its report as JSON values."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from placer.ranks import slot_rank
from service.schemas.border import Border
from service.schemas.workload import WorkloadSchema
from twin.domain import CONSTRAINTS, MAX_RANK, ServerConfig
from twin.simulate import MAX_HORIZON_S, MIN_HORIZON_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twin.domain import AdapterOutcomes, SimulationReport


class SimulateRequest(Border):
    """One twin run: one GPU that serves the whole workload."""

    workload: WorkloadSchema
    max_loras: int = Field(ge=1, le=4096)
    max_lora_rank: int | None = Field(
        default=None, ge=1, le=MAX_RANK, description="Without it, the smallest slot that takes every adapter."
    )
    calibration_id: str | None = Field(
        default=None,
        max_length=256,
        description="Without it, that of the workload's GPU type and base model.",
    )
    horizon_s: float = Field(default=3600.0, ge=MIN_HORIZON_S, le=MAX_HORIZON_S)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)

    def server_config(self) -> ServerConfig:
        """Return the flags of the simulated server."""
        largest = max(row.rank for row in self.workload.adapters)
        return server_for(largest, max_loras=self.max_loras, max_lora_rank=self.max_lora_rank)


def server_for(largest_rank: int, *, max_loras: int, max_lora_rank: int | None) -> ServerConfig:
    """Return the flags of a server; without a slot rank, the smallest that takes the largest adapter."""
    if max_lora_rank is None:
        max_lora_rank = slot_rank(largest_rank) or largest_rank
    return ServerConfig(max_loras=max_loras, max_lora_rank=max_lora_rank)


def report_document(report: SimulationReport, adapter_ids: Sequence[str]) -> Mapping[str, Any]:
    """Return a report as JSON values; what was not measured (NaN) is null."""
    document = {
        field.name: _json_value(getattr(report, field.name))
        for field in dataclasses.fields(report)
        if field.name not in {"served_fraction", "adapters", "state_samples"}
    }
    fractions = report.served_fraction.tolist()
    document["served_fraction"] = dict(zip(adapter_ids, fractions, strict=True))
    document["adapters"] = _adapters_document(report.adapters, adapter_ids)
    document["starving_adapters"] = {
        adapter_ids[row]: CONSTRAINTS[report.adapters.cause[row]]
        for row in np.flatnonzero(report.adapters.starving).tolist()
    }
    return document


def _adapters_document(outcomes: AdapterOutcomes, adapter_ids: Sequence[str]) -> Mapping[str, Any]:
    """Return what was measured of each adapter, by its id."""
    columns = {field.name: getattr(outcomes, field.name).tolist() for field in dataclasses.fields(outcomes)}
    columns["cause"] = [CONSTRAINTS[cause] for cause in columns["cause"]]
    rows = zip(*columns.values(), strict=True)
    return {name: dict(zip(columns, row, strict=True)) for name, row in zip(adapter_ids, rows, strict=True)}


def _json_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _json_value(part) for name, part in dataclasses.asdict(value).items()}
    if isinstance(value, dict):
        return {name: _json_value(part) for name, part in value.items()}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
