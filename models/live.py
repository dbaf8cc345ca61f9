"""Servers that are live, and the scenarios on them and near them that a surrogate should know.

Of a server's adapters classes are kept: how many, of which rank, rate and lengths; no names. Its first
scenario is the server as it is. The others scale its rates and lengths, add and drop adapters, and give it
another `max_loras`. Scenario `i` follows from sample, seed and `i` alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from models.errors import DatasetError
from models.features import (
    HORIZON_S,
    NUM_FEATURES,
    aggregate,
    calibration_vector,
    features_of,
    traffic_columns,
)
from models.scenarios import GROUP_SIZE, MAX_REQUESTS, Scenario
from twin.domain import ServerConfig, Workload
from twin.errors import InvalidInputError
from twin.memory import feasible_max_loras
from twin.traffic import MAX_CV, MAX_RATE_RPS, MAX_TOKENS

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from twin.domain import Calibration

LIVE_FIRST = 2**40
"""Number of the first live row: whatever a design looks at has lower numbers."""

MAX_SERVERS = 32
MAX_CLASSES = 24
MAX_ADAPTERS = 120_000
ROWS_EACH = 32
MAX_ROWS_EACH = 4096

RATE_FACTOR, COUNT_FACTOR, LENGTH_FACTOR, CV_FACTOR = 2.0, 1.5, 1.25, 1.25
"""How far a neighbour is at most, both ways."""

OWN_SLOTS_SHARE = 0.5
"""Neighbours that keep their server's `max_loras`."""


class AdapterClass(NamedTuple):
    """Adapters of a server that are alike; fields as in `twin.domain.Adapter`, None where not given."""

    num_adapters: int
    rank: int
    rate_rps: float
    input_tokens_mean: float
    output_tokens_mean: float
    input_tokens_cv: float | None
    output_tokens_cv: float | None
    arrival_cv: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveServer:
    """One vLLM server of a plan in force: its flags, and the classes of its adapters."""

    max_loras: int
    max_lora_rank: int
    max_model_len: int | None
    classes: tuple[AdapterClass, ...]

    def __post_init__(self) -> None:
        _require(1 <= len(self.classes) <= MAX_CLASSES, "classes", f"must be 1 to {MAX_CLASSES}")
        counts = [one.num_adapters for one in self.classes]
        _require(min(counts) >= 1, "num_adapters", "must be >= 1")
        _require(sum(counts) <= MAX_ADAPTERS, "num_adapters", f"must be at most {MAX_ADAPTERS} in all")
        try:
            self.flags()
            _columns_of(self.classes, [1] * len(self.classes))
        except InvalidInputError as error:
            raise DatasetError(f"live: {error}") from error

    def flags(self) -> ServerConfig:
        """Return its flags."""
        return ServerConfig(
            max_loras=self.max_loras, max_lora_rank=self.max_lora_rank, max_model_len=self.max_model_len
        )

    def workload(self) -> Workload:
        """Return adapters of its classes, under names that mean nothing."""
        return _columns_of(self.classes, [one.num_adapters for one in self.classes])


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveServers:
    """Live servers to simulate, and how many scenarios of each.

    Attributes
    ----------
    servers
        At most `MAX_SERVERS`.
    rows_each
        Scenarios of each server, the server as it is among them.
    """

    servers: tuple[LiveServer, ...]
    rows_each: int = ROWS_EACH

    def __post_init__(self) -> None:
        _require(1 <= len(self.servers) <= MAX_SERVERS, "servers", f"must be 1 to {MAX_SERVERS}")
        _require(1 <= self.rows_each <= MAX_ROWS_EACH, "rows_each", f"must be in 1..{MAX_ROWS_EACH}")

    @property
    def num_rows(self) -> int:
        """Scenarios of all servers."""
        return self.rows_each * len(self.servers)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Return the numbers of its rows in a data set, (num_rows,) int64."""
        return LIVE_FIRST + np.arange(self.num_rows)

    def to_json(self) -> bytes:
        """Return it as a JSON text; equal samples have equal bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """Name of the sample: a hash of its content."""
        return hashlib.sha256(self.to_json()).hexdigest()[:16]


