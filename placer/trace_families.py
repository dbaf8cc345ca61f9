"""Families of published traces: clients as adapters, and a trace whose first half plans for its second.

They need the trace files beside the repository; where those are absent the families are left out, aloud.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from placer.families import INPUT_TOKENS_MEAN, OUTPUT_TOKENS_MEAN, RANKS
from twin.domain import Workload
from twin.workload import RequestStream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.domain import Calibration

TRACES = Path("../shared/data/traces")
SERVEGEN_CLIENTS = "servegen_clients.csv.gz"
AZURE_CONVERSATIONS = "azure_llm_2023_conv.csv.gz"
TRACE_FAMILIES = {"servegen": SERVEGEN_CLIENTS, "seed-azure": AZURE_CONVERSATIONS}
"""Each family, and the file that it needs."""

MAX_ARRIVAL_CV = 8.0
"""Burstiness of a client beyond this is the trace's, not an adapter's."""

AZURE_COPIES = {"llama": 10, "qwen": 25}
"""How often the reference replicates each arrival, by the family of models."""

NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TraceCase:
    """What a planner may know, and the requests that then come.

    Attributes
    ----------
    known
        The workload, with rates estimated from the trace's first half.
    requests
        The second half, from its first second; None where the workload itself is drawn from.
    horizon_s
        Its length, seconds.
    """

    known: Workload
    requests: RequestStream | None = None
    horizon_s: float = 3600.0


def available(family: str) -> bool:
    """Tell whether the file that a family needs is there."""
    return (TRACES / TRACE_FAMILIES[family]).is_file()


def trace_case(family: str, seed: int, num_adapters: int, calibration: Calibration) -> TraceCase:
    """Return one instance of a family of published traces; `available` says whether there are any."""
    if family == "servegen":
        return TraceCase(known=_servegen(seed, num_adapters, calibration))
    return _seed_azure(seed, num_adapters, calibration)


def _read(name: str) -> list[dict[str, str]]:
    with gzip.open(TRACES / name, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _workload(
    calibration: Calibration,
    seed: int,
    *,
    rate_rps: NDArray[np.float64],
    input_tokens_mean: NDArray[np.float64],
    output_tokens_mean: NDArray[np.float64],
    arrival_cv: NDArray[np.float64],
) -> Workload:
    count = len(rate_rps)
    rng = np.random.default_rng([seed, count, 7])
    ranks = [rank for rank in RANKS if rank <= calibration.max_known_rank]
    not_given = np.full(count, np.nan)
    return Workload(
        base_model=calibration.base_model,
        gpu_type=calibration.gpu_type,
        adapter_ids=tuple(f"adapter-{row}" for row in range(count)),
        rank=rng.choice(ranks, count).astype(np.int32),
        rate_rps=rate_rps,
        input_tokens_mean=input_tokens_mean,
        output_tokens_mean=output_tokens_mean,
        input_tokens_cv=not_given,
        output_tokens_cv=not_given,
        arrival_cv=arrival_cv,
    )


def _servegen(seed: int, num_adapters: int, calibration: Calibration) -> Workload:
    """Clients of ServeGen with known lengths as adapters, drawn with their rate, lengths and burstiness."""
    rows = [row for row in _read(SERVEGEN_CLIENTS) if row["has_lengths"] == "True"]
    rows = [row for row in rows if row["category"] == "language" and float(row["mean_rate"]) > 0]
    rng = np.random.default_rng([seed, num_adapters])
    drawn = rng.choice(len(rows), num_adapters, replace=num_adapters > len(rows))

    def column(name: str) -> NDArray[np.float64]:
        return np.array([float(rows[row][name] or "nan") for row in drawn])

    longest = calibration.model.max_model_len / 4
    return _workload(
        calibration,
        seed,
        # The whole service's clients on one fleet: scaled so that none is more than a GPU carries.
        rate_rps=np.minimum(column("mean_rate"), 2.0),
        input_tokens_mean=np.clip(column("input_tokens_mean"), 1, longest),
        output_tokens_mean=np.clip(column("output_tokens_mean"), 1, longest),
        arrival_cv=np.clip(np.nan_to_num(column("cv_median"), nan=1.0), 0.0, MAX_ARRIVAL_CV),
    )


def _seed_azure(seed: int, num_adapters: int, calibration: Calibration) -> TraceCase:
    """The reference's recipe on the trace that is published: it lasts one hour, so halves stand for hours.

    Arrivals are replicated, owners drawn from a multinomial, each adapter at least one request; lengths
    are ShareGPT's. Rates are those of the first half; an adapter not seen counts one request an hour.
    """
    rng = np.random.default_rng([seed, num_adapters, 11])
    copies = AZURE_COPIES["qwen" if "qwen" in calibration.base_model else "llama"]
    arrival_s = np.repeat([float(row["t_s"]) for row in _read(AZURE_CONVERSATIONS)], copies)
    count = len(arrival_s)
    owner = rng.choice(num_adapters, count, p=rng.dirichlet(np.ones(num_adapters)))
    owner[rng.permutation(count)[:num_adapters]] = np.arange(num_adapters)
    half_s = float(arrival_s[-1]) / 2
    first = arrival_s < half_s
    seen = np.bincount(owner[first], minlength=num_adapters)
    known = _workload(
        calibration,
        seed,
        rate_rps=np.where(seen > 0, seen / half_s, 1 / 3600),
        input_tokens_mean=np.full(num_adapters, INPUT_TOKENS_MEAN),
        output_tokens_mean=np.full(num_adapters, OUTPUT_TOKENS_MEAN),
        arrival_cv=np.ones(num_adapters),
    )
    lengths = _sharegpt_lengths(rng, int((~first).sum()))
    requests = RequestStream(
        arrival_ns=((arrival_s[~first] - half_s) * NS).astype(np.int64),
        adapter_of=owner[~first].astype(np.int32),
        prompt_tokens=lengths[0],
        output_tokens=lengths[1],
    )
    return TraceCase(known=known, requests=requests, horizon_s=half_s)


def _sharegpt_lengths(rng: np.random.Generator, count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return prompts and answers of ShareGPT's shape, as the field's measured runs had them."""
    prompts = 4 + 1020 * rng.beta(0.40, 1.48, count)
    answers = rng.gamma(0.9, OUTPUT_TOKENS_MEAN / 0.9, count)
    return np.maximum(prompts, 1).astype(np.int32), np.clip(answers, 1, 1024).astype(np.int32)
