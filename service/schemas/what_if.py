"""What crosses the border about supposed changes: the body and the answer of ``POST /what-if``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

from service.schemas.border import Border
from service.schemas.plan import UnmendedSchema, UnplacedSchema
from service.schemas.workload import EXAMPLE, AdapterSchema, CurrentSchema, OptionsSchema

MAX_CHANGES = 32


class ChangeSchema(Border):
    """A change that is supposed; what it leaves out stays as it is. Several parts hold together."""

    name: str | None = Field(default=None, min_length=1, max_length=256)
    scale_rates: float | None = Field(default=None, gt=0, le=1e6, description="Factor on request rates.")
    adapters: list[str] = Field(
        default=[], min_length=1, description="Whose rates are scaled; without it, all."
    )
    add_adapters: Annotated[list[AdapterSchema], FailFast()] = Field(default=[], min_length=1)
    lose_gpus: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="GPUs that fail and are not replaced: those with the most traffic.",
    )
    max_loras: int | None = Field(default=None, ge=1, le=4096, description="Of every server.")
    starvation_risk: float | None = Field(default=None, gt=0, lt=1)
    max_ttft_ms: float | None = Field(
        default=None, gt=0, le=3_600_000, description="Mean time to first token that a GPU may have."
    )


class WhatIfRequest(Border):
    """A workload and the changes to suppose, one at a time; without `adapters`, the workload in force."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                EXAMPLE | {"changes": [{"name": "half as much again", "scale_rates": 1.5}, {"max_loras": 64}]}
            ]
        }
    )

    base_model: str | None = Field(default=None, min_length=1, max_length=256)
    gpu_type: str | None = Field(default=None, min_length=1, max_length=256)
    adapters: Annotated[list[AdapterSchema], FailFast()] = Field(default=[], min_length=1)
    options: OptionsSchema | None = Field(
        default=None, description="How to plan; of a workload in force, without it, as it was put."
    )
    current: CurrentSchema | None = Field(
        default=None,
        description="The servers that run; without it, those of the plan in force, or of the plan made now.",
    )
    changes: list[ChangeSchema] = Field(min_length=1, max_length=MAX_CHANGES)


class SlowestSchema(BaseModel):
    """The longest times that the surrogate expects of any GPU; null where it does not say."""

    itl_ms: float | None
    ttft_ms: float | None


class SizeSchema(BaseModel):
    """A plan in numbers."""

    num_gpus: int
    lower_bound: int
    gap: int | None
    feasible: bool
    starvation_probability: float = Field(description="That some GPU of the plan starves.")
    binding_constraints: dict[Literal["throughput", "slots", "kv_memory", "none"], int] = Field(
        description="GPUs of the plan by what they would run out of first."
    )
    slowest: SlowestSchema | None = Field(description="Null where nothing is placed.")


class WaySchema(BaseModel):
    """How to get there from the servers that run: the counts and lists of ``POST /re-place``."""

    num_gpus: int
    feasible: bool
    moves: int
    loads: int = Field(description="Adapters that no server that is left has: new, or of a lost GPU.")
    restarts: list[int]
    opened: list[int]
    closed: list[int]
    unmended: list[UnmendedSchema]


class ConsequenceSchema(SizeSchema):
    """What one change comes to: the plan from scratch, and the way there."""

    name: str
    more_gpus: int = Field(description="Beyond those of `now`; negative where fewer do.")
    lost: list[int] = Field(description="The GPUs that are supposed to fail, by number.")
    unplaced: list[UnplacedSchema]
    from_current: WaySchema


class WhatIfSchema(BaseModel):
    """The workload as it is, and what each change comes to, in the order asked."""

    now: SizeSchema
    running_gpus: int = Field(description="Servers that `from_current` starts from.")
    surrogate_version: str
    calibration_id: str
    changes: list[ConsequenceSchema]
