"""`loadmaster serve` as a real process, its descendants, and a client."""

import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx

from service.bench import is_ready, logged_url
from service.process import spawn_tethered, stop
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
START_S = 240.0  # kernels may have to be compiled first
FAST_RECOVERY = {"LOADMASTER_JOB_HEARTBEAT_S": "4", "LOADMASTER_MAINTENANCE_INTERVAL_S": "1"}
"""A dead worker's job is run again within about ten seconds instead of a minute."""


def clean_environment(**changes):
    """Our environment without what would point at another store or data directory."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LOADMASTER_") and name != "REDIS_URL"
    }
    return kept | changes


class ServiceProcess:
    """A service on a data directory; `start` again after `kill` to come back on the same one."""

    def __init__(self, data_dir, **environment):
        self.data_dir = Path(data_dir)
        self.log = self.data_dir.parent / f"{self.data_dir.name}.log"
        self.environment = clean_environment(**FAST_RECOVERY, **environment)
        self.process = None
        self.client = None

    def start(self):
        command = [
            sys.executable,
            "-m",
            "service.cli",
            "serve",
            "--port",
            "0",
            "--data-dir",
            str(self.data_dir),
        ]
        environment = self.environment | {"PYTHONPATH": _python_path()}
        with self.log.open("wb") as output:
            self.process = spawn_tethered(command, env=environment, output=output)
        self.client = httpx.Client(
            base_url=wait_until(self._url, timeout_s=START_S, what="listening"), timeout=30
        )
        wait_until(self._is_ready, timeout_s=START_S, what="readiness")
        return self

    def _is_alive(self):
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return True

    def _url(self):
        return self._is_alive() and logged_url(self.log)

    def _is_ready(self):
        return self._is_alive() and is_ready(str(self.client.base_url))

    def kill(self):
        """End it as a power cut would, children left to themselves."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.client.close()

    def stop(self):
        if self.client is not None:
            self.client.close()
        stop(self.process, 60)
        return self.process.returncode

    def child_pid(self, name):
        """The process id of the latest child of that name, from the log."""
        pids = [
            entry["pid"]
            for entry in map(json.loads, self.log.read_text().splitlines())
            if entry.get("event") == "child_started" and entry["child"] == name
        ]
        return pids[-1]

    def descendants(self):
        return descendants(self.process.pid)


@contextmanager
def run_service(data_dir, **environment):
    """Run a service; at the end SIGTERM must end every process of it in order."""
    process = ServiceProcess(data_dir, **environment)
    try:
        yield process.start()
        family = process.descendants()
    finally:
        status = process.stop()
    assert status == 0
    assert not any(map(is_running, family))


def _python_path():
    inherited = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{inherited}" if inherited else str(ROOT)


def descendants(pid):
    """Process ids of all children, their children and so on."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *descendants(child)]
    return found


def is_running(pid):
    """Whether a process exists and is not just waiting for its exit status to be read."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
