"""Measurement sets as agents make them: a manifest beside tables, and the columns of each table.

A set without a manifest is one of benchmark runs (``h100_vllm``); `twin.fitting.calibrate` reads both.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from twin.checks import require_name
from twin.documents import build, read_object
from twin.errors import InvalidInputError
from twin.shapes import shape_from_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from twin.domain import ModelShape

MANIFEST = "manifest.json"
LAUNCHES, LOADS, STEPS, CHECKS = "memory_kv.csv", "load_times.csv", "step_points.csv", "runs.csv"

EXACT_ANSWERS = 1.0
"""Agents ask for answers of exact length: generated over requested tokens."""

COLUMNS: Mapping[str, tuple[str, ...]] = {
    LAUNCHES: ("model", "max_loras", "max_lora_rank", "kv_tokens", "start_s", "failed", "error"),
    LOADS: (
        *("model", "adapter_rank", "max_lora_rank", "source", "n"),
        *("mean_ms", "median_ms", "p10_ms", "p90_ms", "std_ms", "max_ms"),
    ),
    STEPS: (
        *(
            "model",
            "kind",
            "max_loras",
            "max_lora_rank",
            "concurrency",
            "adapters",
            "input_len",
            "output_len",
        ),
        *(
            "duration_s",
            "steps",
            "decodes",
            "prefill_tokens",
            "context_tokens",
            "adapters_in_batch",
            "scanned",
        ),
        *("step_ms", "step_ms_se", "itl_ms", "ttft_ms", "tot_tok_s", "preemptions"),
    ),
    CHECKS: (
        *("run_id", "model", "workload", "adapters", "max_loras", "max_cpu_loras", "max_lora_rank"),
        "block_size",
        *("lora_rank_pool", "adapter_rate_counts", "sum_rate_req_s", "duration_s"),
        *("pool_mean_input_len", "pool_mean_output_len", "completed", "tot_tok_s", "mean_ttft_ms"),
        *("ttft_incl_unfinished_ms", "mean_itl_ms", "median_itl_ms", "mean_tpot_ms", "mean_running"),
        *("failed", "error"),
    ),
}
"""Columns by table. Launches, loads and checks are those of benchmark sets, as far as an agent knows them.

`STEPS` has a row for each state that a server was held in: means over its steps. ``decodes``,
``prefill_tokens``, ``context_tokens``, ``adapters_in_batch`` are what a step held, ``scanned`` the waiting
requests that its scan passed, ``step_ms_se`` the standard error of ``step_ms``.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a set was measured on.

    Attributes
    ----------
    gpu_type, base_model, engine_version
        The calibration's id.
    agent_id
        Who measured.
    model_config
        The base model's ``config.json``.
    command
        How each server was started, with placeholders.
    device
        The GPU's name and driver, as its own tools say.
    measured_on
        Date, ISO.
    uncertain
        What the measurements leave uncertain, a sentence each.
    """

    gpu_type: str
    base_model: str
    engine_version: str
    agent_id: str
    model_config: Mapping[str, Any]
    command: str = ""
    device: str = ""
    measured_on: str = ""
    uncertain: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("gpu_type", "base_model", "engine_version", "agent_id"):
            require_name(f"manifest.{name}", getattr(self, name))
        if not all(isinstance(line, str) for line in self.uncertain):
            raise InvalidInputError("manifest.uncertain", "must be a list of sentences")
        shape_from_config(self.model_config)

    @property
    def shape(self) -> ModelShape:
        """The base model's shapes."""
        return shape_from_config(self.model_config)


def manifest_to_json(manifest: Manifest) -> str:
    """Return the manifest as indented JSON that `manifest_from_json` reads back equal."""
    return json.dumps(asdict(manifest), indent=1) + "\n"


def manifest_from_json(text: str | bytes) -> Manifest:
    """Return the manifest that a JSON document holds.

    Raises
    ------
    InvalidInputError
        For text that is no JSON object, a missing, unknown or wrong field.
    """
    document = read_object(text, "manifest")
    uncertain = document.get("uncertain", [])
    if not isinstance(uncertain, list):
        raise InvalidInputError("manifest.uncertain", "must be a list of sentences")
    return build(Manifest, document | {"uncertain": tuple(uncertain)}, "manifest", of="a manifest")


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest of a set, None for a set of benchmark runs, which has none."""
    path = directory / MANIFEST
    return manifest_from_json(path.read_bytes()) if path.is_file() else None
