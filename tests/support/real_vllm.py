"""A real vLLM on this machine's processor, the agent that measures it, and a service it measures for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.agent.local import SMALL_MODEL_NAME
from service.agent.settings import AgentSettings
from service.process import spawn_tethered, stop
from service.services.agents import AgentMeasuring
from service.services.clock import Clock
from service.services.measuring import MeasuringTarget
from service.settings import Settings
from service.storage.agents import AgentStore
from service.storage.connection import connect
from service.trial import clean_environment
from tests.support.service_process import ROOT

PROGRAM = os.environ.get("LOADMASTER_VLLM")
needs_vllm = pytest.mark.skipif(
    PROGRAM is None, reason="needs a real vLLM: make test-vllm installs one and sets LOADMASTER_VLLM"
)
GPU_TYPE = "cpu-8mib"
MEMORY_BYTES = 8 * 2**20
"""What slots and KV cache share: as scarce for the small model as a GPU's memory is for a large one."""

FLAGS = (
    "serve {model} --host 127.0.0.1 --port {port} --served-model-name base --dtype bfloat16 "
    "--max-num-seqs 256 --max-num-batched-tokens 2048 --block-size 32 "
    "--kv-cache-memory-bytes {kv_cache_memory_bytes} --enforce-eager --no-enable-prefix-caching "
    "--generation-config vllm --disable-uvicorn-access-log --enable-lora --max-loras {max_loras} "
    "--max-cpu-loras {max_cpu_loras} --max-lora-rank {max_lora_rank}"
)
ENGINE_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}

PLAN = {
    "slots": (2, 4, 8),
    "ranks": (8,),
    "batches": (1, 4, 12, 24, 40),
    "prompt_tokens": (24, 48, 96),
    "answer_tokens": 64,
    "queue_length": 300,
    "ramp_s": 2.0,
    "window_s": 4.0,
    "check_window_s": 25.0,
    "start_s": 25.0,
    "target_error": 0.03,
    "budget_minutes": 9.0,
}


def engine_prefix():
    """Words before vLLM's own: the last core, and before others there where this user may ask for it."""
    given = os.environ.get("LOADMASTER_VLLM_PREFIX")
    if given is not None:
        return given
    words = []
    if shutil.which("chrt") and subprocess.run(["chrt", "-r", "1", "true"], check=False).returncode == 0:
        words += ["chrt", "-r", "1"]
    if shutil.which("taskset") and len(os.sched_getaffinity(0)) > 1:
        words += ["taskset", "-c", str(max(os.sched_getaffinity(0)))]
    return " ".join(words)


def agent_settings(home, **changes):
    command = f"{engine_prefix()} {PROGRAM} {FLAGS}".strip()
    known = {
        "home": Path(home),
        "agent_id": "cpu-agent",
        "gpu_type": GPU_TYPE,
        "memory_budget_bytes": MEMORY_BYTES,
        "command": command,
        "heartbeat_s": 2.0,
        "idle_s": 1.0,
    }
    return AgentSettings(**(known | PLAN | changes))


class AgentProcess:
    """`loadmaster agent` as a real process, with the settings given; `start` again after `kill`."""

    def __init__(self, settings):
        self.settings = settings
        self.log = settings.home.parent / f"{settings.home.name}.log"
        self.process = None

    def start(self):
        given = self.settings.model_dump(mode="json", exclude_none=True, exclude={"models"})
        environment = clean_environment(
            **ENGINE_ENVIRONMENT,
            **{f"LOADMASTER_AGENT_{name.upper()}": _text(value) for name, value in given.items()},
            PYTHONPATH=str(ROOT),
        )
        with self.log.open("ab") as output:
            self.process = spawn_tethered(
                [sys.executable, "-m", "service.cli", "agent"], env=environment, output=output
            )
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        stop(self.process, 60)
        return self.process.returncode


def _text(value):
    import json  # noqa: PLC0415

    return json.dumps(value) if isinstance(value, list) else str(value)


class Asking:
    """Asks agents of a service's store to measure, as a recalibration does."""

    def __init__(self, data_dir):
        settings = Settings(data_dir=data_dir, redis_url=None)
        self._redis = connect(settings)
        self._measuring = AgentMeasuring(AgentStore(self._redis), settings, Clock())

    def ask(self, job_id, engine_version):
        target = MeasuringTarget(
            base_model=SMALL_MODEL_NAME, gpu_type=GPU_TYPE, engine_version=engine_version
        )
        self._measuring.ask(job_id, target)

    def outcome(self, job_id):
        return self._measuring.outcome(job_id)

    def close(self):
        self._redis.close()
