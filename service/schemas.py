"""What crosses the border as JSON: the only pydantic models, and their way to and from the domain.

Field names are the contract's. Unknown fields are refused; numbers are finite.
"""

from __future__ import annotations

import dataclasses
import math
from datetime import datetime  # noqa: TC003 (pydantic reads the annotations)
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from pydantic_core import from_json

from placer.problem import DEFAULT_NUM_TRIALS
from placer.ranks import slot_rank
from service.columns import workload_of
from service.errors import InvalidRequestError, MalformedBodyError
from twin.domain import CONSTRAINTS, MAX_CV, MAX_RANK, MAX_RATE_RPS, MAX_TOKENS, ServerConfig, Workload
from twin.simulate import MAX_HORIZON_S, MIN_HORIZON_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.storage.jobs import JobRecord
    from twin.domain import AdapterOutcomes, SimulationReport

M = TypeVar("M", bound=BaseModel)

MAX_SHOWN = 120

MANY_FIELDS = 2_000
"""A text that may hold more is looked at before pydantic, which makes an error of each unknown field."""

MAX_FIELDS = 64
"""No object of ours has as many."""

MAX_DEPTH = 4
"""Objects of ours lie no deeper: request, workload, adapters, adapter."""


class Border(BaseModel):
    """Root of what we read: strict types, finite numbers, no unknown field."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


AdapterId = Annotated[str, Field(min_length=1, max_length=256)]
Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
RateRps = Annotated[float, Field(gt=0, le=MAX_RATE_RPS)]
Tokens = Annotated[float, Field(ge=1, le=MAX_TOKENS)]
Cv = Annotated[float, Field(ge=0, le=MAX_CV)]
ArrivalLaw = Literal["gamma", "weibull", "lognormal"]


class AdapterSchema(Border):
    """One LoRA adapter and its traffic; see `twin.domain.Adapter` for the meaning of each number."""

    id: str = Field(min_length=1, max_length=256)
    rank: int = Field(ge=1, le=MAX_RANK)
    rate_rps: float = Field(gt=0, le=MAX_RATE_RPS)
    input_tokens_mean: float = Field(ge=1, le=MAX_TOKENS)
    output_tokens_mean: float = Field(ge=1, le=MAX_TOKENS)
    input_tokens_cv: float | None = Field(default=None, ge=0, le=MAX_CV)
    output_tokens_cv: float | None = Field(default=None, ge=0, le=MAX_CV)
    arrival_cv: float | None = Field(default=None, ge=0, le=MAX_CV)
    arrival_law: ArrivalLaw | None = None


_ROW_OF = attrgetter(*AdapterSchema.model_fields)


class OptionsSchema(Border):
    """How to plan."""

    objective: Literal["min_gpus", "min_latency"] = "min_gpus"
    max_gpus: int | None = Field(default=None, ge=1, le=1_000_000)
    starvation_risk: float = Field(default=0.05, gt=0, lt=1)
    verify: bool = Field(
        default=False,
        description="Replay the plan in the twin and mend it before answering; else `GET /plans/{plan_id}` "
        "tells later.",
    )
    num_trials: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Adapters that the search for fewer GPUs, and for a closer lower bound, may place anew, "
        "about; 0 is the first plan. Where it is not given: 0 in `POST /place`, which answers in "
        f"milliseconds, and {DEFAULT_NUM_TRIALS:,} with `verify` and wherever else a workload is planned.",
    )
    max_loras: int | None = Field(
        default=None, ge=1, le=4096, description="Slots of every server; without it, each has its own."
    )
    replicas: bool = Field(
        default=True,
        description="Split an adapter that no single GPU carries over several; else it is not placed.",
    )
    max_moves: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Adapters that may change their GPU: of `POST /re-place` only.",
    )


class WorkloadSchema(Border):
    """A workload document: what is to be served, on what, and how to plan it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "base_model": "llama-3.1-8b-instruct",
                    "gpu_type": "h100-64gb",
                    "adapters": [
                        {
                            "id": "a1",
                            "rank": 16,
                            "rate_rps": 0.1,
                            "input_tokens_mean": 223,
                            "output_tokens_mean": 197,
                        }
                    ],
                    "options": {"objective": "min_gpus", "starvation_risk": 0.05},
                }
            ]
        }
    )

    base_model: str = Field(min_length=1, max_length=256)
    gpu_type: str = Field(min_length=1, max_length=256)
    adapters: Annotated[list[AdapterSchema], FailFast()] = Field(min_length=1)
    options: OptionsSchema = OptionsSchema()

    @classmethod
    def parse(cls, document: bytes | str) -> Self:
        """Return the workload that a JSON text holds.

        Raises
        ------
        MalformedBodyError, InvalidRequestError
            Naming the field.
        """
        return parse(cls, document)

    def to_domain(self) -> Workload:
        """Return the domain's columns.

        Raises
        ------
        InvalidInputError
            Naming the field.
        """
        values = zip(*map(_ROW_OF, self.adapters), strict=True)
        columns = dict(zip(AdapterSchema.model_fields, values, strict=True))
        return workload_of(self.base_model, self.gpu_type, columns)


