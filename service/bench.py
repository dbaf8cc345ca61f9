"""How fast the service answers, seen by a client in this process over loopback."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from placer.problem import DEFAULT_NUM_TRIALS
from service.bench_calls import Call, connect, measure, send
from service.errors import UsageError
from service.process import spawn_tethered, stop
from service.slices import interrupt_others
from service.trial import temporary_service

if TYPE_CHECKING:
    from collections.abc import Iterator

RANKS = (8, 16, 32)
RATES_RPS = (0.4, 0.1, 0.025)

SEARCHED = {"num_trials": DEFAULT_NUM_TRIALS}
CASES: tuple[tuple[str, int, dict[str, int], int], ...] = (
    ("place_1000", 1_000, {}, 400),
    ("place_1000_searched", 1_000, SEARCHED, 50),
    ("place_10000", 10_000, {}, 50),
    ("place_10000_searched", 10_000, SEARCHED, 10),
)
"""Name, adapters in the workload, options, requests sent. The default answers the first plan; the search for
fewer GPUs and the closer bound are what workloads in force get."""

NUM_READS = 2_000
LOADED_SHARE = 0.5
"""Of what ``POST /place`` takes at most, while reads are measured beside it."""

BEGUN = b"placing"
"""What the process that places tells the one that reads."""


def bench_http(url: str | None = None) -> dict[str, dict[str, float]]:
    """Return p50, p99 and requests a second of each case, one connection, one request at a time.

    ``gpus_needed_loaded`` is measured while another process sends `LOADED_SHARE` of the placements (1,000
    adapters) that one connection was answered.

    Parameters
    ----------
    url
        A service that runs (its workload in force is replaced); None starts one of its own.
    """
    if url is None:
        with temporary_service() as service:
            return bench_http(service.url)
    interrupt_others()  # as a client on another machine, which waits for no core of the service's
    with closing(connect(url)) as connection:
        figures: dict[str, dict[str, float]] = {}
        for name, num_adapters, options, num_calls in CASES:
            document = bench_workload(num_adapters) | {"options": options}
            figures[name] = measure(connection, _placement(document), num_calls)
            figures[f"{name}_columns"] = measure(connection, _placement(by_columns(document)), num_calls)
        send(connection, Call(method="PUT", path="/workload", body=orjson.dumps(bench_workload(1_000))))
        read = Call(method="GET", path="/gpus-needed")
        figures["gpus_needed"] = measure(connection, read, NUM_READS)
        with placing(url, LOADED_SHARE * figures["place_1000"]["rps"]):
            figures["gpus_needed_loaded"] = measure(connection, read, NUM_READS)
    return figures


def _placement(document: dict[str, Any]) -> Call:
    return Call(method="POST", path="/place", body=orjson.dumps(document))


@contextmanager
def placing(url: str, rate_rps: float) -> Iterator[None]:
    """Have another process send placements of 1,000 adapters at a rate while the block runs."""
    command = [sys.executable, "-m", "service.bench", url, str(rate_rps)]
    process = spawn_tethered(command, output=subprocess.PIPE)
    assert process.stdout is not None, "a pipe was asked for"
    try:
        told = process.stdout.readline()
        if told.strip() != BEGUN:
            raise UsageError(f"the placements beside the reads did not begin: {told!r}")
        yield
    finally:
        stop(process, 5)
        process.stdout.close()


def keep_placing(url: str, rate_rps: float) -> None:
    """Send placements at a rate, or as many as are answered one after the other, until killed."""
    connection, call = connect(url), _placement(bench_workload(1_000))
    send(connection, call)
    sys.stdout.buffer.write(BEGUN + b"\n")
    sys.stdout.buffer.flush()
    due_s = time.monotonic()
    while True:
        send(connection, call)
        due_s = max(due_s + 1 / rate_rps, time.monotonic())
        time.sleep(max(0.0, due_s - time.monotonic()))


def bench_workload(num_adapters: int) -> dict[str, Any]:
    """Return a workload document of mixed ranks and rates; the same number gives the same document."""
    rng = np.random.default_rng(num_adapters)
    ranks, rates = rng.choice(RANKS, num_adapters), rng.choice(RATES_RPS, num_adapters)
    adapters = [
        {
            "id": f"adapter-{row}",
            "rank": int(ranks[row]),
            "rate_rps": float(rates[row]),
            "input_tokens_mean": 223,
            "output_tokens_mean": 197,
        }
        for row in range(num_adapters)
    ]
    return {"base_model": "llama-3.1-8b-instruct", "gpu_type": "h100-64gb", "adapters": adapters}


def by_columns(document: dict[str, Any]) -> dict[str, Any]:
    """Return the same workload by columns."""
    rows = document["adapters"]
    return document | {"adapters": {name: [row[name] for row in rows] for name in rows[0]}}


if __name__ == "__main__":
    keep_placing(sys.argv[1], float(sys.argv[2]))
