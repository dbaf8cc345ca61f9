"""Callers of every kind, who know what the right answers are, and count what they got."""

from __future__ import annotations

import threading
import time
from collections import Counter
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx
import orjson

from service.bench import bench_workload
from service.drill.callers import CALL_TIMEOUT_S, MAX_TOLD, SIZES, Callers

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.trial import TrialService

NUM_IN_FORCE = 96
RATE_STEP_RPS = 1e-4
PAUSES_S = {"place": 0.02, "read": 0.02, "write": 0.2, "queue": 0.5}
"""Of each caller between two calls: enough to keep the service busy, and its processes able to start."""


class Load:
    """Threads that call a service until stopped.

    A wrong answer is one that contradicts another (a second plan for the same workload, or under the same
    plan id; a number of GPUs that is not its plan's), or a refusal other than 503 with ``Retry-After``.

    Attributes
    ----------
    outcomes
        How often a call was answered, refused (503), or broken off.
    wrong
        What was wrong, `MAX_TOLD` at most.
    """

    def __init__(self, service: TrialService) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.jobs: set[str] = set()
        self.num_writes = 0
        self._service = service
        self._lock = threading.Lock()
        self._plan_of: dict[str, Any] = {}
        self._num_gpus_of: dict[str, int] = {}
        self._written: dict[str, set[float]] = {}
        self._writing = threading.Lock()
        steps = {"place": self._place, "read": self._read, "write": self._write, "queue": self._queue}
        self._callers = Callers((partial(self._call, step), PAUSES_S[name]) for name, step in steps.items())
        self._numbers = count(1)

    def start(self) -> None:
        """Put a workload in force and begin."""
        document = bench_workload(NUM_IN_FORCE)
        answer = httpx.put(f"{self._service.url}/workload", json=document, timeout=CALL_TIMEOUT_S)
        answer.raise_for_status()
        self._written = {row["id"]: {row["rate_rps"]} for row in document["adapters"]}
        self._callers.start()

    def stop(self) -> None:
        """End, once the calls that are open have."""
        self._callers.stop()

    def lost_writes(self, deadline_s: float) -> list[str]:
        """Return the adapters whose rate is neither the last acknowledged one nor one sent since.

        What was acknowledged may reach the process that answers a moment later: it has until `deadline_s`.
        """
        ends_s = time.monotonic() + deadline_s
        with self._writing:
            while True:
                lost = self._missing()
                if not lost or time.monotonic() > ends_s:
                    return lost
                time.sleep(0.1)

    def _missing(self) -> list[str]:
        try:
            answer = httpx.get(f"{self._service.url}/workload", timeout=CALL_TIMEOUT_S)
        except httpx.TransportError:
            return list(self._written)
        if not answer.is_success:
            return list(self._written)
        rates = {row["id"]: row["rate_rps"] for row in answer.json()["adapters"]}
        return [name for name, possible in self._written.items() if rates.get(name) not in possible]

    def _call(self, step: Callable[[httpx.Client], None]) -> None:
        """Call over a new connection, so that any process may answer."""
        if not self._service.url:  # it is being started
            return
        try:
            with httpx.Client(base_url=self._service.url, timeout=CALL_TIMEOUT_S) as client:
                step(client)
        except httpx.TransportError:
            self._count("broken")

    def _place(self, client: httpx.Client) -> None:
        size = SIZES[next(self._numbers) % len(SIZES)]
        answer = self._judged(client.post("/place", content=orjson.dumps(bench_workload(size))))
        if answer is not None:
            self._expect(self._plan_of, f"place {size}", answer["gpus"])

    def _read(self, client: httpx.Client) -> None:
        plan = self._judged(client.get("/plan"))
        if plan is not None:
            self._expect(self._plan_of, plan["plan_id"], plan["gpus"])
            self._expect(self._num_gpus_of, plan["plan_id"], plan["num_gpus"])
        needed = self._judged(client.get("/gpus-needed"))
        if needed is not None:
            self._expect(self._num_gpus_of, needed["plan_id"], needed["raw"])
            if needed["gpus_needed"] < needed["raw"]:
                self._tell(f"fewer GPUs are asked for than planned: {needed}")

    def _write(self, client: httpx.Client) -> None:
        number = next(self._numbers)
        name, rate_rps = f"adapter-{number % NUM_IN_FORCE}", round(0.05 + RATE_STEP_RPS * number, 6)
        with self._writing:
            self._written[name].add(rate_rps)  # it may be written though the answer does not come
            if self._judged(client.patch("/workload", json={"rates": {name: rate_rps}})) is not None:
                self._written[name] = {rate_rps}
                self.num_writes += 1

    def _queue(self, client: httpx.Client) -> None:
        run = {"workload": bench_workload(4), "max_loras": 4, "horizon_s": 10.0, "seed": next(self._numbers)}
        job = self._judged(client.post("/simulate", json=run))
        if job is not None:
            self.jobs.add(job["job_id"])

    def _judged(self, answer: httpx.Response) -> Any:
        """Return what was answered, None where the service refused as it may."""
        if answer.is_success:
            self._count("answered")
            return answer.json()
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and "retry-after" in answer.headers:
            self._count("refused")
            return None
        self._tell(
            f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:200]}"
        )
        return None

    def _expect(self, known: dict[str, Any], name: str, value: Any) -> None:
        with self._lock:
            if known.setdefault(name, value) != value and len(self.wrong) < MAX_TOLD:
                self.wrong.append(f"two answers for {name}")

    def _tell(self, wrong: str) -> None:
        with self._lock:
            self.wrong.append(wrong[:500])
            del self.wrong[MAX_TOLD:]

    def _count(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1
