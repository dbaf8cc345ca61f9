"""A server and all it starts end with the agent, however that ends; memory is told from other failures."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from service.agent.errors import LaunchError
from service.agent.plan import Launch
from service.agent.server import (
    MARK,
    VllmServer,
    command_of,
    end_leftovers,
    engine_version,
    memory_sign,
    require_free_port,
    slots_bytes,
)
from service.agent.settings import AgentSettings
from tests.support.agent_sets import manifest
from tests.support.agent_site import engine_of, fake_settings
from tests.support.service_process import free_port, is_running
from tests.support.waiting import wait_until

SHAPE = manifest().shape
LAUNCH = Launch(max_loras=4, max_lora_rank=8, max_cpu_loras=6)

FAMILY = """
import os, subprocess, sys, time
kind, where = sys.argv[1], sys.argv[2]
if kind == "parent":
    child = subprocess.Popen([sys.executable, __file__, "child", where], start_new_session=True)
open(os.path.join(where, kind), "w").write(str(os.getpid()))
time.sleep(600)
"""


def settings(tmp_path, **changes):
    return AgentSettings(home=tmp_path, **({"port": free_port()} | changes))


def pid_in(path):
    return wait_until(lambda: path.exists() and path.read_text(), timeout_s=60, what=f"{path.name} started")


@pytest.fixture
def family(tmp_path):
    """The command of a process that starts another one in a session of its own."""
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    return [sys.executable, str(script), "parent", str(tmp_path)]


HOLD = """
import subprocess, sys
keeper = subprocess.Popen([sys.executable, "-I", "-S", *sys.argv[1:]], stdin=subprocess.PIPE)
print(keeper.pid, flush=True)
sys.stdin.read()
"""


def keep(family):
    """A holder process whose keeper runs the family; returns holder, keeper's pid."""
    from service.agent.server import KEEPER  # noqa: PLC0415

    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(KEEPER), *family], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    return holder, int(holder.stdout.readline())


def close(holder):
    holder.stdin.close()
    holder.stdout.close()
    holder.wait()


def test_when_the_agent_is_killed_nothing_of_its_server_is_left(tmp_path, family):
    holder, keeper = keep(family)
    pids = [int(pid_in(tmp_path / name)) for name in ("parent", "child")]
    holder.send_signal(signal.SIGKILL)
    close(holder)
    for pid in (*pids, keeper):
        wait_until(lambda pid=pid: not is_running(pid), timeout_s=60, what=f"the end of {pid}")


def test_when_the_server_is_killed_what_it_started_is_ended_too(tmp_path, family):
    holder, keeper = keep(family)
    parent, child = (int(pid_in(tmp_path / name)) for name in ("parent", "child"))
    os.kill(parent, signal.SIGKILL)
    for pid in (parent, child, keeper):
        wait_until(lambda pid=pid: not is_running(pid), timeout_s=60, what=f"the end of {pid}")
    close(holder)


def test_what_a_killed_keeper_left_is_found_by_its_mark_and_ended(tmp_path, family):
    environment = os.environ | {MARK: str(tmp_path.resolve())}
    parent = subprocess.Popen(family, env=environment)
    child = int(pid_in(tmp_path / "child"))
    assert end_leftovers(tmp_path) == 2
    assert parent.wait() == -signal.SIGKILL
    wait_until(lambda: not is_running(child), timeout_s=60, what="the child's end")
    assert end_leftovers(tmp_path) == 0


def test_a_port_that_is_taken_is_no_port_for_a_server(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = VllmServer(settings(tmp_path, port=port), tmp_path, SHAPE)
        with server, pytest.raises(LaunchError, match=f"port {port} is taken"):
            server.start(LAUNCH)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("ValueError: No available memory for the cache blocks.", "no_memory_for_kv_blocks"),
        (
            "the model's max seq len (512) is larger than the maximum number of tokens",
            "kv_smaller_than_max_len",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory", "oom_torch"),
    ],
)
def test_a_launch_that_runs_out_of_memory_is_a_datum(tmp_path, said, error):
    command = f"{sys.executable} -c 'import sys; sys.exit(\"{said.replace(chr(39), '')}\")'"
    with VllmServer(settings(tmp_path, command=command), tmp_path, SHAPE) as server:
        outcome = server.start(LAUNCH)
    assert outcome.error == error


HEALTHY_ONLY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = open(sys.argv[2], "rb").read() if self.path == "/metrics" else b"no JSON"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.parametrize("metrics", ["", 'vllm:cache_config_info{block_size="16",num_gpu_blocks="9"} 1'])
def test_a_server_that_answers_and_does_not_say_what_it_is_is_an_error_and_is_ended(tmp_path, metrics):
    script = tmp_path / "healthy.py"
    script.write_text(HEALTHY_ONLY)
    (tmp_path / "metrics").write_text(metrics)
    told = settings(tmp_path, command=f"{sys.executable} {script} {{port}} {tmp_path / 'metrics'}")
    with VllmServer(told, tmp_path, SHAPE) as server, pytest.raises(LaunchError, match="what it is"):
        server.start(LAUNCH)
    require_free_port(told.port)


def test_a_launch_that_fails_otherwise_is_an_error_with_its_last_words(tmp_path):
    command = f"{sys.executable} -c 'import sys; sys.exit(\"no such model\")'"
    server = VllmServer(settings(tmp_path, command=command), tmp_path, SHAPE)
    with server, pytest.raises(LaunchError, match="no such model"):
        server.start(LAUNCH)
    assert memory_sign("no such model") is None


def test_a_server_that_never_answers_is_ended_at_its_deadline_and_frees_its_port(tmp_path, family):
    chosen = settings(tmp_path, command=" ".join(family), start_deadline_s=0.5)
    server = VllmServer(chosen, tmp_path, SHAPE)
    with server, pytest.raises(LaunchError, match=r"within 0\.5 s"):
        server.start(LAUNCH)
    require_free_port(chosen.port)
    assert end_leftovers(tmp_path) == 0


def test_a_killed_server_does_not_answer_though_its_keeper_has_not_noticed(tmp_path):
    chosen = fake_settings(tmp_path)
    chosen.home.mkdir()
    with VllmServer(chosen, tmp_path, SHAPE) as server:
        server.start(LAUNCH)
        assert server.answers()
        os.kill(engine_of(chosen.home), signal.SIGKILL)
        assert not server.answers()


def test_slots_and_kv_cache_share_the_budget_that_is_given(tmp_path):
    chosen = settings(
        tmp_path, command="vllm {model} {max_loras} {kv_cache_memory_bytes}", memory_budget_bytes=8 * 2**20
    )
    left = 8 * 2**20 - slots_bytes(SHAPE, LAUNCH)
    assert command_of(chosen, tmp_path, SHAPE, LAUNCH) == ["vllm", str(tmp_path), "4", str(left)]


def test_a_placeholder_that_is_not_known_is_named(tmp_path):
    with pytest.raises(LaunchError, match="colour"):
        command_of(settings(tmp_path, command="vllm {colour}"), tmp_path, SHAPE, LAUNCH)


def test_a_version_is_named_as_calibrations_name_it():
    assert engine_version("0.32.0+cpu") == "vllm-0.32.0-cpu"
