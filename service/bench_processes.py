"""How many placements a second the HTTP processes of one `serve` answer together."""

from __future__ import annotations

import os
from typing import Any

import orjson

from service.bench import bench_workload
from service.bench_calls import Call, measure_at_once
from service.trial import temporary_service

NUM_ADAPTERS = 1_000
CONNECTIONS_A_PROCESS = 4
LASTING_S = 10.0


def bench_processes(most: int) -> dict[str, Any]:
    """Return placements a second with 1, 2, 4, ... HTTP processes, `most` at last.

    Each number has a service of its own, without workers. Clients send one call after the other, each on a
    connection and in a process of its own, on the same machine: ``client_cores`` is what they computed.

    Parameters
    ----------
    most
        HTTP processes of the last service.
    """
    call = Call(method="POST", path="/place", body=orjson.dumps(bench_workload(NUM_ADAPTERS)))
    runs = [_measured(call, count) for count in doubled(most)]
    return {
        "adapters": NUM_ADAPTERS,
        "cores": len(os.sched_getaffinity(0)),
        "processes": [run | {"speed_up": round(run["rps"] / runs[0]["rps"], 2)} for run in runs],
    }


def doubled(most: int) -> list[int]:
    """Return 1, 2, 4, ... below a number, and the number."""
    return [*(2**power for power in range((most - 1).bit_length())), most]


def _measured(call: Call, count: int) -> dict[str, Any]:
    connections = CONNECTIONS_A_PROCESS * count
    with temporary_service(processes=str(count), start_workers="false") as service:
        found = measure_at_once(service.url, call, num_connections=connections, lasting_s=LASTING_S)
    return {"processes": count, "connections": connections} | found
