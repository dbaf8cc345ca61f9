"""Workload documents, by rows or by columns, how to plan them, and the servers that run."""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, FailFast, Field

from placer.problem import DEFAULT_NUM_TRIALS
from service.columns import workload_of
from service.schemas.border import Border, parse
from twin.domain import MAX_CV, MAX_RANK, MAX_RATE_RPS, MAX_TOKENS, Workload

AdapterId = Annotated[str, Field(min_length=1, max_length=256)]
Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
RateRps = Annotated[float, Field(gt=0, le=MAX_RATE_RPS)]
RateError = Annotated[float, Field(ge=0, le=MAX_RATE_RPS)]
Tokens = Annotated[float, Field(ge=1, le=MAX_TOKENS)]
Cv = Annotated[float, Field(ge=0, le=MAX_CV)]
ArrivalLaw = Literal["gamma", "weibull", "lognormal"]


class AdapterSchema(Border):
    """One LoRA adapter and its traffic; see `twin.domain.Adapter` for the meaning of each number."""

    id: str = Field(min_length=1, max_length=256)
    rank: int = Field(ge=1, le=MAX_RANK)
    rate_rps: float = Field(gt=0, le=MAX_RATE_RPS)
    rate_rps_std: float | None = Field(
        default=None,
        ge=0,
        le=MAX_RATE_RPS,
        description="Standard deviation of the error with which the rate is known; errors of adapters are "
        "independent. Plans leave room for it.",
    )
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
    max_ttft_ms: float | None = Field(
        default=None,
        gt=0,
        le=3_600_000,
        description="Mean time to first token that a GPU may have, as predicted; with `verify`, as replayed. "
        "Without it only what is served counts, and requests may wait for minutes.",
    )
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


EXAMPLE: dict[str, Any] = {
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
}
"""What the descriptions of bodies with a workload show."""


class WorkloadSchema(Border):
    """A workload document: what is to be served, on what, and how to plan it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [EXAMPLE | {"options": {"objective": "min_gpus", "starvation_risk": 0.05}}]
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
    rate_rps_std: Annotated[list[RateError | None], FailFast()] = Field(default_factory=list)
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
