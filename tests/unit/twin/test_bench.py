"""What the twin's speed figures hold."""

import pytest

from tests.support.twin_cases import HAS_JIT
from twin import bench

pytestmark = pytest.mark.skipif(
    not HAS_JIT, reason="an hour of a server takes minutes without compiled kernels"
)


def test_speed_is_told_by_regime_by_what_grows_and_against_the_plain_server(monkeypatch):
    monkeypatch.setattr(bench, "REGIMES", bench.REGIMES[:1])
    monkeypatch.setattr(bench, "GROWTH", {"horizon_s": (10.0, 20.0)})
    monkeypatch.setattr(bench, "REPETITIONS", 1)
    figures = bench.bench_twin()
    light = figures["regimes"][0]
    assert light["regime"] == "light"
    assert light["binding_constraint"] == "none"
    assert light["wall_ms"] == pytest.approx(light["drawing_ms"] + light["engine_ms"] + light["report_ms"])
    assert light["speedup"] == pytest.approx(3600e3 / light["wall_ms"])
    assert [row["horizon_s"] for row in figures["growth"]["horizon_s"]] == [10.0, 20.0]
    plain = figures["plain_server"]
    assert plain["ratio"] == pytest.approx(plain["plain_ns_per_step"] / plain["compiled_ns_per_step"])
