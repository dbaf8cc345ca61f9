"""What crosses the border between agents and the service."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.border import Border
from service.storage.agents import AgentRecord
from twin.domain import MAX_RANK, MAX_TOKENS

if TYPE_CHECKING:
    from service.services.agents import AgentView
    from service.storage.agents import MeasuringTask

AgentName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,79}$")]
Name = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")]
Cell = str | int | float | bool | None
MAX_POINTS = 1000
MAX_BASE_MODELS = 100
MAX_MANIFEST_FIELDS = 64


class AgentSchema(Border):
    """An agent as it registers: what it measures on, and what it can start."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "agent_id": "gpu-7",
                    "gpu_type": "h100-64gb",
                    "engine_version": "vllm-0.32.0",
                    "base_models": ["llama-3.1-8b-instruct"],
                    "memory_bytes": 68719476736,
                    "device": "NVIDIA H100",
                    "driver": "570.86.15",
                }
            ]
        }
    )

    agent_id: AgentName
    gpu_type: Name
    engine_version: Name
    base_models: list[Name] = Field(max_length=MAX_BASE_MODELS)
    memory_bytes: int = Field(ge=0, le=2**50)
    device: str = Field(default="", max_length=200)
    driver: str = Field(default="", max_length=80)

    def to_record(self) -> AgentRecord:
        """Return the agent as it is kept; the times are the service's."""
        return AgentRecord(
            **self.model_dump(exclude={"base_models"}),
            base_models=tuple(self.base_models),
            registered_at_s=0.0,
            seen_at_s=0.0,
        )


class RegisteredSchema(BaseModel):
    """How an agent is to behave."""

    agent_id: str
    lease_s: float = Field(description="A task is given back after so long without a heartbeat.")


class HeartbeatRequest(Border):
    """An agent lives; with a job, it still measures for it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"job_id": "recalibrate-1", "progress": 0.4}]})

    job_id: str | None = Field(default=None, min_length=1, max_length=128)
    progress: float = Field(default=0.0, ge=0, le=1)


class HeartbeatSchema(BaseModel):
    """Whether the task is still the agent's; if not, it stops."""

    keep: bool


class WorkSchema(BaseModel):
    """What to measure, and for how long it is the agent's."""

    job_id: str
    base_model: str
    gpu_type: str
    engine_version: str
    lease_s: float


class WorkAnswerSchema(BaseModel):
    """The task that is the agent's now, null where there is nothing to measure."""

    work: WorkSchema | None


class PointSchema(Border):
    """One measured point. Reported again under the same key, the first one stands."""

    key: str = Field(min_length=1, max_length=200)
    table: str = Field(min_length=1, max_length=80)
    row: dict[str, Cell] = Field(max_length=MAX_MANIFEST_FIELDS)


class MeasurementsRequest(Border):
    """Points that an agent measured for a job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "agent_id": "gpu-7",
                    "job_id": "recalibrate-1",
                    "points": [
                        {
                            "key": "launch/s32-r8",
                            "table": "memory_kv.csv",
                            "row": {
                                "model": "llama-3.1-8b-instruct",
                                "max_loras": 32,
                                "max_lora_rank": 8,
                                "kv_tokens": 294352,
                            },
                        }
                    ],
                }
            ]
        }
    )

    agent_id: AgentName
    job_id: str = Field(min_length=1, max_length=128)
    points: list[PointSchema] = Field(max_length=MAX_POINTS)


class AddedSchema(BaseModel):
    """How many points were new, and how many the job has."""

    added: int
    known: int


class PointsSchema(BaseModel):
    """What was measured for a job."""

    job_id: str
    points: list[dict[str, Any]]


class WorkOutcomeRequest(Border):
    """How an agent ends its work: measured, given back, or failed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"state": "returned", "reason": "it shuts down"}]}
    )

    state: Literal["measured", "returned", "failed"]
    reason: str = Field(default="", max_length=2000)
    manifest: dict[str, Any] | None = Field(
        default=None, description="With `measured`: what it was measured on, as in a measurement set."
    )


class TaskSchema(BaseModel):
    """A task of agents."""

    job_id: str
    base_model: str
    gpu_type: str
    engine_version: str
    state: Literal["waiting", "measuring", "done", "failed"]
    progress: float
    reason: str
    set_id: str | None

    @classmethod
    def from_task(cls, task: MeasuringTask) -> Self:
        """Return the answer for a task."""
        return cls(
            job_id=task.job_id,
            base_model=task.base_model,
            gpu_type=task.gpu_type,
            engine_version=task.engine_version,
            state=task.state,
            progress=task.progress,
            reason=task.reason,
            set_id=task.set_id or None,
        )


class AgentViewSchema(BaseModel):
    """An agent, when it was last heard of, and what it does."""

    agent_id: str
    gpu_type: str
    engine_version: str
    base_models: list[str]
    memory_bytes: int
    device: str
    driver: str
    registered_at: datetime
    seen_at: datetime
    state: Literal["idle", "measuring", "silent"]
    task: TaskSchema | None

    @classmethod
    def from_view(cls, view: AgentView) -> Self:
        """Return the answer for an agent."""
        record = view.record
        return cls(
            agent_id=record.agent_id,
            gpu_type=record.gpu_type,
            engine_version=record.engine_version,
            base_models=list(record.base_models),
            memory_bytes=record.memory_bytes,
            device=record.device,
            driver=record.driver,
            registered_at=datetime.fromtimestamp(record.registered_at_s, UTC),
            seen_at=datetime.fromtimestamp(record.seen_at_s, UTC),
            state=view.state,  # type: ignore[arg-type]
            task=None if view.task is None else TaskSchema.from_task(view.task),
        )


class SampleRequest(Border):
    """What a live server did in a window, and under which load."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "calibration_id": "h100-64gb/llama-3.1-8b-instruct/vllm-0.8.5",
                    "duration_s": 60.0,
                    "max_loras": 32,
                    "max_lora_rank": 16,
                    "adapters": 48,
                    "rate_rps": 4.0,
                    "input_tokens_mean": 223.0,
                    "output_tokens_mean": 197.0,
                    "num_requests": 240,
                    "running": 31.0,
                    "waiting": 0.0,
                    "itl_ms": 38.0,
                    "tot_tok_s": 1680.0,
                }
            ]
        }
    )

    calibration_id: str = Field(min_length=1, max_length=256)
    duration_s: float = Field(gt=0, le=86_400)
    max_loras: int = Field(ge=1, le=4096)
    max_lora_rank: int = Field(ge=1, le=MAX_RANK)
    adapters: int = Field(ge=1, le=20_000)
    rate_rps: float = Field(gt=0, le=1000)
    input_tokens_mean: float = Field(ge=1, le=MAX_TOKENS)
    output_tokens_mean: float = Field(ge=1, le=MAX_TOKENS)
    num_requests: int = Field(ge=0, le=2**31)
    running: float = Field(ge=0, le=1e6)
    waiting: float = Field(ge=0, le=1e6)
    itl_ms: float | None = Field(default=None, gt=0, le=1e6)
    tot_tok_s: float = Field(ge=0, le=1e9)


class DriftSchema(BaseModel):
    """How a calibration compares with live servers; ratios are measured over predicted, less 1."""

    calibration_id: str
    drifted: bool
    ratios: dict[str, float]
    num_samples: int
    as_of: datetime
    proposal: str


class DriftListSchema(BaseModel):
    """Every calibration that was compared."""

    calibrations: list[DriftSchema]


class AgentListSchema(BaseModel):
    """All agents, by name."""

    agents: list[AgentViewSchema]
