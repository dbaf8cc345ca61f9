"""Settings of an agent, from ``LOADMASTER_AGENT_*`` variables."""

from __future__ import annotations

import socket
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

GPU_COMMAND = (
    "vllm serve {model} --host 127.0.0.1 --port {port} --served-model-name base --load-format dummy "
    "--no-enable-prefix-caching --generation-config vllm --disable-uvicorn-access-log "
    "--max-num-seqs 2048 --max-num-batched-tokens 2048 "
    "--enable-lora --max-loras {max_loras} --max-cpu-loras {max_cpu_loras} --max-lora-rank {max_lora_rank}"
)


class AgentSettings(BaseSettings):
    """Everything that may differ between two agents."""

    model_config = SettingsConfigDict(
        env_prefix="LOADMASTER_AGENT_", frozen=True, extra="ignore", populate_by_name=True
    )

    url: str = Field(default="http://127.0.0.1:8080", description="The service.")
    key: str | None = Field(default=None, description="An API key of scope `agent`.")
    agent_id: str = Field(default_factory=socket.gethostname, pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,79}$")
    home: Path = Field(default=Path("agent"), description="Materials, logs, what was not yet reported.")
    gpu_type: str | None = Field(default=None, description="As in calibrations; else from the GPU's name.")
    engine_version: str | None = Field(default=None, description="Such as vllm-0.32.0; else asked of vLLM.")
    models: dict[str, Path] = Field(
        default={}, description="Directories with a config.json by base model, as JSON."
    )

    command: str = Field(
        default=GPU_COMMAND,
        description="Starts vLLM: words, with {model} {port} {max_loras} {max_cpu_loras} {max_lora_rank} "
        "{kv_cache_memory_bytes}.",
    )
    memory_budget_bytes: int | None = Field(
        default=None,
        ge=1,
        description="What slots and KV cache share, where vLLM does not make them share one memory (its CPU "
        "backend); {kv_cache_memory_bytes} is then what the slots leave of it.",
    )
    port: int = Field(default=8390, ge=1024, le=65535, description="Of the measured server, on loopback.")
    start_deadline_s: float = Field(default=600.0, gt=0, description="A server is up by then or failed.")

    slots: tuple[int, ...] = Field(default=(8, 32, 96), min_length=2, description="max_loras, ascending.")
    ranks: tuple[int, ...] = Field(default=(8, 16, 32, 64), min_length=1, description="max_lora_rank.")
    batches: tuple[int, ...] = Field(
        default=(1, 16, 64, 128, 256), min_length=3, description="Requests held."
    )
    prompt_tokens: tuple[int, ...] = Field(default=(128, 512, 1024), min_length=2)
    answer_tokens: int = Field(default=200, ge=8, description="Mean length of answers.")
    queue_length: int = Field(default=2000, ge=10, description="Requests that wait for a slot at once.")
    ramp_s: float = Field(default=3.0, gt=0, description="Until a held state is steady.")
    window_s: float = Field(default=10.0, gt=0, description="A held state is measured for so long.")
    check_window_s: float = Field(default=120.0, gt=0, description="Of an open-loop run that checks the fit.")
    start_s: float = Field(default=90.0, gt=0, description="A launch takes about so long, for the plan.")
    budget_minutes: float = Field(default=60.0, gt=0, description="A calibration ends by then.")
    target_error: float = Field(default=0.05, gt=0, lt=1, description="Of a step's time: certain enough.")

    heartbeat_s: float = Field(default=5.0, gt=0)
    idle_s: float = Field(default=5.0, gt=0, description="Pause before work is asked for again.")
    drift_url: str | None = Field(default=None, description="A live vLLM to compare with its calibration.")
    drift_calibration: str | None = Field(default=None, description="The calibration it is compared with.")
    drift_max_lora_rank: int = Field(default=16, ge=1, description="Of the live server.")
    drift_window_s: float = Field(default=60.0, gt=0, description="Between two samples of it.")
