"""`loadmaster serve` as a real process, its descendants, and a client."""

import os
import socket
from contextlib import contextmanager
from pathlib import Path

import httpx

from service.trial import TrialService, clean_environment

ROOT = Path(__file__).parents[2]
FAST_RECOVERY = {"LOADMASTER_JOB_HEARTBEAT_S": "4", "LOADMASTER_MAINTENANCE_INTERVAL_S": "1"}
"""A dead worker's job is run again within about ten seconds instead of a minute."""


class ServiceProcess(TrialService):
    """A service whose dead workers' jobs are soon run again, its descendants, and a client."""

    def __init__(self, data_dir, *, port=0, **environment):
        path = {"PYTHONPATH": _python_path()}
        super().__init__(Path(data_dir), clean_environment(**FAST_RECOVERY, **environment, **path), port=port)
        self.client = None

    def start(self):
        self.launch()
        self.client = httpx.Client(base_url=self.url, timeout=30)
        return self

    def kill(self):
        super().kill()
        self.client.close()

    def stop(self):
        if self.client is not None:
            self.client.close()
        return super().stop()

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


def free_port():
    """A port that nothing listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


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
