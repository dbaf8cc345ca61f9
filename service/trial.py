"""`loadmaster serve` on a free port and a data directory of its own, for as long as something tries it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from service.errors import UsageError
from service.process import spawn_tethered, stop

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping

START_DEADLINE_S = 240.0
"""Kernels may have to be compiled first."""

STOP_DEADLINE_S = 60.0
POLL_S = 0.1
HTTP_OK = 200


def clean_environment(**changes: str) -> dict[str, str]:
    """Return our environment without what would point at another store, data directory or limit."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LOADMASTER_") and name != "REDIS_URL"
    }
    return kept | changes


class TrialService:
    """A service that can be killed and started again on the same data directory.

    Parameters
    ----------
    data_dir
        Its data directory; its log lies beside it.
    environment
        Its whole environment.
    port
        Where it listens each time; 0 picks one each time.
    """

    def __init__(self, data_dir: Path, environment: Mapping[str, str], *, port: int = 0) -> None:
        self.data_dir = data_dir
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self._environment = environment
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started last."""
        assert self._process is not None, "the service was started"
        return self._process

    def launch(self) -> None:
        """Start it and return once it is ready.

        Raises
        ------
        UsageError
            It is not within `START_DEADLINE_S`; with the end of its log.
        """
        command = [
            sys.executable,
            "-m",
            "service.cli",
            "serve",
            "--port",
            str(self._port),
            "--data-dir",
            str(self.data_dir),
        ]
        with self.log.open("wb") as output:
            self._process = spawn_tethered(command, env=self._environment, output=output)
        deadline = time.monotonic() + START_DEADLINE_S
        self.url = ""
        while not (self.url and is_ready(self.url)):
            self.url = self.url or logged_url(self.log) or ""
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise UsageError(f"the service did not start: {self.log.read_text()[-2000:]}")
            time.sleep(POLL_S)

    def kill(self) -> None:
        """End it as a loss of power would, its children left to themselves."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """End it in order and return its exit status."""
        stop(self.process, STOP_DEADLINE_S)
        return self.process.returncode

    def child_pid(self, name: str) -> int:
        """Return the process id of the latest child of that name, from the log.

        Children write to the same file: a line that is no whole entry is passed over.
        """
        lines = self.log.read_text().splitlines()
        pids = [
            entry["pid"]
            for entry in map(json.loads, [line for line in lines if line[:1] == "{" and line[-1:] == "}"])
            if entry.get("event") == "child_started" and entry["child"] == name
        ]
        return pids[-1]


@contextmanager
def temporary_service(
    environment: Mapping[str, str] | None = None, /, **settings: str
) -> Iterator[TrialService]:
    """Run a service with some settings; yield it once it is ready, end it and remove its files at the end.

    Parameters
    ----------
    environment
        Variables besides ours.
    """
    with tempfile.TemporaryDirectory(prefix="loadmaster-") as directory:
        names = {f"LOADMASTER_{name.upper()}": value for name, value in settings.items()}
        service = TrialService(Path(directory) / "data", clean_environment(**names, **(environment or {})))
        try:
            service.launch()
            yield service
        finally:
            service.stop()


def logged_url(log: Path) -> str | None:
    """Return the address that a service wrote to its log, None where it has not yet."""
    for line in log.read_text().splitlines():
        if '"listening"' in line:
            return json.loads(line)["url"]
    return None


def is_ready(url: str) -> bool:
    """Tell whether ``/readyz`` answers 200."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == HTTP_OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
