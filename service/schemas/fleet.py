"""What crosses the border about the workloads in force, beside the workload itself."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from service.errors import InvalidRequestError
from service.schemas.border import MAX_SHOWN, Border, parse
from twin.domain import MAX_RATE_RPS

if TYPE_CHECKING:
    from service.settings import Settings


class RatesRequest(Border):
    """New rates of some adapters, by id, and of their errors; all else of the workload in force stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"rates": {"a1": 0.25, "a2": 0.05}}]})

    rates: dict[str, Any] = Field(
        min_length=1,
        json_schema_extra={
            "additionalProperties": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_RATE_RPS}
        },
    )
    rates_std: dict[str, Any] = Field(
        default={},
        json_schema_extra={"additionalProperties": {"type": "number", "minimum": 0, "maximum": MAX_RATE_RPS}},
        description="`rate_rps_std` of some adapters, by id.",
    )

    @classmethod
    def read(cls, document: bytes, settings: Settings) -> RatesRequest:
        """Return the rates that a JSON text holds.

        Raises
        ------
        MalformedBodyError, InvalidRequestError
            Naming ``rates.<id>`` or ``rates_std.<id>``.
        """
        request = parse(cls, document, wide=("rates", "rates_std"))
        for field, is_sound, rule in (
            ("rates", _is_rate, "above 0 and at most"),
            ("rates_std", _is_rate_error, "of 0 to"),
        ):
            values = getattr(request, field)
            if len(values) > settings.max_adapters:
                raise InvalidRequestError(f"must name at most {settings.max_adapters} adapters", field=field)
            for name, value in values.items():
                if not is_sound(value):
                    raise InvalidRequestError(
                        f"is refused: must be a number {rule} {MAX_RATE_RPS:g}",
                        field=f"{field}.{name[:MAX_SHOWN]}",
                    )
        return request


class RunningRequest(Border):
    """How many GPUs of a workload run, as whoever starts and stops them sees it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"gpus_running": 12}]})

    gpus_running: int = Field(ge=0, le=1_000_000)


def _is_rate(value: object) -> bool:
    return _is_rate_error(value) and value != 0


def _is_rate_error(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value <= MAX_RATE_RPS  # false for NaN


class GpusNeededSchema(BaseModel):
    """How many GPUs to ask for: up at once, down late. `stale` when not confirmed lately."""

    gpus_needed: int = Field(description="Never below what the plan in force uses.")
    raw: int | None = Field(description="GPUs of the plan in force; null where none can serve any of it.")
    lower_bound: int
    reason: str
    as_of: datetime
    stale: bool
    age_s: float
    feasible: bool
    plan_id: str
    base_model: str
    gpu_type: str


class InForceSchema(BaseModel):
    """One workload in force and the size of its plan; `GET /gpus-needed` tells what to ask for."""

    base_model: str
    gpu_type: str
    version: str
    num_adapters: int
    offered_tok_s: float
    num_gpus: int
    plan_id: str
    feasible: bool
    as_of: datetime


class InForceListSchema(BaseModel):
    """The workloads in force, by base model and GPU type."""

    workloads: list[InForceSchema]


class HistoryPointSchema(BaseModel):
    """From this time on, until the next point."""

    at: datetime
    gpus_needed: int
    planned: int | None = Field(description="GPUs of the plan; null where none can serve any of it.")
    running: int | None = Field(description="As reported; null where nobody did lately.")


class HistorySchema(BaseModel):
    """How many GPUs a workload needed: a point for each change, the oldest first."""

    base_model: str
    gpu_type: str
    points: list[HistoryPointSchema]
