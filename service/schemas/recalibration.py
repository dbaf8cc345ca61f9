"""What crosses the border about recalibrations, measurement sets and workers."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.border import Border, parse
from service.services.measuring import MAX_NAME, MeasuringTarget
from service.services.recalibration_request import RecalibrationRequest
from twin.measured import DEFAULT_ENGINE_VERSION

if TYPE_CHECKING:
    from service.services.measurements import MeasurementSet
    from service.storage.refreshes import RefreshState

NAME = r"^[A-Za-z0-9][A-Za-z0-9.-]*$"
MAX_ROWS = 5_000_000


class RecalibrateRequest(Border):
    """Which kind of server to recalibrate, and from what; a request for one under way joins it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "base_model": "llama-3.1-8b-instruct",
                    "gpu_type": "h100-64gb",
                    "engine_version": "vllm-0.8.5",
                    "measurement_set": "0123456789abcdef01234567",
                    "num_rows": 16000,
                }
            ]
        }
    )

    base_model: str = Field(max_length=MAX_NAME, pattern=NAME)
    gpu_type: str = Field(max_length=MAX_NAME, pattern=NAME)
    engine_version: str = Field(default=DEFAULT_ENGINE_VERSION, max_length=MAX_NAME, pattern=NAME)
    measurement_set: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{24}$",
        description="Of POST /measurement-sets; without it agents measure.",
    )
    num_rows: int | None = Field(
        default=None, ge=64, le=MAX_ROWS, description="Servers to simulate; LOADMASTER_RECALIBRATION_ROWS."
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    refresh: bool = Field(
        default=False,
        description="Measure nothing: teach the surrogate in force anew, with what the plan in force runs.",
    )

    def to_request(self) -> RecalibrationRequest:
        """Return it in the service's terms."""
        return RecalibrationRequest(
            target=MeasuringTarget(
                base_model=self.base_model,
                gpu_type=self.gpu_type,
                engine_version=self.engine_version,
            ),
            measurement_set=self.measurement_set,
            num_rows=self.num_rows,
            seed=self.seed,
        )


class MeasurementSetRequest(Border):
    """Measured tables as CSV text, by file name: the layout that `calibrate fit --measurements` reads."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"tables": {"runs.csv": "model,adapters,...\n", "memory_kv.csv": "model,...\n"}}]
        }
    )

    tables: dict[str, str] = Field(
        min_length=1,
        max_length=16,
        description="memory_kv.csv, load_times.csv, scheduler_time.csv, step_latency_runs.csv, "
        "length_stats.csv, runs.csv; model_config.json where the base model's shapes are not known.",
    )

    @classmethod
    def read(cls, document: bytes) -> dict[str, bytes]:
        """Return the tables that a JSON text holds."""
        return {name: text.encode() for name, text in parse(cls, document).tables.items()}


class MeasurementSetSchema(BaseModel):
    """A measurement set that was read and found sound."""

    measurement_set: str = Field(description="Hash of its tables.")
    base_models: list[str]
    num_runs: int

    @classmethod
    def from_set(cls, one: MeasurementSet) -> Self:
        """Return the answer for a set."""
        return cls(measurement_set=one.set_id, base_models=list(one.base_models), num_runs=one.num_runs)


class MeasurementSetListSchema(BaseModel):
    """Every measurement set."""

    measurement_sets: list[MeasurementSetSchema]


class WorkerSchema(BaseModel):
    """A worker process that the store has heard from lately."""

    name: str
    hostname: str | None
    pid: int | None
    queues: list[str]
    state: str
    job_id: str | None
    started_at: datetime | None
    heartbeat_at: datetime | None
    num_finished: int
    num_failed: int


class QueueSchema(BaseModel):
    """One queue of jobs."""

    queue: str
    num_waiting: int
    num_running: int
    num_failed: int


class WorkerListSchema(BaseModel):
    """Workers and queues."""

    workers: list[WorkerSchema]
    queues: list[QueueSchema]


class RefreshSchema(BaseModel):
    """What the last look at a plan in force found, beside what its surrogate was taught."""

    calibration_id: str
    surrogate_version: str
    as_of: datetime
    num_gpus: int
    num_out_of_range: int = Field(description="GPUs that leave the trained range in some feature.")
    out_of_range: dict[str, int] = Field(description="GPUs by feature.")
    num_thin: int | None = Field(
        description="Other GPUs, with few taught twin runs near them; null until a worker has looked."
    )
    num_live_servers: int = Field(description="Servers that a refresh would simulate.")
    job_id: str | None = Field(description="Of the last refresh of this surrogate.")
    proposal: str = Field(description="What to do; empty where nothing.")

    @classmethod
    def from_state(cls, state: RefreshState) -> Self:
        """Return the answer for what a round saw."""
        live = 0 if state.live is None else len(state.live.servers)
        told = {name: getattr(state, name) for name in cls.model_fields if name != "num_live_servers"}
        return cls(**told, num_live_servers=live)


class RefreshListSchema(BaseModel):
    """Every plan that was looked at."""

    refreshes: list[RefreshSchema]
