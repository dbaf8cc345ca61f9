"""The nouns of the paged engine: a server without slots, its laws, its calibration.

Standard library and numpy only, as in `twin.domain`. Flags are spelled as S-LoRA spells them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twin.checks import (
    require,
    require_errors,
    require_integer,
    require_law,
    require_name,
    require_share,
)
from twin.domain import MAX_FLAG, MAX_RANK
from twin.traffic import MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_POOL_TOKENS = 100_000_000
"""Above every token pool that fits on a GPU."""

PREFILL_SHARE = 6
"""S-LoRA's default `batch_max_tokens` is the pool over this number."""

DEFAULT_MAX_REQ_TOTAL_LEN = 2048 + 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedServerConfig:
    """The flags of one S-LoRA server.

    Attributes
    ----------
    max_total_token_num
        Tokens of the pool that keys, values and adapters share.
    batch_max_tokens
        Prompt tokens of one prefill step; None takes S-LoRA's default, a sixth of the pool but not
        less than `max_req_total_len`.
    running_max_req_size
        Running requests at most.
    max_req_total_len
        Longest request, prompt and answer, in tokens.
    max_wait_tokens
        Decode steps between two looks at the waiting queue while requests run (a constant in
        S-LoRA's router).
    max_new_tokens
        The limit on generated tokens that every request declares, which admission reserves for. None:
        each request declares the length it comes to, as a benchmark with fixed lengths does.
    """

    max_total_token_num: int
    batch_max_tokens: int | None = None
    running_max_req_size: int = 1000
    max_req_total_len: int = DEFAULT_MAX_REQ_TOTAL_LEN
    max_wait_tokens: int = 10
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        require_integer("max_total_token_num", self.max_total_token_num, 2, MAX_POOL_TOKENS)
        require_integer("running_max_req_size", self.running_max_req_size, 1, MAX_FLAG)
        require_integer("max_req_total_len", self.max_req_total_len, 2, MAX_TOKENS)
        require_integer("max_wait_tokens", self.max_wait_tokens, 1, MAX_FLAG)
        if self.batch_max_tokens is not None:
            require_integer("batch_max_tokens", self.batch_max_tokens, self.max_req_total_len)
        if self.max_new_tokens is not None:
            require_integer("max_new_tokens", self.max_new_tokens, 1, self.max_req_total_len - 1)

    @property
    def prefill_budget_tokens(self) -> int:
        """Prompt tokens of one prefill step, the default resolved."""
        if self.batch_max_tokens is not None:
            return self.batch_max_tokens
        return max(self.max_total_token_num // PREFILL_SHARE, self.max_req_total_len)


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedStepLaw:
    """The time of a decode step and of a prefill step, milliseconds: sums of non-negative terms.

    Attributes
    ----------
    decode_base_ms, prefill_base_ms
        Every step of that kind.
    decode_request_ms
        Each request in a decode step, the reading of its context and adapter included.
    decode_crowd_ms
        Each thousand of the square of the requests in a decode step: large batches cost more than
        in proportion.
    decode_rank_ms
        Each unit of rank of the distinct adapters in a decode step.
    prefill_token_ms
        Each prompt token.
    prefill_rank_ms
        Each unit of rank of the distinct adapters in a prefill step.
    """

    decode_base_ms: float
    decode_request_ms: float
    decode_crowd_ms: float
    decode_rank_ms: float
    prefill_base_ms: float
    prefill_token_ms: float
    prefill_rank_ms: float

    def __post_init__(self) -> None:
        require_law(self, "step")
        shortest_ms = 0.001
        for name in ("decode_base_ms", "prefill_base_ms"):
            value = getattr(self, name)
            require(value >= shortest_ms, f"step.{name}", f"must be >= {shortest_ms}, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedLoadLaw:
    """The time to bring one adapter from host memory into the pool, milliseconds.

    Attributes
    ----------
    load_rank_ms
        Each unit of the adapter's rank: its bytes are proportional to it.
    """

    load_rank_ms: float

    def __post_init__(self) -> None:
        require_law(self, "load")


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedCalibration:
    """The fitted laws of one S-LoRA server, and what they rest on.

    Attributes
    ----------
    gpu_type, base_model, engine_version
        Together the calibration's id.
    pool_tokens
        Tokens of the pool of the measured server; a larger one is refused, not extrapolated.
    adapter_tokens_per_rank
        Tokens of the pool that one unit of an adapter's rank takes.
    step, load
        The laws.
    generated_over_requested
        Generated tokens as the client counted them over requested ones, where it kept up.
    max_known_rank
        Largest rank that was measured.
    standard_errors, errors, provenance
        As in `twin.domain.Calibration`.
    """

    gpu_type: str
    base_model: str
    engine_version: str
    pool_tokens: int
    adapter_tokens_per_rank: int
    step: PagedStepLaw
    load: PagedLoadLaw
    generated_over_requested: float
    max_known_rank: int
    standard_errors: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("gpu_type", "base_model", "engine_version"):
            require_name(name, getattr(self, name))
        require_integer("pool_tokens", self.pool_tokens, 2, MAX_POOL_TOKENS)
        require_integer("adapter_tokens_per_rank", self.adapter_tokens_per_rank, 1, MAX_TOKENS)
        require_share("generated_over_requested", self.generated_over_requested)
        require_integer("max_known_rank", self.max_known_rank, 1, MAX_RANK)
        for name in ("standard_errors", "errors"):
            require_errors(name, getattr(self, name))

    @property
    def calibration_id(self) -> str:
        """``<gpu_type>/<base_model>/<engine-version>``."""
        return f"{self.gpu_type}/{self.base_model}/{self.engine_version}"
