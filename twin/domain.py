"""The nouns everything else speaks of: adapters, workloads, servers; calibrations and reports beside them.

Standard library and numpy only. Every value validates itself when it is built, so code that
receives one need not check it again; the error names the field and the value.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from twin.checks import require, require_integer
from twin.errors import InvalidInputError
from twin.laws import (
    Calibration,
    FrontEndLaw,
    LoadLaw,
    MemoryLaw,
    ModelShape,
    SchedulerLaw,
    StepLaw,
)
from twin.outcomes import (
    CONSTRAINTS,
    KV_MEMORY,
    NO_CONSTRAINT,
    SEQUENCES,
    SLOTS,
    TOKEN_BUDGET,
    AdapterOutcomes,
    LatencySummary,
    SimulationReport,
)
from twin.traffic import ARRIVAL_LAWS, LARGEST_MEAN_ERROR, MAX_CV, MAX_RATE_RPS, MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from twin.traffic import LengthQuantiles, RateSchedule

__all__ = [
    "CONSTRAINTS",
    "KV_MEMORY",
    "MAX_FLAG",
    "MAX_ID_LENGTH",
    "MAX_RANK",
    "NO_CONSTRAINT",
    "SEQUENCES",
    "SLOTS",
    "TOKEN_BUDGET",
    "Adapter",
    "AdapterOutcomes",
    "Calibration",
    "FrontEndLaw",
    "LatencySummary",
    "LoadLaw",
    "MemoryLaw",
    "ModelShape",
    "SchedulerLaw",
    "ServerConfig",
    "SimulationReport",
    "StepLaw",
    "Workload",
    "is_adapter_id",
]

MAX_RANK = 1024
"""Above every rank that vLLM accepts for `--max-lora-rank`."""

MAX_FLAG = 1_000_000
"""Above every server flag in use; the engine's arrays of this length still fit in memory."""

