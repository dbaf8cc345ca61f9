"""What an agent measures on: the GPU as its own tools describe it, else the processor."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from service.agent.server import engine_version

if TYPE_CHECKING:
    from service.agent.settings import AgentSettings

QUERY_S = 30.0
UNKNOWN_ENGINE = "vllm-unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A device.

    Attributes
    ----------
    gpu_type
        As calibrations name it.
    name
        As its vendor names it.
    memory_bytes
        Of the device.
    driver
        Its version; empty for a processor.
    """

    gpu_type: str
    name: str
    memory_bytes: int
    driver: str


def find_hardware(gpu_type: str | None = None) -> Hardware:
    """Return the first GPU that ``nvidia-smi`` tells of, else the processor, under `gpu_type` where given."""
    found = _nvidia() or _processor()
    return (
        found
        if gpu_type is None
        else Hardware(
            gpu_type=gpu_type, name=found.name, memory_bytes=found.memory_bytes, driver=found.driver
        )
    )


def _nvidia() -> Hardware | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_S, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return read_nvidia(told)


def read_nvidia(told: str) -> Hardware | None:
    """Return the first GPU of ``nvidia-smi``'s CSV (name, MiB, driver), None where there is none."""
    parts = [part.strip() for part in told.strip().partition("\n")[0].split(",")]
    if len(parts) != 3 or not parts[1].isdecimal():  # noqa: PLR2004 (the query's columns)
        return None
    name, mebibytes, driver = parts[0], int(parts[1]), parts[2]
    short = re.sub(r"^(nvidia|tesla|geforce)[\s-]+", "", name, flags=re.IGNORECASE)
    model = re.split(r"[\s/]", short.strip())[0].lower()
    gib = round(mebibytes / 1024)
    return Hardware(gpu_type=f"{model}-{gib}gb", name=name, memory_bytes=mebibytes * 2**20, driver=driver)


def _processor() -> Hardware:
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Hardware(gpu_type="cpu", name=_processor_name(), memory_bytes=memory_bytes, driver="")


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def find_engine_version(settings: AgentSettings) -> str:
    """Return vLLM's version without starting it: as set, else asked of the Python beside its program."""
    if settings.engine_version is not None:
        return settings.engine_version
    for word in shlex.split(settings.command):
        program = shutil.which(word) if Path(word).name == "vllm" else None
        if program is not None:
            python = Path(program).parent / "python3"
            ask = "from importlib.metadata import version; print(version('vllm'))"
            try:
                told = subprocess.run(  # noqa: S603 (beside the operator's own program)
                    [str(python), "-I", "-c", ask],
                    capture_output=True,
                    text=True,
                    timeout=QUERY_S,
                    check=True,
                ).stdout
            except (OSError, subprocess.SubprocessError):
                break
            return engine_version(told.strip())
    return UNKNOWN_ENGINE
