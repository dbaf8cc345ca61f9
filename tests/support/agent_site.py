"""A service with an agent beside it that measures, and what may be seen of it from outside."""

import json
import sys
from collections import Counter
from pathlib import Path

from service.agent.hardware import find_engine_version
from service.agent.server import require_free_port, server_processes
from tests.support.real_vllm import AgentProcess, Asking, agent_settings
from tests.support.service_process import ServiceProcess, free_port
from tests.support.waiting import wait_until

FAKE = Path(__file__).with_name("fake_vllm.py")
FAKE_ENGINE_VERSION = "vllm-0.0.1"
JOB = "drill-1"
DONE_S = 500.0


def fake_settings(directory, **changes):
    """Settings of an agent whose servers only answer like vLLM, and whose windows are short."""
    flags = "--port {port} --max-loras {max_loras} --kv-bytes {kv_cache_memory_bytes}"
    known = {
        "port": free_port(),
        "slots": (2, 4),
        "prompt_tokens": (8, 16),
        "command": f"{sys.executable} {FAKE} {flags}",
        "engine_version": FAKE_ENGINE_VERSION,
        "heartbeat_s": 0.5,
        "idle_s": 0.2,
        "ramp_s": 0.1,
        "window_s": 0.5,
        "check_window_s": 1.0,
        "queue_length": 20,
        "batches": (1, 2, 4),
        "answer_tokens": 16,
        "start_s": 1.0,
    }
    return agent_settings(directory / "home", **(known | changes))


def engine_of(home):
    """The process that answers as vLLM does, of the server that an agent of this home started."""

    def is_it(pid):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return len(words) > 1 and Path(words[1].decode()).name == FAKE.name

    return next(pid for pid in server_processes(home) if is_it(pid))


class Site:
    """A service, an agent beside it, and somebody who asks for a calibration."""

    def __init__(self, directory, settings_of, *, patience_s=DONE_S):
        self.patience_s = patience_s
        self.port = free_port()
        self.service = ServiceProcess(
            directory / "data", port=self.port, LOADMASTER_AGENT_LEASE_S="3"
        ).start()
        self.settings = settings_of(directory, url=f"http://127.0.0.1:{self.port}")
        self.agent = AgentProcess(self.settings).start()
        self.asking = Asking(directory / "data")
        self.asking.ask(JOB, find_engine_version(self.settings))

    def close(self):
        self.agent.stop()
        self.asking.close()
        self.service.stop()

    def measured(self):
        """Keys of the points that were measured and kept, once for each time."""
        lines = self.agent.log.read_text().splitlines() if self.agent.log.exists() else []
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry["key"] for entry in entries if entry.get("event") == "point"]

    def wait_for_points(self, number):
        wait_until(lambda: len(self.measured()) >= number, timeout_s=self.patience_s, what=f"{number} points")

    def servers(self):
        """Processes that the agent's servers consist of."""
        return server_processes(self.settings.home)

    def server(self):
        """The process that answers as vLLM does."""
        return engine_of(self.settings.home)

    def finished_set(self):
        """The measurement set, once it is done; nothing in it is there twice."""
        outcome = wait_until(
            lambda: (found := self.asking.outcome(JOB)).state in {"done", "failed"} and found,
            timeout_s=self.patience_s,
            what="the calibration",
        )
        assert outcome.state == "done", outcome.reason
        directory = self.service.data_dir / "measurements" / outcome.set_id
        for table in directory.glob("*.csv"):
            rows = Counter(table.read_text().splitlines())
            assert max(rows.values()) == 1, f"{table.name} has a row twice"
        return directory

    def check_that_nothing_is_left(self):
        wait_until(lambda: not self.servers(), timeout_s=60, what="the servers' end")
        require_free_port(self.settings.port)

    def check_that_no_point_was_measured_twice(self):
        twice = [key for key, times in Counter(self.measured()).items() if times > 1]
        assert not twice, twice
