"""kill -9 of agent, engine and service while a real vLLM is calibrated: it ends, and leaves nothing."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.agent_site import Site
from tests.support.real_vllm import agent_settings, needs_vllm
from tests.support.service_process import is_running
from tests.support.waiting import wait_until

PATIENCE_S = 900.0


def short_settings(directory, **changes):
    """A plan of few points: what is killed matters here, not what is measured."""
    short = {
        "slots": (2, 4),
        "batches": (1, 4, 8),
        "prompt_tokens": (16, 32),
        "answer_tokens": 16,
        "queue_length": 50,
        "ramp_s": 0.5,
        "window_s": 1.5,
        "check_window_s": 5.0,
        "budget_minutes": 20.0,
    }
    return agent_settings(directory / "home", **(short | changes))


def named(pids, name):
    """The processes of a server that vLLM gave a name, such as its engine core."""
    return [pid for pid in pids if name in Path(f"/proc/{pid}/comm").read_text()]


def killed(pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        wait_until(lambda pid=pid: not is_running(pid), timeout_s=60, what=f"the end of {pid}")


@needs_vllm
@pytest.mark.timeout(1800)
def test_a_calibration_outlives_the_kill_of_agent_engine_and_service(tmp_path):
    site = Site(tmp_path, short_settings, patience_s=PATIENCE_S)
    try:
        site.wait_for_points(3)
        assert len(site.servers()) >= 3, "keeper, API server, engine core at least"
        site.agent.kill()
        site.check_that_nothing_is_left()

        site.agent.start()
        site.wait_for_points(5)
        killed(
            wait_until(
                lambda: named(site.servers(), "VLLM::EngineCor"), timeout_s=PATIENCE_S, what="an engine"
            )
        )

        site.wait_for_points(7)
        site.service.kill()
        site.wait_for_points(9)
        site.service.start()

        site.finished_set()
        site.check_that_nothing_is_left()
        site.check_that_no_point_was_measured_twice()
    finally:
        site.close()