class CurrentGpuSchema(Border):
    """One server that runs, and what it serves."""

    gpu: int = Field(ge=0, le=1_000_000)
    max_loras: int = Field(ge=1, le=4096)
    max_lora_rank: int = Field(ge=1, le=MAX_RANK)
    adapters: list[str]


class CurrentSchema(Border):
    """The plan in force."""

    gpus: list[CurrentGpuSchema]


class ReplaceRequest(WorkloadSchema):
    """A workload as it is now, and the servers that run."""

    model_config = ConfigDict(json_schema_extra={"examples": []})

    current: CurrentSchema


class AdapterColumnsSchema(Border):
    """The adapters by columns: entry `i` of each belongs to the adapter ``id[i]``; see `AdapterSchema`."""

    id: Annotated[list[AdapterId], FailFast()] = Field(min_length=1)
    rank: Annotated[list[Rank], FailFast()]
    rate_rps: Annotated[list[RateRps], FailFast()]
    input_tokens_mean: Annotated[list[Tokens], FailFast()]
    output_tokens_mean: Annotated[list[Tokens], FailFast()]
    input_tokens_cv: Annotated[list[Cv | None], FailFast()] = Field(default_factory=list)
    output_tokens_cv: Annotated[list[Cv | None], FailFast()] = Field(default_factory=list)
    arrival_cv: Annotated[list[Cv | None], FailFast()] = Field(default_factory=list)
    arrival_law: Annotated[list[ArrivalLaw | None], FailFast()] = Field(default_factory=list)


