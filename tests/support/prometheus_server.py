"""A real Prometheus to ask, with counters written into its store, where its programs are on the PATH."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import httpx
import pytest

from tests.support.waiting import wait_until

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not on the PATH (Debian's package `prometheus` has both)",
)

SCRAPE_S = 15


def counter_lines(name, label, per_second, end_s, window_s):
    """Return OpenMetrics lines of a counter that grows evenly, by label value, ending at a time."""
    family = name.removesuffix("_total")
    yield f"# TYPE {family} counter"
    for value, rate in per_second.items():
        for at_s in range(int(end_s - window_s), int(end_s) + 1, SCRAPE_S):
            grown = rate * (at_s - int(end_s - window_s))
            yield f'{family}_total{{{label}="{value}",server="a"}} {grown} {at_s}'


@contextmanager
def prometheus(folder, lines):
    """Run a real Prometheus over these samples and yield its address."""
    samples = folder / "samples.om"
    samples.write_text("\n".join([*lines, "# EOF\n"]))
    store = folder / "store"
    promtool = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(samples), str(store)]
    subprocess.run(promtool, check=True, capture_output=True, timeout=60)
    (folder / "prometheus.yml").write_text("global: {}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={store}",
        "--storage.tsdb.retention.time=10y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _is_ready(url), timeout_s=60, what="a ready Prometheus")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def _is_ready(url):
    try:
        return httpx.get(f"{url}/-/ready", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def recently_s():
    """Return a time hours ago on a whole scrape: backfilled blocks must not reach into the head."""
    return (int(time.time()) - 3 * 3600) // SCRAPE_S * SCRAPE_S