MAX_ID_LENGTH = 256
"""Characters of an adapter's id."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def is_adapter_id(name: str) -> bool:
    """Tell whether an adapter may have this id: 1 to `MAX_ID_LENGTH` characters, none a control character."""
    return 1 <= len(name) <= MAX_ID_LENGTH and not _CONTROL.search(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One LoRA adapter and the traffic it receives.

    Attributes
    ----------
    adapter_id
        Unique in its workload, and one that `is_adapter_id` allows.
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
    rate_rps_std
        Standard deviation of the error with which `rate_rps` is known, requests a second; 0 is certain.
        Plans leave room for it; the twin serves `rate_rps`.
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
    rate_rps_std: float = 0.0
    rate_schedule: RateSchedule | None = None
    input_tokens_quantiles: LengthQuantiles | None = None
    output_tokens_quantiles: LengthQuantiles | None = None

    def __post_init__(self) -> None:
        Workload.from_adapters([self])


def _float_column(values: object, length: int, name: str) -> NDArray[np.float64]:
    """Return a read-only copy: what the caller does with its own array does not reach the workload."""
    column = np.array(values, dtype=np.float64)
    require(column.shape == (length,), name, f"must have shape ({length},), got {column.shape}")
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
    rate_rps_std
        (num_adapters,) float64, see `Adapter`; left out, all rates are certain.
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
    rate_rps_std: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    rate_schedules: tuple[RateSchedule | None, ...] = ()
    input_tokens_quantiles: tuple[LengthQuantiles | None, ...] = ()
    output_tokens_quantiles: tuple[LengthQuantiles | None, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.adapter_ids)
        require(count >= 1, "adapters", "must hold at least one adapter, got 0")
        rank = np.ascontiguousarray(self.rank)
        require(rank.shape == (count,), "rank", f"must have shape ({count},), got {rank.shape}")
        require(rank.dtype.kind in "iu", "rank", f"must be integers, got {rank.dtype}")
        _require_rows((rank >= 1) & (rank <= MAX_RANK), rank, "rank", f"in 1..{MAX_RANK}")
        rank = rank.astype(np.int32)
        rank.flags.writeable = False
        object.__setattr__(self, "rank", rank)
        if np.shape(self.rate_rps_std) == (0,):
            object.__setattr__(self, "rate_rps_std", np.zeros(count))
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
            rate_rps_std=np.array([row.rate_rps_std for row in rows], dtype=np.float64),
            rate_schedules=tuple(row.rate_schedule for row in rows),
            input_tokens_quantiles=tuple(row.input_tokens_quantiles for row in rows),
            output_tokens_quantiles=tuple(row.output_tokens_quantiles for row in rows),
        )

    @property
    def num_adapters(self) -> int:
        """How many adapters the workload has."""
        return len(self.adapter_ids)

    @property
    def has_uncertain_rates(self) -> bool:
        """Whether any rate is known but for an error."""
        return bool(self.rate_rps_std.any())

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

    def joined(self, more: Workload) -> Workload:
        """Return the workload with the adapters of another one after its own; names are its own."""
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(more, name)])
            for name in ("rank", "arrival_law", *_FLOAT_COLUMNS)
        }
        for name in _OBJECT_COLUMNS:
            parts = [getattr(each, name) or (None,) * each.num_adapters for each in (self, more)]
            columns[name] = (*parts[0], *parts[1])
        return Workload(
            base_model=self.base_model,
            gpu_type=self.gpu_type,
            adapter_ids=(*self.adapter_ids, *more.adapter_ids),
            **columns,
        )

    def divided(self, counts: NDArray[np.integer[Any]]) -> Workload:
        """Return the workload with each adapter as several, by whom each request is taken at random.

        The gaps of a renewal process thinned to a share have ``cv^2 = share cv^2 + 1 - share``.

        Parameters
        ----------
        counts
            (num_adapters,) integers >= 1; where it is 1 the adapter stays as it is.

        Raises
        ------
        InvalidInputError
            Where an adapter to be divided has a schedule of rates.
        """
        origin = np.repeat(np.arange(self.num_adapters), counts)
        share = 1.0 / np.asarray(counts)[origin]
        columns: dict[str, Any] = {
            name: getattr(self, name)[origin] for name in ("rank", "arrival_law", *_FLOAT_COLUMNS)
        }
        columns["rate_rps"] = columns["rate_rps"] * share
        columns["rate_rps_std"] = columns["rate_rps_std"] * share
        thinned = np.sqrt(share * columns["arrival_cv"] ** 2 + 1.0 - share)
        columns["arrival_cv"] = np.where(share < 1, thinned, columns["arrival_cv"])
        for name in _OBJECT_COLUMNS:
            values = getattr(self, name)
            columns[name] = tuple(values[row] for row in origin) if values else ()
        for row, schedule in enumerate(columns["rate_schedules"]):
            if schedule is not None and share[row] < 1:
                raise InvalidInputError(f"adapters[{origin[row]}].rate_schedule", "cannot be divided")
        return Workload(
            base_model=self.base_model,
            gpu_type=self.gpu_type,
            adapter_ids=_part_ids(self.adapter_ids, np.asarray(counts).tolist()),
            **columns,
        )

    def _set_laws(self, count: int) -> None:
        """Fill in the columns that may be left out, and make them read-only."""
        law = np.asarray(self.arrival_law)
        law = law if law.shape != (0,) else np.zeros(count, np.int8)
        require(law.shape == (count,), "arrival_law", f"must have shape ({count},), got {law.shape}")
        require(law.dtype.kind in "iu", "arrival_law", f"must be integers, got {law.dtype}")
        known = (law >= 0) & (law < len(ARRIVAL_LAWS))
        _require_rows(known, law, "arrival_law", f"in 0..{len(ARRIVAL_LAWS) - 1}")
        law = law.astype(np.int8)
        law.flags.writeable = False
        object.__setattr__(self, "arrival_law", law)
        for name in _OBJECT_COLUMNS:
            values = getattr(self, name)
            if all(value is None for value in values):
                object.__setattr__(self, name, ())
            else:
                require(len(values) == count, name, f"must hold {count} values, got {len(values)}")

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
        lengths = [*map(len, self.adapter_ids)]
        if min(lengths) < 1 or max(lengths) > MAX_ID_LENGTH or _CONTROL.search("".join(self.adapter_ids)):
            row = next(row for row, name in enumerate(self.adapter_ids) if not is_adapter_id(name))
            raise InvalidInputError(f"adapters[{row}].id", _id_rule(self.adapter_ids[row]))
        if len(set(self.adapter_ids)) < len(self.adapter_ids):
            repeated, _ = Counter(self.adapter_ids).most_common(1)[0]
            row = len(self.adapter_ids) - 1 - self.adapter_ids[::-1].index(repeated)
            raise InvalidInputError(f"adapters[{row}].id", f"must be unique, {repeated!r} is repeated")

    def _check_numbers(self) -> None:
        rate = self.rate_rps
        _require_rows((rate > 0) & (rate <= MAX_RATE_RPS), rate, "rate_rps", f"in (0, {MAX_RATE_RPS:g}]")
        std = self.rate_rps_std
        _require_rows((std >= 0) & (std <= MAX_RATE_RPS), std, "rate_rps_std", f"in [0, {MAX_RATE_RPS:g}]")
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
    "rate_rps_std",
)

_OBJECT_COLUMNS = ("rate_schedules", "input_tokens_quantiles", "output_tokens_quantiles")


def _id_rule(adapter_id: str) -> str:
    """Return which rule an id breaks."""
    if not 1 <= len(adapter_id) <= MAX_ID_LENGTH:
        return f"must have 1 to {MAX_ID_LENGTH} characters, got {len(adapter_id)}"
    return f"must hold no control character, got {adapter_id!r}"


def _part_ids(adapter_ids: tuple[str, ...], counts: list[int]) -> tuple[str, ...]:
    """Return a unique name for each part; an adapter that stays whole keeps its own."""
    taken = set(adapter_ids)
    names: list[str] = []
    for name, count in zip(adapter_ids, counts, strict=True):
        number = 0
        for _ in range(count):
            part = name
            while count > 1 and part in taken:
                number += 1
                part = f"{name[:240]}#{number}"
            taken.add(part)
            names.append(part)
    return tuple(names)


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
            require_integer(name, getattr(self, name), 1, MAX_RANK if name == "max_lora_rank" else MAX_FLAG)
        if self.max_model_len is not None:
            require_integer("max_model_len", self.max_model_len, 2, MAX_TOKENS)  # a prompt and an answer
        if self.max_cpu_loras is not None:
            require_integer("max_cpu_loras", self.max_cpu_loras, self.max_loras, MAX_FLAG)
        require(
            self.max_num_seqs <= self.max_num_batched_tokens,
            "max_num_seqs",
            f"must be <= max_num_batched_tokens ({self.max_num_batched_tokens}), got {self.max_num_seqs}",
        )
