"""The nouns everything else speaks of: adapters, workloads, servers, calibrations, reports.

Standard library and numpy only. Every value validates itself when it is built, so code that
receives one need not check it again; the error names the field and the value.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from twin.errors import InvalidInputError
from twin.traffic import ARRIVAL_LAWS, LARGEST_MEAN_ERROR, MAX_CV, MAX_RATE_RPS, MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from twin.traffic import LengthQuantiles, RateSchedule

MAX_RANK = 1024
"""Above every rank that vLLM accepts for `--max-lora-rank`."""

MAX_FLAG = 1_000_000
"""Above every server flag in use; the engine's arrays of this length still fit in memory."""


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _require(condition: bool, name: str, message: str) -> None:  # noqa: FBT001 (an assertion's shape)
    if not condition:
        raise InvalidInputError(name, message)


def _require_integer(name: str, value: int, minimum: int, maximum: float = math.inf) -> None:
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    _require(is_integer and value >= minimum, name, f"must be an integer >= {minimum}, got {value!r}")
    _require(value <= maximum, name, f"must be <= {maximum}, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One LoRA adapter and the traffic it receives.

    Attributes
    ----------
    adapter_id
        Unique in its workload, 1 to 256 characters, none of them a control character.
    rank
        LoRA rank, 1 to `MAX_RANK`.
    rate_rps
        Mean request rate, requests a second, > 0.
    input_tokens_mean, output_tokens_mean
        Mean prompt and generated length of its requests, tokens, >= 1.
    input_tokens_cv, output_tokens_cv
        Coefficient of variation of the lengths; None takes the shape of ShareGPT.
    arrival_cv
        Coefficient of variation of the gaps between requests; 0 is a fixed gap. 1 is a Poisson
        process, unless the law is log-normal.
    arrival_law
        Law of the gaps: gamma, weibull or lognormal, all of mean ``1 / rate_rps``.
    rate_schedule
        Rates and laws that change in time, in place of the three above; `rate_rps` is then what a
        plan counts on.
    input_tokens_quantiles, output_tokens_quantiles
        Law of the lengths, in place of ShareGPT's or a gamma law; its mean is the one given.
    """

    adapter_id: str
    rank: int
    rate_rps: float
    input_tokens_mean: float
    output_tokens_mean: float
    input_tokens_cv: float | None = None
    output_tokens_cv: float | None = None
    arrival_cv: float = 1.0
    arrival_law: str = ARRIVAL_LAWS[0]
    rate_schedule: RateSchedule | None = None
    input_tokens_quantiles: LengthQuantiles | None = None
    output_tokens_quantiles: LengthQuantiles | None = None

    def __post_init__(self) -> None:
        Workload.from_adapters([self])


def _float_column(values: object, length: int, name: str) -> NDArray[np.float64]:
    column = np.ascontiguousarray(values, dtype=np.float64)
    _require(column.shape == (length,), name, f"must have shape ({length},), got {column.shape}")
    column.flags.writeable = False
    return column


def _require_rows(valid: NDArray[np.bool_], values: NDArray[Any], name: str, rule: str) -> None:
    """Raise for the first row that is not valid, naming ``adapters[row].name``."""
    if not valid.all():
        row = int(np.argmin(valid))
        raise InvalidInputError(f"adapters[{row}].{name}", f"must be {rule}, got {values[row]!s}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workload:
    """The adapters that one fleet serves, held as columns.

    Row `i` of every column belongs to the adapter `adapter_ids[i]`. Columns are read-only. NaN in a
    `cv` column means "not given".

    Attributes
    ----------
    base_model, gpu_type
        Names as in a calibration's id.
    adapter_ids
        Unique names, length num_adapters.
    rank
        (num_adapters,) int32.
    rate_rps, input_tokens_mean, output_tokens_mean
        (num_adapters,) float64; see `Adapter`.
    input_tokens_cv, output_tokens_cv, arrival_cv
        (num_adapters,) float64; see `Adapter`.
    arrival_law
        (num_adapters,) int8, index into `ARRIVAL_LAWS`; left out, all are gamma.
    rate_schedules, input_tokens_quantiles, output_tokens_quantiles
        One for each adapter, None where it has none; empty where no adapter has one.

    Raises
    ------
    InvalidInputError
        Naming ``adapters[i].field``.
    """

    base_model: str
    gpu_type: str
    adapter_ids: tuple[str, ...]
    rank: NDArray[np.int32]
    rate_rps: NDArray[np.float64]
    input_tokens_mean: NDArray[np.float64]
    output_tokens_mean: NDArray[np.float64]
    input_tokens_cv: NDArray[np.float64]
    output_tokens_cv: NDArray[np.float64]
    arrival_cv: NDArray[np.float64]
    arrival_law: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    rate_schedules: tuple[RateSchedule | None, ...] = ()
    input_tokens_quantiles: tuple[LengthQuantiles | None, ...] = ()
    output_tokens_quantiles: tuple[LengthQuantiles | None, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.adapter_ids)
        _require(count >= 1, "adapters", "must hold at least one adapter, got 0")
        rank = np.ascontiguousarray(self.rank)
        _require(rank.shape == (count,), "rank", f"must have shape ({count},), got {rank.shape}")
        _require(rank.dtype.kind in "iu", "rank", f"must be integers, got {rank.dtype}")
        _require_rows((rank >= 1) & (rank <= MAX_RANK), rank, "rank", f"in 1..{MAX_RANK}")
        rank = rank.astype(np.int32)
        rank.flags.writeable = False
        object.__setattr__(self, "rank", rank)
        for name in _FLOAT_COLUMNS:
            object.__setattr__(self, name, _float_column(getattr(self, name), count, name))
        self._set_laws(count)
        self._check_ids()
        self._check_numbers()
        self._check_quantiles()

    @classmethod
    def from_adapters(
        cls, adapters: Iterable[Adapter], *, base_model: str = "any", gpu_type: str = "any"
    ) -> Self:
        """Build the columns from rows; base model and GPU type matter to the placer only."""
        rows = list(adapters)
        nan = float("nan")
        return cls(
            base_model=base_model,
            gpu_type=gpu_type,
            adapter_ids=tuple(row.adapter_id for row in rows),
            rank=np.array([row.rank for row in rows]),
            rate_rps=np.array([row.rate_rps for row in rows], dtype=np.float64),
            input_tokens_mean=np.array([row.input_tokens_mean for row in rows], dtype=np.float64),
            output_tokens_mean=np.array([row.output_tokens_mean for row in rows], dtype=np.float64),
            input_tokens_cv=np.array(
                [nan if row.input_tokens_cv is None else row.input_tokens_cv for row in rows]
            ),
            output_tokens_cv=np.array(
                [nan if row.output_tokens_cv is None else row.output_tokens_cv for row in rows]
            ),
            arrival_cv=np.array([row.arrival_cv for row in rows], dtype=np.float64),
            arrival_law=_law_codes([row.arrival_law for row in rows]),
            rate_schedules=tuple(row.rate_schedule for row in rows),
            input_tokens_quantiles=tuple(row.input_tokens_quantiles for row in rows),
            output_tokens_quantiles=tuple(row.output_tokens_quantiles for row in rows),
        )

    @property
    def num_adapters(self) -> int:
        """How many adapters the workload has."""
        return len(self.adapter_ids)

    @property
    def offered_tok_s(self) -> float:
        """Mean input plus output tokens that arrive a second."""
        return float(np.sum(self.rate_rps * (self.input_tokens_mean + self.output_tokens_mean)))

    def subset(self, rows: NDArray[np.integer[Any]]) -> Workload:
        """Return the workload of these rows, in this order.

        Parameters
        ----------
        rows
            (k,) integer indices, k >= 1, without repetition.
        """
        index = np.asarray(rows)
        columns = {name: getattr(self, name)[index] for name in ("rank", "arrival_law", *_FLOAT_COLUMNS)}
        for name in _OBJECT_COLUMNS:
            values = getattr(self, name)
            columns[name] = tuple(values[row] for row in index) if values else ()
        return Workload(
            base_model=self.base_model,
            gpu_type=self.gpu_type,
            adapter_ids=tuple(self.adapter_ids[row] for row in index),
            **columns,
        )

    def _set_laws(self, count: int) -> None:
        """Fill in the columns that may be left out, and make them read-only."""
        law = np.ascontiguousarray(self.arrival_law)
        law = law.astype(np.int8) if law.shape != (0,) else np.zeros(count, np.int8)
        _require(law.shape == (count,), "arrival_law", f"must have shape ({count},), got {law.shape}")
        known = (law >= 0) & (law < len(ARRIVAL_LAWS))
        _require_rows(known, law, "arrival_law", f"in 0..{len(ARRIVAL_LAWS) - 1}")
        law.flags.writeable = False
        object.__setattr__(self, "arrival_law", law)
        for name in _OBJECT_COLUMNS:
            values = getattr(self, name)
            if all(value is None for value in values):
                object.__setattr__(self, name, ())
            else:
                _require(len(values) == count, name, f"must hold {count} values, got {len(values)}")

    def _check_quantiles(self) -> None:
        for name in ("input_tokens", "output_tokens"):
            for row, law in enumerate(getattr(self, f"{name}_quantiles")):
                mean = float(getattr(self, f"{name}_mean")[row])
                if law is not None and abs(law.mean_tokens - mean) > LARGEST_MEAN_ERROR * mean:
                    raise InvalidInputError(
                        f"adapters[{row}].{name}_mean",
                        f"must be the mean of {name}_quantiles, {law.mean_tokens:.6g}, got {mean!r}",
                    )

    def _check_ids(self) -> None:
        for row, adapter_id in enumerate(self.adapter_ids):
            if not 1 <= len(adapter_id) <= 256:  # noqa: PLR2004 (stated in Adapter)
                raise InvalidInputError(
                    f"adapters[{row}].id", f"must have 1 to 256 characters, got {len(adapter_id)}"
                )
        if _CONTROL.search("".join(self.adapter_ids)):
            row = next(row for row, name in enumerate(self.adapter_ids) if _CONTROL.search(name))
            raise InvalidInputError(
                f"adapters[{row}].id", f"must hold no control character, got {self.adapter_ids[row]!r}"
            )
        if len(set(self.adapter_ids)) < len(self.adapter_ids):
            repeated, _ = Counter(self.adapter_ids).most_common(1)[0]
            row = len(self.adapter_ids) - 1 - self.adapter_ids[::-1].index(repeated)
            raise InvalidInputError(f"adapters[{row}].id", f"must be unique, {repeated!r} is repeated")

    def _check_numbers(self) -> None:
        rate = self.rate_rps
        _require_rows((rate > 0) & (rate <= MAX_RATE_RPS), rate, "rate_rps", f"in (0, {MAX_RATE_RPS:g}]")
        for name in ("input_tokens_mean", "output_tokens_mean"):
            tokens = getattr(self, name)
            _require_rows((tokens >= 1) & (tokens <= MAX_TOKENS), tokens, name, f"in [1, {MAX_TOKENS}]")
        for name in ("input_tokens_cv", "output_tokens_cv"):
            cv = getattr(self, name)
            _require_rows(np.isnan(cv) | ((cv >= 0) & (cv <= MAX_CV)), cv, name, f"in [0, {MAX_CV:g}]")
        cv = self.arrival_cv
        _require_rows((cv >= 0) & (cv <= MAX_CV), cv, "arrival_cv", f"in [0, {MAX_CV:g}]")


_FLOAT_COLUMNS = (
    "rate_rps",
    "input_tokens_mean",
    "output_tokens_mean",
    "input_tokens_cv",
    "output_tokens_cv",
    "arrival_cv",
)

_OBJECT_COLUMNS = ("rate_schedules", "input_tokens_quantiles", "output_tokens_quantiles")


def _law_codes(names: list[str]) -> NDArray[np.int8]:
    for row, name in enumerate(names):
        if name not in ARRIVAL_LAWS:
            raise InvalidInputError(
                f"adapters[{row}].arrival_law", f"must be one of {', '.join(ARRIVAL_LAWS)}, got {name!r}"
            )
    return np.array([ARRIVAL_LAWS.index(name) for name in names], dtype=np.int8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The flags of one vLLM server, each spelled as vLLM spells it.

    Attributes
    ----------
    max_loras
        Adapter slots: distinct adapters in one batch.
    max_lora_rank
        Every slot is reserved for this rank.
    max_cpu_loras
        Adapters kept in host memory; None keeps every adapter that the server serves.
    max_num_seqs
        Running requests at most; not above `max_num_batched_tokens` (vLLM refuses it too).
    max_num_batched_tokens
        Token budget of one step.
    block_size
        Tokens in one KV block.
    max_model_len
        Longest request in tokens; None takes the model's own. A launch fails when the KV cache
        cannot hold one such request.
    """

    max_loras: int
    max_lora_rank: int
    max_cpu_loras: int | None = None
    max_num_seqs: int = 2048
    max_num_batched_tokens: int = 2048
    block_size: int = 16
    max_model_len: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_loras", "max_lora_rank", "max_num_seqs", "max_num_batched_tokens", "block_size"):
            _require_integer(name, getattr(self, name), 1, MAX_RANK if name == "max_lora_rank" else MAX_FLAG)
        if self.max_model_len is not None:
            _require_integer("max_model_len", self.max_model_len, 2, MAX_TOKENS)  # a prompt and an answer
        if self.max_cpu_loras is not None:
            _require_integer("max_cpu_loras", self.max_cpu_loras, self.max_loras, MAX_FLAG)
        _require(
            self.max_num_seqs <= self.max_num_batched_tokens,
            "max_num_seqs",
            f"must be <= max_num_batched_tokens ({self.max_num_batched_tokens}), got {self.max_num_seqs}",
        )


def _require_law(law: object, prefix: str) -> None:
    """Refuse a coefficient that is negative or not finite: no cost law of a server has one."""
    for name in law.__slots__:  # type: ignore[attr-defined]
        value = getattr(law, name)
        ok = isinstance(value, (int, float)) and math.isfinite(value) and value >= 0
        _require(ok, f"{prefix}.{name}", f"must be finite and >= 0, got {value!r}")


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
                _require_integer(f"model.{name}", getattr(self, name), 1)


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
        _require_law(self, "memory")


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
        Each token (decode or prompt) above the roofline's knee, `ROOFLINE_TOKENS`.
    adapter_ms
        Each distinct adapter in the batch.
    adapter_token_ms
        Each distinct adapter x 1,000 tokens computed (decodes and prompt tokens).
    adapter_rank_ms
        Each distinct adapter x (`max_lora_rank` / 8 - 1).
    slot_ms
        Each adapter slot of the server, used or not.
    """

    base_ms: float
    decode_ms: float
    prefill_ms: float
    context_ms: float
    compute_ms: float
    adapter_ms: float
    adapter_token_ms: float
    adapter_rank_ms: float
    slot_ms: float

    def __post_init__(self) -> None:
        _require_law(self, "step")
        shortest_ms = 0.001
        _require(
            self.base_ms >= shortest_ms, "step.base_ms", f"must be >= {shortest_ms}, got {self.base_ms!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLaw:
    """Lat_sched: time in vLLM's scheduler in one step, microseconds.

    Attributes
    ----------
    base_us, running_us, scanned_us
        Every step; each running request; each waiting request that the scan passes.
    """

    base_us: float
    running_us: float
    scanned_us: float

    def __post_init__(self) -> None:
        _require_law(self, "scheduler")


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
    first_use_ms
        How long the API server is busy with an adapter's first request after a cold start.
    """

    cpu_ms: float
    cpu_padding_ms: float
    disk_ms: float
    disk_rank_ms: float
    first_use_ms: float = 0.0

    def __post_init__(self) -> None:
        _require_law(self, "load")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The four fitted estimators of one server, and what they rest on.

    Attributes
    ----------
    gpu_type, base_model, engine_version
        Together the calibration's id.
    model, memory, step, scheduler, load
        The model's shapes and the estimators.
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
    standard_errors: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("gpu_type", "base_model", "engine_version"):
            value = getattr(self, name)
            _require(bool(value) and "/" not in value, name, f"must be a name without '/', got {value!r}")
        ratio = self.generated_over_requested
        _require(0 < ratio <= 1, "generated_over_requested", f"must be in (0, 1], got {ratio!r}")
        _require_integer("max_known_rank", self.max_known_rank, 1)

    @property
    def calibration_id(self) -> str:
        """``<gpu_type>/<base_model>/<engine-version>``."""
        return f"{self.gpu_type}/{self.base_model}/{self.engine_version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """Mean and quantiles of one latency, milliseconds; NaN where nothing was measured."""

    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


CONSTRAINTS = ("none", "slots", "kv_memory", "token_budget", "sequences")
"""What ends a step's admission: an empty queue, `max_loras`, KV blocks, `max_num_batched_tokens`,
`max_num_seqs`."""

NO_CONSTRAINT, SLOTS, KV_MEMORY, TOKEN_BUDGET, SEQUENCES = range(len(CONSTRAINTS))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdapterOutcomes:
    """What a window was for each adapter, held as columns in the workload's order.

    Attributes
    ----------
    num_requests_sent, num_requests_completed
        (num_adapters,) int64.
    served_fraction
        (num_adapters,) float64, tokens completed over tokens sent, at most 1; 1 where none was sent.
    mean_wait_ms, max_wait_ms
        (num_adapters,) float64, from being sent to the first admission, over requests sent in the
        window; those never admitted wait to its end. 0 where none was sent.
    slots_wait_share
        (num_adapters,) float64 in [0, 1], the share of its requests' waiting in the window that they
        spent passed over, with all slots taken by other adapters.
    starving
        (num_adapters,) bool, served less than 0.9 of the tokens sent, of 20 requests or more.
    cause
        (num_adapters,) int8, index into `CONSTRAINTS` of what a starving adapter waited for: slots
        where they are half of its waiting or more, else what ended admission most of the time for all
        adapters alike. 0 where it does not starve.
    """

    num_requests_sent: NDArray[np.int64]
    num_requests_completed: NDArray[np.int64]
    served_fraction: NDArray[np.float64]
    mean_wait_ms: NDArray[np.float64]
    max_wait_ms: NDArray[np.float64]
    slots_wait_share: NDArray[np.float64]
    starving: NDArray[np.bool_]
    cause: NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulationReport:
    """What one simulated server did in its window. Definitions equal the measured runs'.

    Attributes
    ----------
    horizon_s, warmup_s
        The window, and the simulated service before it, which counts for nothing below: 0 is an empty
        server.
    num_requests_sent, num_requests_completed, num_requests_carried_over
        Requests that reached the server in the window, those finished in it, and those unfinished when
        it opened, which may finish in it too.
    throughput_in_tok_s, throughput_out_tok_s, throughput_tok_s
        Tokens of completed requests over the window.
    offered_tok_s
        Tokens of the requests sent over the window.
    starved
        ``throughput_tok_s < 0.9 * offered_tok_s``.
    ttft, itl, tpot, e2e
        Of completed requests (ITL quantiles: of all steps, weighted by tokens emitted).
    ttft_incl_unfinished_ms
        Mean TTFT with every unfinished request counted as the whole window.
    served_fraction
        (num_adapters,) float64, as in `adapters`.
    adapters
        How each adapter was served, which starve, and why.
    fairness
        Jain's index of the served fractions of adapters that sent anything: 1 when all are served
        alike, 1 / (number of adapters) when one alone is; NaN where nothing was served.
    binding_constraint
        What ended admission in most of the busy time: ``none`` (nobody was left waiting), ``slots``,
        ``kv_memory``, ``throughput`` (the token budget), ``sequences`` (`max_num_seqs`).
    constraint_shares
        The share of busy time in which each of `CONSTRAINTS` ended admission.
    mean_num_requests_running, mean_num_requests_waiting, max_num_requests_waiting
        Time-weighted means, and the maximum.
    mean_kv_usage, max_kv_usage
        Share of KV blocks in use.
    kv_tokens
        Size of the KV cache, tokens.
    num_steps, num_preemptions, num_loads
        Engine steps, preempted requests, adapters brought into a slot.
    mean_adapters_in_batch
        Distinct adapters in a step, time-weighted mean.
    state_samples
        (num_samples, 7) int64, the engine's state at regular steps: decodes, prompt tokens, context
        tokens, distinct adapters, scanned requests, the step's duration in nanoseconds, requests in
        prefill.
    """

    horizon_s: float
    warmup_s: float
    num_requests_sent: int
    num_requests_completed: int
    num_requests_carried_over: int
    throughput_in_tok_s: float
    throughput_out_tok_s: float
    throughput_tok_s: float
    offered_tok_s: float
    starved: bool
    ttft: LatencySummary
    itl: LatencySummary
    tpot: LatencySummary
    e2e: LatencySummary
    ttft_incl_unfinished_ms: float
    served_fraction: NDArray[np.float64]
    adapters: AdapterOutcomes
    fairness: float
    binding_constraint: str
    constraint_shares: Mapping[str, float]
    mean_num_requests_running: float
    mean_num_requests_waiting: float
    max_num_requests_waiting: int
    mean_kv_usage: float
    max_kv_usage: float
    kv_tokens: int
    num_steps: int
    num_preemptions: int
    num_loads: int
    mean_adapters_in_batch: float
    state_samples: NDArray[np.int64]

    def __post_init__(self) -> None:
        num_known = self.num_requests_sent + self.num_requests_carried_over
        assert self.num_requests_completed <= num_known, "completed requests were sent"
        assert self.max_kv_usage <= 1, "KV blocks in use never exceed KV blocks"
