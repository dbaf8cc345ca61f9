"""A benchmark's calls: one after the other on a connection, or on connections of many processes at once."""

from __future__ import annotations

import http.client
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from service.errors import UsageError
from service.trial import HTTP_OK

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    from numpy.typing import NDArray

WARM_UP = 3
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that is sent again and again."""

    method: str
    path: str
    body: bytes | None = None


def connect(url: str) -> http.client.HTTPConnection:
    """Return a connection to a service.

    Raises
    ------
    UsageError
        There is none at that address.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise UsageError(f"must be an address like http://127.0.0.1:8080, got {url!r}", field="--url")
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
        connection.connect()
    except (OSError, ValueError) as error:
        raise UsageError(f"{url} cannot be reached: {error}", field="--url") from error
    return connection


def send(connection: http.client.HTTPConnection, call: Call) -> None:
    """Send a call and read its answer.

    Raises
    ------
    UsageError
        It is not 200.
    """
    headers = {"Content-Type": "application/json"} if call.body else {}
    connection.request(call.method, call.path, call.body, headers)
    response = connection.getresponse()
    answer = response.read()
    if response.status != HTTP_OK:
        raise UsageError(
            f"{call.method} {call.path} answered {response.status}: {answer[:500].decode(errors='replace')}"
        )


def measure(connection: http.client.HTTPConnection, call: Call, num_calls: int) -> dict[str, float]:
    """Return p50, p99 and calls a second of one call after the other."""
    for _ in range(WARM_UP):
        send(connection, call)
    seconds = np.empty(num_calls)
    for number in range(num_calls):
        started = time.perf_counter()
        send(connection, call)
        seconds[number] = time.perf_counter() - started
    return _figures(seconds, num_calls / float(seconds.sum()))


def measure_at_once(url: str, call: Call, *, num_connections: int, lasting_s: float) -> dict[str, float]:
    """Return p50, p99 and calls a second of as many connections, each with a process of its own.

    ``client_cores`` is what these processes computed, in cores: it may be the service's that they wanted.
    """
    with closing(connect(url)) as connection:
        send(connection, call)  # a call that is refused is told from here
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(num_connections)
    with ProcessPoolExecutor(num_connections, context, _meet_at, (barrier,)) as pool:
        begun = [pool.submit(_call_for, url, call, lasting_s) for _ in range(num_connections)]
        told = [future.result() for future in begun]
    rps = sum(len(each.seconds) / each.lasted_s for each in told)
    computed_s = sum(each.computed_s for each in told)
    return _figures(np.concatenate([each.seconds for each in told]), rps) | {
        "client_cores": round(computed_s / lasting_s, 2)
    }


def _figures(seconds: NDArray[np.float64], rps: float) -> dict[str, float]:
    p50_s, p99_s = np.percentile(seconds, (50, 99))
    return {
        "p50_ms": round(1e3 * float(p50_s), 3),
        "p99_ms": round(1e3 * float(p99_s), 3),
        "rps": round(rps, 1),
    }


_barriers: list[Barrier] = []
"""Where the processes of a measurement meet; in each of them."""


def _meet_at(barrier: Barrier) -> None:
    _barriers[:] = [barrier]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What one process has seen: seconds of each call, of all of them, and what it computed itself."""

    seconds: NDArray[np.float64]
    lasted_s: float
    computed_s: float


def _call_for(url: str, call: Call, lasting_s: float) -> _Told:
    seconds: list[float] = []
    with closing(connect(url)) as connection:
        for _ in range(WARM_UP):
            send(connection, call)
        _barriers[0].wait(TIMEOUT_S)
        computed_s, began = time.process_time(), time.perf_counter()
        ended = began
        while ended - began < lasting_s:
            started = ended
            send(connection, call)
            ended = time.perf_counter()
            seconds.append(ended - started)
    return _Told(
        seconds=np.array(seconds), lasted_s=ended - began, computed_s=time.process_time() - computed_s
    )
