"""The fitted estimators of one server, as laws with their coefficients, and the calibration that has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twin.checks import require, require_errors, require_integer, require_law, require_name, require_share

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What the base model's `config.json` and vLLM's LoRA layers say about memory.

    Attributes
    ----------
    num_layers, hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim, vocab_size
        As in the model's configuration.
    dtype_bytes
        Bytes of one weight, KV or LoRA element.
    max_model_len
        Longest request the model takes, tokens.
    has_embedding_lora
        Whether vLLM reserves LoRA buffers for embedding and output head too (Llama yes, Qwen2 no).
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    dtype_bytes: int
    max_model_len: int
    has_embedding_lora: bool

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if name != "has_embedding_lora":
                require_integer(f"model.{name}", getattr(self, name), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLaw:
    """Mem_max: what is left for the KV cache and the adapter slots together.

    Attributes
    ----------
    pool_bytes
        `gpu_memory_utilization` x GPU memory - weights - activations: slots and KV share it.
    """

    pool_bytes: float

    def __post_init__(self) -> None:
        require_law(self, "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLaw:
    """Lat_model: the time of one engine step, milliseconds, as a sum of non-negative terms.

    ``step_ms`` is the sum of coefficient x regressor (see `twin.kernels.latency`).

    Attributes
    ----------
    base_ms
        Every step.
    decode_ms
        Each decoding request.
    prefill_ms
        Each prompt token computed in the step.
    context_ms
        Each 1,000 tokens of context that decoding requests read from the KV cache.
    compute_ms
        Each token (decode or prompt) beyond the largest CUDA graph's, `GRAPH_TOKENS`.
    adapter_ms
        Each distinct adapter in the batch.
    adapter_prefill_ms
        Each distinct adapter x 1,000 prompt tokens computed.
    rank_ms
        A step with adapters, x (`max_lora_rank` / 8 - 1).
    slot_ms
        A step with adapters: each adapter slot of the server, used or not.
    slot_token_ms
        A step with adapters: each adapter slot x 1,000 tokens computed. LoRA's kernels start a thread
        block for each slot and block of tokens, and those without work still have to end.
    eager_ms
        A step with adapters and more tokens than the largest CUDA graph.
    """

    base_ms: float
    decode_ms: float
    prefill_ms: float
    context_ms: float
    compute_ms: float
    adapter_ms: float
    adapter_prefill_ms: float
    rank_ms: float
    slot_ms: float
    slot_token_ms: float
    eager_ms: float

    def __post_init__(self) -> None:
        require_law(self, "step")
        shortest_ms = 0.001
        require(
            self.base_ms >= shortest_ms, "step.base_ms", f"must be >= {shortest_ms}, got {self.base_ms!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLaw:
    """Lat_sched: time in vLLM's scheduler in one step, microseconds.

    Attributes
    ----------
    base_us, running_us, scanned_us
        Every step; each running request; each waiting request that the scan passes.
    far_us
        More, for each one beyond `FAR_QUEUE`.
    """

    base_us: float
    running_us: float
    scanned_us: float
    far_us: float

    def __post_init__(self) -> None:
        require_law(self, "scheduler")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadLaw:
    """Lat_load: time to bring one adapter into a slot, milliseconds.

    Attributes
    ----------
    cpu_ms
        From host memory.
    cpu_padding_ms
        More, when the adapter's rank is below `max_lora_rank`.
    disk_ms, disk_rank_ms
        From disk: constant, and for each unit of the adapter's rank.
    """

    cpu_ms: float
    cpu_padding_ms: float
    disk_ms: float
    disk_rank_ms: float

    def __post_init__(self) -> None:
        require_law(self, "load")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEndLaw:
    """What keeps the API server, one process before the engine, from passing anything on.

    Attributes
    ----------
    first_use_ms
        An adapter's first request after a cold start.
    label_us
        A scrape of ``/metrics``: each adapter's name in a label of ``lora_requests_info``.
    """

    first_use_ms: float = 0.0
    label_us: float = 0.0

    def __post_init__(self) -> None:
        require_law(self, "front_end")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The four fitted estimators of one server, and what they rest on.

    Attributes
    ----------
    gpu_type, base_model, engine_version
        Together the calibration's id.
    model, memory, step, scheduler, load
        The model's shapes and the estimators.
    front_end
        The API server, which matters to comparisons with benchmarks alone.
    generated_over_requested
        Generated tokens over requested ones: text ends early (0.991 Llama, 0.955 Qwen).
    max_known_rank
        Largest `max_lora_rank` that was measured; a higher one is refused, not extrapolated.
    standard_errors, errors, provenance
        By name: coefficient errors, each estimator's error on its data, and where it came from
        (data, command, date).
    """

    gpu_type: str
    base_model: str
    engine_version: str
    model: ModelShape
    memory: MemoryLaw
    step: StepLaw
    scheduler: SchedulerLaw
    load: LoadLaw
    generated_over_requested: float
    max_known_rank: int
    front_end: FrontEndLaw = FrontEndLaw()
    standard_errors: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("gpu_type", "base_model", "engine_version"):
            require_name(name, getattr(self, name))
        require_share("generated_over_requested", self.generated_over_requested)
        require_integer("max_known_rank", self.max_known_rank, 1)
        for name in ("standard_errors", "errors"):
            require_errors(name, getattr(self, name))

    @property
    def calibration_id(self) -> str:
        """``<gpu_type>/<base_model>/<engine-version>``."""
        return f"{self.gpu_type}/{self.base_model}/{self.engine_version}"
