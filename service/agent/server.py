"""A vLLM server that the agent starts, reaches over HTTP only, and ends with everything it started."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx
import structlog

from service.agent.errors import LaunchError
from service.agent.vllm_metrics import read_exposition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.agent.plan import Launch
    from service.agent.settings import AgentSettings
    from twin.domain import ModelShape

KEEPER = Path(__file__).with_name("keeper.py")
MARK = "LOADMASTER_STARTED_BY_AGENT_OF"
"""In the environment of all that an agent starts and of nothing else: it tells what a killed one left."""

SESSION = "server.session"
POLL_S = 0.25
STOP_S = 30.0
ANSWER_S = 30.0
LOG_TAIL_BYTES = 60_000
VLLM_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}

MEMORY_SIGNS: Mapping[str, re.Pattern[str]] = {
    "kv_smaller_than_max_len": re.compile(
        r"(larger than the maximum number of tokens|larger than the available KV cache memory"
        r"|To serve at least one request)"
    ),
    "no_memory_for_kv_blocks": re.compile(r"No available memory for the cache blocks"),
    "oom_torch": re.compile(r"(OutOfMemoryError|CUDA out of memory|DefaultCPUAllocator: can't allocate)"),
}
"""What a log says of a launch that failed for want of memory, by the name in ``memory_kv.csv``."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A server that answers.

    Attributes
    ----------
    url
        Where.
    kv_tokens, block_size
        Of its KV cache.
    version
        As it says itself.
    start_s
        Seconds that it took.
    """

    url: str
    kv_tokens: int
    block_size: int
    version: str
    start_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """A launch that failed for want of memory: a datum. `error` is a name of `MEMORY_SIGNS`."""

    error: str
    start_s: float


class VllmServer:
    """Starts one server at a time and ends it; as a context, whatever happens.

    Parameters
    ----------
    settings
        The command, the port, deadlines.
    model
        Directory of the base model.
    shape
        Its shapes, for servers that are given their KV cache's size.
    """

    def __init__(self, settings: AgentSettings, model: Path, shape: ModelShape) -> None:
        self._settings = settings
        self._model = model
        self._shape = shape
        self._url = f"http://127.0.0.1:{settings.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = settings.home / "vllm.log"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, launch: Launch) -> Started | OutOfMemory:
        """Start a server and wait until it answers, or tell that memory did not suffice.

        Raises
        ------
        LaunchError
            The port is taken, or it ended, did not answer or does not describe itself.
        """
        self.stop()
        require_free_port(self._settings.port)
        command = command_of(self._settings, self._model, self._shape, launch)
        began_s = time.monotonic()
        log.info("launching", command=shlex.join(command))
        self._process = _spawn(command, self._settings.home, self._log)
        try:
            while not _is_healthy(self._url):
                self._refuse_if_ended_or_late(began_s)
                time.sleep(POLL_S)
        except LaunchError as error:
            self.stop()
            sign = memory_sign(_tail(self._log))
            if sign is None:
                raise
            log.info("out_of_memory", error=sign, detail=str(error)[:200])
            return OutOfMemory(error=sign, start_s=time.monotonic() - began_s)
        start_s = time.monotonic() - began_s
        try:
            return self._describe(start_s)
        except (LaunchError, httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            self.stop()
            raise LaunchError(f"vLLM does not say what it is: {error!r}") from error

    def _describe(self, start_s: float) -> Started:
        with httpx.Client(base_url=self._url, timeout=30) as http:
            exposition = read_exposition(http.get("/metrics").text, 0.0)
            version = str(http.get("/version").json()["version"])
        if exposition.kv_tokens is None or exposition.block_size is None:
            raise LaunchError("the server's metrics lack vllm:cache_config_info")
        return Started(
            url=self._url,
            kv_tokens=exposition.kv_tokens,
            block_size=exposition.block_size,
            version=engine_version(version),
            start_s=start_s,
        )

    def _refuse_if_ended_or_late(self, began_s: float) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise LaunchError(
                f"vLLM ended with {self._process.returncode}: {_tail(self._log)[-1500:].strip()}"
            )
        if time.monotonic() - began_s > self._settings.start_deadline_s:
            raise LaunchError(f"vLLM did not answer within {self._settings.start_deadline_s:g} s")

    def answers(self) -> bool:
        """Tell whether it still answers; while its process is there it is given `ANSWER_S` to."""
        deadline = time.monotonic() + ANSWER_S
        while self._process is not None and self._process.poll() is None and time.monotonic() < deadline:
            if _is_healthy(self._url):
                return True
            time.sleep(POLL_S)
        return False

    def stop(self) -> None:
        """End the server with all its processes and wait until none is left and the port is free."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        end_leftovers(self._settings.home)
        _wait_for_free_port(self._settings.port)


