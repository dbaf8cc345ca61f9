"""How fast the twin is on this machine: by regime, by what grows, and against the plain server."""

from __future__ import annotations

import importlib
import importlib.util
import time
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from twin.calibration import load_calibration, shipped_calibration_ids
from twin.client import STEADY_SERVICE
from twin.domain import Adapter, ServerConfig, Workload
from twin.memory import required_kv_tokens
from twin.report import Window
from twin.simulate import report_of, serve
from twin.workload import generate_requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from twin.domain import Calibration, SimulationReport

REPETITIONS = 5
HORIZON_S = 3600.0

PLAIN_SERVER = "tests.support.twin_oracle"
"""The plain server is test code: it is measured where the checkout is at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """A server and a load that put it in one regime."""

    name: str
    num_adapters: int
    total_rate_rps: float
    max_loras: int
    horizon_s: float = HORIZON_S


REGIMES = (
    Regime(name="light", num_adapters=32, total_rate_rps=2.0, max_loras=32),
    Regime(name="busy", num_adapters=128, total_rate_rps=15.0, max_loras=96),
    Regime(name="slot-bound", num_adapters=256, total_rate_rps=20.0, max_loras=8),
    Regime(name="kv-bound", num_adapters=64, total_rate_rps=60.0, max_loras=64),
    Regime(name="large", num_adapters=1000, total_rate_rps=100.0, max_loras=64),
)

GROWING = Regime(name="growing", num_adapters=1000, total_rate_rps=25.0, max_loras=64)
GROWTH = {
    "num_adapters": (100, 1000, 10_000),
    "total_rate_rps": (6.25, 25.0, 100.0),
    "horizon_s": (900.0, 3600.0, 14_400.0),
}
"""What grows from `GROWING`, alone, while the rest stays."""


def bench_twin() -> dict[str, object]:
    """Return simulated seconds a wall second and nanoseconds a step, compiled, on one core.

    Returns
    -------
    ``regimes`` and, for each field of `GROWTH`, rows of a regime with its wall time (median), how it is
    split into drawing requests, engine and report, and the engine's cost a step and a request sent;
    ``plain_server``: the compiled kernel's time against the plain server's, None where it is not there.
    """
    calibration = load_calibration(shipped_calibration_ids()[0])
    return {
        "calibration_id": calibration.calibration_id,
        "regimes": [_measure(regime, calibration) for regime in REGIMES],
        "growth": {
            name: [
                _measure(replace(GROWING, name=f"{name}={value:g}", **{name: value}), calibration)
                for value in values
            ]
            for name, values in GROWTH.items()
        },
        "plain_server": _against_the_plain_server(),
    }


def regime_workload(regime: Regime) -> Workload:
    """Return adapters of rank 8 and ShareGPT-like lengths that share the regime's rate evenly."""
    return Workload.from_adapters(
        Adapter(
            adapter_id=f"adapter-{row}",
            rank=8,
            rate_rps=regime.total_rate_rps / regime.num_adapters,
            input_tokens_mean=223.0,
            output_tokens_mean=195.0,
        )
        for row in range(regime.num_adapters)
    )


PARTS = ("drawing", "engine", "report")


def _measure(regime: Regime, calibration: Calibration) -> dict[str, Any]:
    """Run a regime several times, after a run that compiles."""
    workload = regime_workload(regime)
    runs = [_timed_parts(regime, workload, calibration, seed) for seed in (0, *range(REPETITIONS))]
    parts_s = {part: median(walls_s[place] for walls_s, _ in runs[1:]) for place, part in enumerate(PARTS)}
    wall_s = sum(parts_s.values())
    report = runs[1][1]
    return {
        "regime": regime.name,
        "num_adapters": regime.num_adapters,
        "total_rate_rps": regime.total_rate_rps,
        "max_loras": regime.max_loras,
        "horizon_s": regime.horizon_s,
        "binding_constraint": report.binding_constraint,
        "num_steps": report.num_steps,
        "num_requests_sent": report.num_requests_sent,
        "wall_ms": wall_s * 1e3,
        **{f"{name}_ms": part_s * 1e3 for name, part_s in parts_s.items()},
        "speedup": regime.horizon_s / wall_s,
        "ns_per_step": parts_s["engine"] * 1e9 / max(report.num_steps, 1),
        "ns_per_request": parts_s["engine"] * 1e9 / max(report.num_requests_sent, 1),
    }


def _timed_parts(
    regime: Regime, workload: Workload, calibration: Calibration, seed: int
) -> tuple[tuple[float, float, float], SimulationReport]:
    server = ServerConfig(max_loras=regime.max_loras, max_lora_rank=8)
    window = Window(warmup_s=0.0, horizon_s=regime.horizon_s)
    max_model_len = required_kv_tokens(calibration, server.max_model_len)
    drawing_s, requests = _timed(
        lambda: generate_requests(
            workload, horizon_s=regime.horizon_s, seed=seed, max_model_len=max_model_len
        )
    )
    engine_s, run = _timed(
        lambda: serve(requests, workload.rank, server, calibration, window, STEADY_SERVICE)
    )
    report_s, report = _timed(lambda: report_of(requests, run, server, calibration, window))
    return (drawing_s, engine_s, report_s), report


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    made = run()
    return time.perf_counter() - start, made


def _against_the_plain_server() -> dict[str, float] | None:
    """Return one small overload's time on both servers, which agree on every event of it."""
    if importlib.util.find_spec("tests") is None or importlib.util.find_spec(PLAIN_SERVER) is None:
        return None
    cases = importlib.import_module("tests.support.twin_cases")
    oracle = importlib.import_module(PLAIN_SERVER)
    scenario = cases.random_scenario(0, num_requests=400, num_adapters=12)
    cases.run_kernel(scenario)
    compiled = [_timed(lambda: cases.run_kernel(scenario)) for _ in range(REPETITIONS)]
    compiled_s, outcome = median(wall_s for wall_s, _ in compiled), compiled[0][1]
    plain_s, expected = _timed(lambda: oracle.run_oracle(scenario))
    assert outcome == expected, "the kernel equals the plain server"
    num_steps = outcome.totals["NUM_STEPS"]
    return {
        "num_steps": num_steps,
        "compiled_ns_per_step": compiled_s * 1e9 / num_steps,
        "plain_ns_per_step": plain_s * 1e9 / num_steps,
        "ratio": plain_s / compiled_s,
    }
