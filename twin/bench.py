"""How fast the twin is on this machine, by regime."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from twin.calibration import load_calibration, shipped_calibration_ids
from twin.domain import Adapter, ServerConfig, Workload
from twin.simulate import simulate

if TYPE_CHECKING:
    from twin.domain import Calibration

REPETITIONS = 5
HORIZON_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """A server and a load that put it in one regime."""

    name: str
    num_adapters: int
    total_rate_rps: float
    max_loras: int


REGIMES = (
    Regime(name="light", num_adapters=32, total_rate_rps=2.0, max_loras=32),
    Regime(name="busy", num_adapters=128, total_rate_rps=15.0, max_loras=96),
    Regime(name="slot-bound", num_adapters=256, total_rate_rps=20.0, max_loras=8),
    Regime(name="kv-bound", num_adapters=64, total_rate_rps=60.0, max_loras=64),
    Regime(name="large", num_adapters=1000, total_rate_rps=100.0, max_loras=64),
)


def bench_twin() -> dict[str, object]:
    """Return simulated seconds a wall second and nanoseconds a step, by regime, compiled, one core."""
    calibration = load_calibration(shipped_calibration_ids()[0])
    return {
        "calibration_id": calibration.calibration_id,
        "horizon_s": HORIZON_S,
        "regimes": [_measure(regime, calibration) for regime in REGIMES],
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


def _measure(regime: Regime, calibration: Calibration) -> dict[str, object]:
    workload = regime_workload(regime)
    server = ServerConfig(max_loras=regime.max_loras, max_lora_rank=8)
    report = simulate(workload, server, calibration, horizon_s=HORIZON_S)
    walls_s = []
    for seed in range(REPETITIONS):
        start = time.perf_counter()
        simulate(workload, server, calibration, horizon_s=HORIZON_S, seed=seed)
        walls_s.append(time.perf_counter() - start)
    wall_s = median(walls_s)
    return {
        "regime": regime.name,
        "num_adapters": regime.num_adapters,
        "total_rate_rps": regime.total_rate_rps,
        "num_steps": report.num_steps,
        "wall_ms": wall_s * 1e3,
        "speedup": HORIZON_S / wall_s,
        "ns_per_step": wall_s * 1e9 / max(report.num_steps, 1),
    }