class ColumnarWorkloadSchema(Border):
    """A workload document by columns: shorter, and read faster, than one by rows."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "base_model": "llama-3.1-8b-instruct",
                    "gpu_type": "h100-64gb",
                    "adapters": {
                        "id": ["a1", "a2"],
                        "rank": [16, 8],
                        "rate_rps": [0.1, 0.4],
                        "input_tokens_mean": [223, 223],
                        "output_tokens_mean": [197, 197],
                    },
                }
            ]
        }
    )

    base_model: str = Field(min_length=1, max_length=256)
    gpu_type: str = Field(min_length=1, max_length=256)
    adapters: AdapterColumnsSchema
    options: OptionsSchema = OptionsSchema()


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
    time was up. `queued`, `started` and `failed` tell of a replay behind the answer.
    """

    status: Literal[
        "not_asked", "verified", "starved", "incomplete", "no_gpus", "queued", "started", "failed"
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


class StageSchema(BaseModel):
    """A stage of a recalibration: when it was entered and left, in seconds since the epoch, how far it is."""

    stage: str
    started_at_s: float
    ended_at_s: float | None
    progress: float
    detail: str


class JobSchema(BaseModel):
    """A job. `report` is there once it finished, `error` once it failed; a recalibration has stages."""

    job_id: str
    kind: str
    request_id: str | None = Field(description="Of the request that queued it; the logs carry it.")
    state: Literal["queued", "started", "finished", "failed", "cancelled"]
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    report: dict[str, Any] | None
    error: str | None
    stage: str | None = Field(
        default=None,
        description="requested, measuring, fitting, simulating, training, validating, published, rejected, "
        "failed or cancelled.",
    )
    progress: float | None = Field(default=None, description="Of the stage, 0 to 1.")
    detail: str | None = Field(default=None, description="What the stage does, or why it ended so.")
    stages: list[StageSchema] = Field(
        default_factory=list, description="Those entered, the present one last."
    )
    calibration_id: str | None = None
    measurement_set: str | None = None
    surrogate_version: str | None = Field(default=None, description="The candidate's.")

    @classmethod
    def from_record(cls, record: JobRecord) -> Self:
        """Return the answer for a job."""
        return cls.model_validate(record, from_attributes=True)


class JobListSchema(BaseModel):
    """The newest jobs, without their reports."""

    jobs: list[JobSchema]


class HealthSchema(BaseModel):
    """State of this process; `store` tells of the store, which readiness does not depend on."""

    status: Literal["alive", "ready", "starting"]
    store: Literal["up", "down"] | None = None
    calibrations: list[str] | None = None


class ProblemSchema(BaseModel):
    """RFC 9457 problem details, with the field to mend where there is one."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None


def parse(model: type[M], document: bytes | str, *, wide: tuple[str, ...] = ()) -> M:
    """Return the model that a JSON text holds, or raise an error that names the field.

    Parameters
    ----------
    wide
        Top-level fields that are maps of any length.
    """
    _refuse_crowded_object(document, wide)
    try:
        return model.model_validate_json(document)
    except ValidationError as error:
        raise _request_error(error) from None


def _refuse_crowded_object(document: bytes | str, wide: tuple[str, ...]) -> None:
    """Refuse an object with a great many fields; what else is wrong, pydantic tells.

    Listing a million unknown fields takes pydantic ten seconds and a gigabyte, no other thread running.
    """
    colons = document.count(b":") if isinstance(document, bytes) else document.count(":")
    if colons <= MANY_FIELDS:
        return
    try:
        value = from_json(document)
    except ValueError:
        return
    if isinstance(value, dict):
        value = {name: part for name, part in value.items() if name not in wide}
    location = _crowded_object(value) if isinstance(value, (dict, list)) else None
    if location is not None:
        raise InvalidRequestError(
            f"is refused: an object may have at most {MAX_FIELDS} fields",
            field=field_path(location) or "body",
        )


def _crowded_object(value: Any, location: tuple[int | str, ...] = ()) -> tuple[int | str, ...] | None:
    """Return where an object with more than `MAX_FIELDS` fields is, None if there is none."""
    if isinstance(value, dict) and len(value) > MAX_FIELDS:
        return location
    if len(location) < MAX_DEPTH:
        for name, child in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(child, (dict, list)):
                found = _crowded_object(child, (*location, name))
                if found is not None:
                    return found
    return None


def _request_error(error: ValidationError) -> InvalidRequestError | MalformedBodyError:
    """Turn the first complaint of pydantic into ours."""
    first = error.errors(include_url=False, include_context=False)[0]
    message = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == "json_invalid":
        return MalformedBodyError(f"is not JSON: {message}"[: 2 * MAX_SHOWN], field="body")
    field = field_path(first["loc"]) or "body"
    got = "" if first["type"] in {"missing", "extra_forbidden"} else f", got {_shown(first['input'])}"
    return InvalidRequestError(f"is refused: {message}{got}", field=field)


def _shown(value: Any) -> str:
    """Return a refused value, shortened; a long one is not spelled out first."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'an array'} of length {len(value)}"
    return repr(value[:MAX_SHOWN] if isinstance(value, str) else value)[:MAX_SHOWN]


def field_path(location: Sequence[int | str]) -> str:
    """Return a path as users write it: ``adapters[3].rate_rps``."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part[:MAX_SHOWN]}" if path else part[:MAX_SHOWN]
    return path


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
