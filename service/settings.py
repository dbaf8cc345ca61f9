"""Settings of every process, from ``LOADMASTER_*`` variables; each has a default that works."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.services.keys import Scope  # noqa: TC001 (pydantic reads the annotations)

OidcAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""Signatures with a private key: none that a holder of the public one could make."""


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(BaseSettings):
    """Everything that may differ between two installations."""

    model_config = SettingsConfigDict(
        env_prefix="LOADMASTER_", frozen=True, extra="ignore", populate_by_name=True
    )

    data_dir: Path = Field(
        default=Path("data"), description="Store, published versions, measurements, data sets."
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="Address that `serve` binds.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port that `serve` binds; 0 picks one.")
    redis_url: str | None = Field(
        default=None,
        pattern="^(rediss?|unix)://.",
        validation_alias=AliasChoices("LOADMASTER_REDIS_URL", "REDIS_URL"),
        description="A Redis or Valkey to use; without it `serve` starts its own.",
    )
    keys_file: Path | None = Field(default=None, description="API keys; `keys.json` of the data directory.")
    key_refresh_s: float = Field(default=1.0, gt=0, description="How often the keys are read again.")
    key_rate_rps: float = Field(default=100.0, gt=0, description="Requests a second of one key; more: 429.")
    key_burst: int = Field(default=200, ge=1, description="Requests of one key at once.")
    auth_failures_rps: float = Field(
        default=0.2, gt=0, description="Failed authentications a second of one address; more: 429."
    )
    auth_failures_burst: int = Field(default=20, ge=1, description="Of one address at once.")
    oidc_issuer: str | None = Field(
        default=None, pattern="^https?://.", description="An OpenID Connect provider whose tokens are taken."
    )
    oidc_audience: str = Field(default="loadmaster", min_length=1, description="Tokens must be for it.")
    oidc_jwks_url: str | None = Field(
        default=None, pattern="^https?://.", description="Its public keys; without it, as the issuer tells."
    )
    oidc_algorithms: tuple[OidcAlgorithm, ...] = Field(
        default=("RS256", "ES256"), min_length=1, description="Of signatures that are taken."
    )
    oidc_scope_claim: str = Field(default="scope", min_length=1, description="Where a token's scopes are.")
    oidc_scopes: dict[str, Scope] = Field(
        default={"place": "place", "ops": "ops", "agent": "agent"},
        description="What each of a token's scopes opens; others open nothing.",
    )
    oidc_leeway_s: float = Field(
        default=30.0, ge=0, le=300, description="Between the provider's clock and ours."
    )
    oidc_timeout_s: float = Field(default=5.0, gt=0, description="Longest wait for the provider.")
    oidc_refresh_s: float = Field(default=300.0, gt=0, description="How often its keys are fetched.")
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Host names, besides this machine's own, answered while there is no key."
    )
    otel_endpoint: str | None = Field(
        default=None,
        pattern="^https?://.",
        description="Where traces go: a collector's OTLP over HTTP, such as http://collector:4318/v1/traces.",
    )
    otel_sample_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the traces that begin here; others go on as they began.",
    )
    processes: int = Field(default=1, ge=1, le=64, description="HTTP processes of `serve`.")
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    max_body_bytes: int = Field(default=16 * 2**20, ge=1024, description="Longer bodies answer 413.")
    max_held_bytes: int = Field(default=256 * 2**20, ge=1024, description="Of all bodies at a time.")
    max_json_values: int = Field(default=1_000_000, ge=1000, description="In one body; more answer 422.")
    max_adapters: int = Field(default=20_000, ge=1, description="Adapters in one workload at most.")
    body_deadline_s: float = Field(default=15.0, gt=0, description="A body must have arrived by then.")
    place_threads: int = Field(default_factory=_num_cores, ge=1, description="Placements at a time.")
    place_backlog: int = Field(default=64, ge=0, description="Placements that wait; more answer 503.")
    place_deadline_s: float = Field(default=30.0, gt=0, description="A placement answers 503 after it.")
    verify_deadline_s: float = Field(
        default=20.0, gt=0, description="No replay of `verify` begins later; the rest is `incomplete`."
    )
    max_queued_verifications: int = Field(
        default=8, ge=0, description="Plans that wait for a replay behind the answer; more are not replayed."
    )
    drain_s: float = Field(default=10.0, gt=0, description="Time for open requests and jobs at SIGTERM.")

    store_appendfsync: Literal["everysec", "always"] = Field(
        default="everysec", description="When the embedded store forces writes to the disk."
    )
    store_timeout_s: float = Field(default=2.0, gt=0, description="Longest wait for the store.")
    refresh_interval_s: float = Field(default=5.0, gt=0, description="How often the workload is re-read.")
    stale_after_s: float = Field(default=30.0, gt=0, description="Unconfirmed for longer is `stale`.")
    scale_down_window_s: float = Field(
        default=600.0, ge=0, le=86_400, description="`gpus_needed` falls to the largest number of it."
    )
    rate_noise: float = Field(
        default=0.2, ge=0, le=1, description="It falls once fewer GPUs hold at rates higher by this share."
    )

    worker_nice: int = Field(
        default=10, ge=0, le=19, description="Added to the worker's niceness: answers come before its jobs."
    )
    start_workers: bool = Field(default=True, description="Whether `serve` starts workers beside it.")
    worker_ttl_s: int = Field(default=20, ge=16, description="RQ's `worker_ttl`.")
    job_heartbeat_s: int = Field(default=20, ge=4, description="A job silent for longer is run again.")
    maintenance_interval_s: int = Field(default=10, ge=1, description="How often silent jobs are sought.")
    job_timeout_s: int = Field(default=600, ge=1, description="A job that runs longer fails.")
    job_retries: int = Field(default=3, ge=1, description="Runs of a job after its first at most.")
    result_ttl_s: int = Field(default=86_400, ge=60, description="How long reports and failures are kept.")
    max_queued_jobs: int = Field(default=1000, ge=1, description="More waiting jobs answer 503.")
    retry_pauses_s: tuple[int, ...] = Field(
        default=(1, 5, 30), min_length=1, description="Pauses before a failed job is run again, in turn."
    )
    job_memory_mb: int = Field(default=4096, ge=0, description="Of a job on the queue `twin`; 0: any.")
    train_timeout_s: int = Field(default=3600, ge=1, description="A step on `train` that runs longer fails.")
    train_memory_mb: int = Field(default=8192, ge=0, description="Of a step on the queue `train`; 0: any.")
    train_processes: int = Field(default_factory=_num_cores, ge=1, description="Of one training.")
    worker_concurrency: int = Field(
        default_factory=_num_cores, ge=1, description="Simulations at a time of the worker of `serve`."
    )
    recalibration_rows: int = Field(default=16_000, ge=64, description="Servers that one simulates.")
    recalibration_active_share: float = Field(
        default=0.25, ge=0, le=0.9, description="Of them, share chosen where earlier ones leave doubt."
    )
    rows_a_batch: int = Field(default=128, ge=1, description="Servers that one job simulates: seconds.")
    refresh_period_s: float = Field(
        default=86_400,
        ge=0,
        le=31_536_000,
        description="How often plans in force are compared with what surrogates were taught; 0: never.",
    )
    refresh_recalibrates: bool = Field(
        default=False,
        description="Whether plans that leave what was taught begin a recalibration; else one is proposed.",
    )
    gate_slack: float = Field(
        default=1.0, gt=0, description="Multiplies margins and limits that a candidate must hold."
    )
    datasets_url: str | None = Field(
        default=None,
        pattern="^[A-Za-z][A-Za-z0-9+.-]*://.",
        description="Where complete data sets go, as fsspec has it, such as s3://bucket/loadmaster; "
        "without it the data directory and the store.",
    )
    kept_datasets: int = Field(default=3, ge=1, description="Newest data sets kept of each calibration.")
    max_simulated_requests: int = Field(default=5_000_000, ge=1, description="Of one job, expected.")

    agent_lease_s: float = Field(
        default=30.0, gt=0, description="An agent's task is given back after so long without a heartbeat."
    )
    drift_limit: float = Field(
        default=0.25, gt=0, description="A live server further from the twin than this share: drifted."
    )
    drift_recalibrates: bool = Field(
        default=False, description="Whether drift begins a recalibration; else one is proposed."
    )

    @property
    def threads_each(self) -> int:
        """`place_threads` of each process: as given, else the cores are shared out."""
        is_given = "place_threads" in self.model_fields_set
        return self.place_threads if is_given else max(1, self.place_threads // self.processes)

    @property
    def keys_path(self) -> Path:
        """Where the API keys are."""
        return self.keys_file or self.data_dir / "keys.json"

    @property
    def audit_path(self) -> Path:
        """Where acts that change what is in force are recorded."""
        return self.data_dir / "audit.log"

    @property
    def peers_dir(self) -> Path:
        """Where the HTTP processes of one `serve` meet."""
        return self.data_dir / "run"

    @property
    def activations_path(self) -> Path:
        """Where this host remembers which versions are in force."""
        return self.data_dir / "surrogates" / "in-force.json"

    @property
    def store_dir(self) -> Path:
        """Where the embedded store's files are."""
        return self.data_dir / "store"