def live_servers_from(document: Any) -> LiveServers:
    """Return the sample that JSON values tell.

    Raises
    ------
    DatasetError
        They are no sample.
    """
    try:
        servers = tuple(
            LiveServer(**one | {"classes": tuple(AdapterClass(*row) for row in one["classes"])})
            for one in document["servers"]
        )
        return LiveServers(servers=servers, rows_each=document["rows_each"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DatasetError("live: is no sample of live servers") from error


def live_server(workload: Workload, server: ServerConfig) -> LiveServer:
    """Return what is kept of a server that serves a whole workload.

    Up to `MAX_CLASSES` kinds of adapters are kept as they are. More are put together, those of a rank and
    like rates first: sums of rates and of tokens stay, busy adapters stay apart longest.
    """
    kinds, counts = np.unique(_columns(workload), axis=0, return_counts=True)
    firsts = [*range(len(kinds))] if len(kinds) <= MAX_CLASSES else _cuts(kinds, counts)
    ends = [*firsts[1:], len(kinds)]
    return LiveServer(
        max_loras=server.max_loras,
        max_lora_rank=server.max_lora_rank,
        max_model_len=server.max_model_len,
        classes=tuple(_class_of(kinds[a:b], counts[a:b]) for a, b in zip(firsts, ends, strict=True)),
    )


NOT_GIVEN = -1.0


def _columns(workload: Workload) -> NDArray[np.float64]:
    """Return the traffic of each adapter, (num_adapters, 7) float64; what is not given is -1."""
    return np.nan_to_num(traffic_columns(workload), nan=NOT_GIVEN)


def _cuts(kinds: NDArray[np.float64], counts: NDArray[np.int64]) -> list[int]:
    """Return where each of `MAX_CLASSES` classes begins among kinds that are sorted by rank and rate.

    The class that loses most of the sum of squared rates by being one is halved, again and again.
    """
    ranks = [0, *(np.flatnonzero(np.diff(kinds[:, 0])) + 1).tolist()]
    firsts = ranks if len(ranks) <= MAX_CLASSES // 2 else [0]
    rates = kinds[:, 1]

    def loss(first: int, end: int) -> float:
        rate, count = rates[first:end], counts[first:end]
        return float((count * rate**2).sum() - (count * rate).sum() ** 2 / count.sum())

    waiting = [(-loss(a, b), a, b) for a, b in zip(firsts, [*firsts[1:], len(kinds)], strict=True)]
    heapify(waiting)
    while len(waiting) < MAX_CLASSES:
        _, first, end = heappop(waiting)
        middle = (first + end) // 2
        if middle == first:  # one kind: nothing to gain
            heappush(waiting, (0.0, first, end))
            break
        for a, b in ((first, middle), (middle, end)):
            heappush(waiting, (-loss(a, b) if b - a > 1 else 0.0, a, b))
    return sorted(first for _, first, _ in waiting)


def _class_of(kinds: NDArray[np.float64], counts: NDArray[np.int64]) -> AdapterClass:
    """Return kinds of adapters as one; ranks become the largest, the rest means by rate."""
    load = counts * kinds[:, 1]
    share = load / load.sum()
    num_adapters = int(counts.sum())

    def cv(column: int) -> float | None:
        given = kinds[:, column] != NOT_GIVEN
        if share[given].sum() <= 0.5:  # noqa: PLR2004 (most of the traffic)
            return None
        return float(np.sqrt((share[given] * kinds[given, column] ** 2).sum() / share[given].sum()))

    return AdapterClass(
        num_adapters=num_adapters,
        rank=int(kinds[:, 0].max()),
        rate_rps=float(load.sum() / num_adapters),
        input_tokens_mean=float((share * kinds[:, 2]).sum()),
        output_tokens_mean=float((share * kinds[:, 3]).sum()),
        input_tokens_cv=cv(4),
        output_tokens_cv=cv(5),
        arrival_cv=float(np.sqrt((share * kinds[:, 6] ** 2).sum())),
    )


def live_scenario(calibration: Calibration, sample: LiveServers, seed: int, row: int) -> Scenario:
    """Return the scenario of a live row; same arguments, same scenario.

    Parameters
    ----------
    calibration
        Of the servers.
    sample, seed
        What the row belongs to.
    row
        At least `LIVE_FIRST`; beyond the sample's own rows there are as many more as anyone asks for.
    """
    draw, place = divmod(row - LIVE_FIRST, len(sample.servers))
    server = sample.servers[place]
    rng = np.random.default_rng([seed, place, draw, 6])
    simulation_seed = int(rng.integers(2**31))
    if draw > 0:
        server = _neighbour(rng, server, calibration)
    return Scenario(
        row=row,
        group=LIVE_FIRST // GROUP_SIZE + place,
        workload=server.workload(),
        server=server.flags(),
        simulation_seed=simulation_seed,
    )


def live_features(
    calibration: Calibration, sample: LiveServers, seed: int, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the features of live rows, (num_rows, NUM_FEATURES) float32; nothing is simulated."""
    vector = calibration_vector(calibration)
    out = np.empty((len(rows), NUM_FEATURES), dtype=np.float32)
    for place, row in enumerate(rows.tolist()):
        drawn = live_scenario(calibration, sample, seed, row)
        flags = drawn.server
        out[place], _ = features_of(aggregate(drawn.workload), flags.max_loras, flags.max_lora_rank, vector)
    return out


def _columns_of(classes: tuple[AdapterClass, ...], counts: list[int]) -> Workload:
    def column(name: str) -> NDArray[np.float64]:
        values = [getattr(one, name) for one in classes]
        return np.repeat([math.nan if value is None else float(value) for value in values], counts)

    return Workload(
        base_model="any",
        gpu_type="any",
        adapter_ids=tuple(f"adapter-{row}" for row in range(sum(counts))),
        rank=np.repeat([one.rank for one in classes], counts),
        rate_rps=column("rate_rps"),
        input_tokens_mean=column("input_tokens_mean"),
        output_tokens_mean=column("output_tokens_mean"),
        input_tokens_cv=column("input_tokens_cv"),
        output_tokens_cv=column("output_tokens_cv"),
        arrival_cv=column("arrival_cv"),
    )


def _neighbour(rng: Generator, server: LiveServer, calibration: Calibration) -> LiveServer:
    """Return a server that is not far from a live one."""
    rate, count, inputs, outputs, cv, arrivals = (
        float(np.exp(rng.uniform(-1.0, 1.0) * math.log(farthest)))
        for farthest in (
            RATE_FACTOR,
            COUNT_FACTOR,
            LENGTH_FACTOR,
            LENGTH_FACTOR,
            CV_FACTOR,
            CV_FACTOR,
        )
    )
    classes = tuple(
        one._replace(
            num_adapters=int(number),
            rate_rps=min(one.rate_rps * rate, MAX_RATE_RPS),
            input_tokens_mean=min(max(one.input_tokens_mean * inputs, 1.0), MAX_TOKENS),
            output_tokens_mean=min(max(one.output_tokens_mean * outputs, 1.0), MAX_TOKENS),
            input_tokens_cv=None if one.input_tokens_cv is None else min(one.input_tokens_cv * cv, MAX_CV),
            output_tokens_cv=None if one.output_tokens_cv is None else min(one.output_tokens_cv * cv, MAX_CV),
            arrival_cv=min(one.arrival_cv * arrivals, MAX_CV),
        )
        for one, number in zip(
            server.classes, _numbers(rng, [one.num_adapters * count for one in server.classes]), strict=True
        )
        if number > 0
    )
    neighbour = _affordable(replace(server, classes=classes))
    if rng.uniform() < OWN_SLOTS_SHARE:
        return neighbour
    most = max(feasible_max_loras(calibration, server.max_lora_rank, server.max_model_len), 1)
    return replace(neighbour, max_loras=round(most ** rng.uniform()))


def _numbers(rng: Generator, wanted: list[float]) -> NDArray[np.int64]:
    """Return how many adapters of each class a neighbour has: some come, some go, one stays at least."""
    numbers = rng.poisson(wanted)
    if numbers.sum() > MAX_ADAPTERS:
        numbers = numbers * MAX_ADAPTERS // numbers.sum()
    if numbers.sum() == 0:
        numbers[int(np.argmax(wanted))] = 1
    return numbers


def _affordable(server: LiveServer) -> LiveServer:
    """Return a server that sends no more than a twin run can take."""
    sent = HORIZON_S * sum(one.num_adapters * one.rate_rps for one in server.classes)
    if sent <= MAX_REQUESTS:
        return server
    less = MAX_REQUESTS / sent
    classes = tuple(one._replace(rate_rps=one.rate_rps * less) for one in server.classes)
    return replace(server, classes=classes)


def _require(holds: bool, field: str, rule: str) -> None:  # noqa: FBT001 (a check)
    if not holds:
        raise DatasetError(f"live: {field}: {rule}")