def command_of(settings: AgentSettings, model: Path, shape: ModelShape, launch: Launch) -> list[str]:
    """Return the command line of a server.

    Raises
    ------
    LaunchError
        The template names something that we do not know.
    """
    values: dict[str, object] = {
        "model": model,
        "port": settings.port,
        "max_loras": launch.max_loras,
        "max_cpu_loras": launch.max_cpu_loras,
        "max_lora_rank": launch.max_lora_rank,
    }
    if settings.memory_budget_bytes is not None:
        left = settings.memory_budget_bytes - slots_bytes(shape, launch)
        values["kv_cache_memory_bytes"] = max(left, 1)  # vLLM itself refuses it
    try:
        return [word.format(**values) for word in shlex.split(settings.command)]
    except (KeyError, IndexError, ValueError) as error:
        raise LaunchError(
            f"LOADMASTER_AGENT_COMMAND has a placeholder that is not known: {error}; "
            f"known: {', '.join(values)}"
        ) from error


def slots_bytes(shape: ModelShape, launch: Launch) -> int:
    """Return what a server's adapter slots take of its memory."""
    from twin.memory import lora_bytes_per_rank, lora_bytes_per_slot  # noqa: PLC0415 (Numba)

    slot = lora_bytes_per_slot(shape) + lora_bytes_per_rank(shape) * launch.max_lora_rank
    return launch.max_loras * slot


def engine_version(version: str) -> str:
    """Return a version as calibrations name it: ``vllm-0.32.0``; a local part follows a dash."""
    return "vllm-" + version.replace("+", "-")


def memory_sign(text: str) -> str | None:
    """Return what a log says of a failure for want of memory, None where it was none."""
    return next((name for name, sign in MEMORY_SIGNS.items() if sign.search(text)), None)


def require_free_port(port: int) -> None:
    """Raise `LaunchError` where something listens on a port of this machine already."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            pass
    except OSError as error:
        raise LaunchError(f"port {port} is taken: {error.strerror}") from error


def _wait_for_free_port(port: int) -> None:
    deadline = time.monotonic() + STOP_S
    while True:
        try:
            require_free_port(port)
        except LaunchError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
        else:
            return


def end_leftovers(home: Path) -> int:
    """End what an agent of this home started and nobody holds any more; return how many there were.

    To be called by the only agent of a home (it holds the home's lock) while it runs no server.
    """
    ended = 0
    for _ in range(100):
        found = server_processes(home)
        if not found:
            break
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended = max(ended, len(found))
        time.sleep(POLL_S)
    if ended:
        log.warning("leftovers_ended", processes=ended)
    return ended


def server_processes(home: Path) -> list[int]:
    """Return the processes of servers that an agent of this home started.

    They have the mark in their environment, or, where they wrote over it (vLLM names its processes), are of
    the session that the last server was started in.
    """
    mark = f"{MARK}={home.resolve()}".encode()
    session = _last_session(home)
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        with suppress(OSError, IndexError, ValueError):
            state, of_session, _ = _status(pid)
            marked = mark in (path / "environ").read_bytes().split(b"\0")
            if pid != os.getpid() and state != "Z" and (marked or of_session == session):
                found.append(pid)
    return found


def _status(pid: int) -> tuple[str, int, str]:
    """Return a process's state, its session, and when it started."""
    fields = (
        Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    )
    return fields[0], int(fields[3]), fields[19]


def _last_session(home: Path) -> int | None:
    """Return the session of the last server, None where its number has gone to another process since."""
    try:
        pid_text, started = (home / SESSION).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    session = int(pid_text)
    try:
        is_other = _status(session)[2] != started
    except (OSError, IndexError, ValueError):
        return session  # no number is given out again while a session has it
    return None if is_other else session


def _spawn(command: Sequence[str], home: Path, log_file: Path) -> subprocess.Popen[bytes]:
    environment = dict(os.environ) | VLLM_ENVIRONMENT | {MARK: str(home.resolve())}
    environment.pop("LOADMASTER_AGENT_KEY", None)
    shim = [sys.executable, "-I", "-S", str(KEEPER)]
    with log_file.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 (the operator's own command, no shell)
            [*shim, *command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with suppress(OSError, IndexError):  # no /proc: then the keeper alone must do
        (home / SESSION).write_text(f"{process.pid} {_status(process.pid)[2]}", encoding="ascii")
    return process


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(path.stat().st_size - LOG_TAIL_BYTES, 0))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""
