"""Plans: GPUs, replicas, what has no GPU, what a re-placement moves, what the twin said."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PredictedSchema(BaseModel):
    """What the surrogate expects of one GPU; null where it does not say."""

    throughput_tok_s: float
    offered_tok_s: float
    starvation_probability: float
    itl_ms: float | None
    ttft_ms: float | None
    out_of_range: list[str] = Field(
        default=[], description="Features of this GPU that the surrogate was not trained for."
    )


class GpuSchema(BaseModel):
    """One vLLM server of a plan."""

    gpu: int
    max_loras: int
    max_lora_rank: int
    adapters: list[str]
    predicted: PredictedSchema
    binding_constraint: Literal["throughput", "slots", "kv_memory", "none"]
    head_room: dict[Literal["throughput", "slots", "kv_memory"], float] = Field(
        description="What is left of each limit, as a share of it."
    )
    load_margin: float | None = Field(
        default=None,
        description="Load planned for beyond the mean, as a share of the mean; where rates are uncertain.",
    )
    vllm_args: list[str]


class UnplacedSchema(BaseModel):
    """An adapter that no GPU of the plan takes, and why."""

    adapter: str
    code: str
    reason: str


class VerifiedGpuSchema(BaseModel):
    """What the twin did with one GPU of a plan."""

    gpu: int
    starved: bool
    starving_adapters: int = Field(
        default=0,
        description="Of those with 20 requests or more, that completed less than 0.9 of their tokens.",
    )
    throughput_tok_s: float
    offered_tok_s: float
    itl_ms: float | None
    ttft_ms: float | None


class RepairSchema(BaseModel):
    """A change to a plan that starved in the twin: adapters moved off a GPU, to open GPUs or a new one."""

    gpu: int
    action: Literal["moved", "opened"]
    adapters: int


class VerificationSchema(BaseModel):
    """Whether the plan was replayed in the twin, GPU by GPU, and what came of it.

    `verified` only where every GPU was replayed as it is in the plan and none starved. `incomplete`:
    time was up. `slow`: none starved, and one has a mean TTFT above `max_ttft_ms`. `queued`, `started`
    and `failed` tell of a replay behind the answer.
    """

    status: Literal[
        "not_asked", "verified", "starved", "slow", "incomplete", "no_gpus", "queued", "started", "failed"
    ]
    horizon_s: float | None = None
    gpus: list[VerifiedGpuSchema] | None = None
    repairs: list[RepairSchema] | None = None


class ReplicaSchema(BaseModel):
    """A GPU that serves part of an adapter's requests, and which part."""

    gpu: int
    share: float


class ReplicasSchema(BaseModel):
    """An adapter that no single GPU carries: route each request to one of its GPUs, by share."""

    adapter: str
    gpus: list[ReplicaSchema]


class PlanSchema(BaseModel):
    """A placement."""

    plan_id: str
    feasible: bool
    num_gpus: int
    lower_bound: int
    gap: int | None
    bound_rests_on: Literal["load", "count", "share"] = Field(
        description="`load`: the calibration; `share`: what is accepted of a GPU; `count`: adapters."
    )
    given_up: str | None = Field(description="What the objective cost: latency, or GPUs.")
    starvation_probability: float = Field(description="That some GPU of the plan starves.")
    gpus: list[GpuSchema]
    replicas: list[ReplicasSchema] = Field(
        default=[], description="Adapters on several GPUs; those on one are in `gpus` alone."
    )
    unplaced: list[UnplacedSchema]
    rate_z: float | None = Field(
        default=None,
        description="Standard deviations of its load that each GPU is planned for beyond the mean; where "
        "rates are uncertain.",
    )
    surrogate_version: str
    calibration_id: str
    verification: VerificationSchema


class MoveSchema(BaseModel):
    """An adapter that changes its GPU: a load there and an unload here, about a second."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    adapter: str
    source: int = Field(alias="from")
    target: int = Field(alias="to")


class UnmendedSchema(BaseModel):
    """A GPU that stays too full, and why."""

    gpu: int
    reason: str


class DeltaSchema(PlanSchema):
    """A plan near the one in force. GPUs that run keep their numbers; `feasible` needs all mended too."""

    moves: list[MoveSchema]
    restarts: list[int] = Field(description="GPUs that run and start anew with other flags.")
    opened: list[int]
    closed: list[int]
    unmended: list[UnmendedSchema]


class PlanOutcomeSchema(BaseModel):
    """How the replay of an answered plan stands; `plan` is the plan as mended, once it finished."""

    plan_id: str
    verification: VerificationSchema
    plan: PlanSchema | None
    error: str | None
