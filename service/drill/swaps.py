"""Another surrogate put in force and rolled back, again and again, while every process plans under load."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import redis

from service.bench import bench_workload
from service.drill.callers import CALL_TIMEOUT_S, MAX_TOLD, SIZES, Callers
from service.drill.variants import publish_changed
from service.drill.waiting import wait_for
from service.services.catalog import Catalog, load_catalog
from service.services.placement import PlacementService
from service.settings import Settings
from service.storage.embedded import store_url
from service.storage.files import FileExchange
from service.storage.versions import VersionStore
from service.trial import temporary_service

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from service.services.catalog import Target

CALIBRATION_ID = "h100-64gb/llama-3.1-8b-instruct/vllm-0.8.5"
VARIANT = 5
"""Per cent by which its servers are slower: its answers tell other times than the shipped version's."""

NUM_PROCESSES = 3
SETTINGS = {"processes": str(NUM_PROCESSES)}
NUM_CALLERS = 3
PAUSE_S = 0.01
FOLLOW_DEADLINE_S = 60.0
NUM_IN_A_ROW = 20 * NUM_PROCESSES
"""Answers, each over a connection of its own: so many of one version, and no process answers with another."""

BODIES = {size: orjson.dumps(bench_workload(size)) for size in SIZES}


def swap_drill(num_swaps: int) -> dict[str, Any]:
    """Return what was answered while two versions took each other's place under load.

    `passed` where each answer was byte for byte that of the version which it names, none failed, and both
    versions answered.

    Parameters
    ----------
    num_swaps
        Exchanges: the new version is put in force and rolled back in turn.
    """
    with temporary_service(**SETTINGS) as service:
        pair = published(service.data_dir)
        load = SwapLoad(service.url, {version: answers_of(target) for version, target in pair.items()})
        load.callers.start()
        try:
            swaps = [_swap(service.url, load, list(pair), number) for number in range(num_swaps)]
        finally:
            load.callers.stop()
    return {
        "processes": NUM_PROCESSES,
        "swaps": swaps,
        "slowest_swap_s": max(swap["followed_s"] for swap in swaps),
        "answers": dict(load.answers),
        "num_wrong": load.num_wrong,
        "wrong_answers": load.wrong,
        "passed": load.num_wrong == 0 and load.answers.keys() == pair.keys(),
    }


def published(data_dir: Path) -> dict[str, Target]:
    """Publish another version beside the shipped one; return both by name, the shipped one first."""
    settings = Settings(data_dir=data_dir)
    shipped = load_catalog().targets[CALIBRATION_ID]
    with redis.Redis.from_url(store_url(settings.store_dir)) as client:
        versions = VersionStore(FileExchange(data_dir, client))
        other = publish_changed(versions, CALIBRATION_ID, VARIANT).name
        return {shipped.surrogate.version: shipped, other: versions.load(CALIBRATION_ID, other)}


def answers_of(target: Target) -> dict[int, bytes]:
    """Return what a version answers to each body, by number of adapters: alone, in this process."""
    placements = PlacementService(Catalog(targets={CALIBRATION_ID: target}), Settings())
    return {size: placements.answer(body) for size, body in BODIES.items()}


def _swap(url: str, load: SwapLoad, names: Sequence[str], number: int) -> dict[str, Any]:
    """Put the new version in force, every other time roll back; wait until every process answers with it."""
    shipped, other = names
    is_back = number % 2 == 1
    path = "/surrogates/roll-back" if is_back else f"/surrogates/{other}/activate"
    body = {"calibration_id": CALIBRATION_ID} if is_back else None
    began_s = time.monotonic()
    httpx.post(url + path, json=body, timeout=CALL_TIMEOUT_S).raise_for_status()
    ended_s = load.wait_for(shipped if is_back else other)
    return {"version": shipped if is_back else other, "followed_s": round(max(0.0, ended_s - began_s), 3)}


class SwapLoad:
    """Threads that plan until stopped, and know what each version answers.

    Parameters
    ----------
    url
        The service.
    expected
        The right answer, by version and number of adapters.

    Attributes
    ----------
    answers
        How many each version gave.
    num_wrong
        Answers that are not what the version they name answers, and calls that failed.
    wrong
        The first of them, `MAX_TOLD` at most.
    callers
        To be started and stopped.
    """

    def __init__(self, url: str, expected: Mapping[str, Mapping[int, bytes]]) -> None:
        self.answers: Counter[str] = Counter()
        self.num_wrong = 0
        self.wrong: list[str] = []
        self._url = url
        self._expected = expected
        self._latest: deque[tuple[float, str]] = deque(maxlen=NUM_IN_A_ROW)
        self._last_answer_s: dict[str, float] = {}
        self._lock = threading.Lock()
        self.callers = Callers(
            (partial(self._call, cycle(SIZES[first:] + SIZES[:first])), PAUSE_S)
            for first in range(NUM_CALLERS)
        )

    def wait_for(self, version: str) -> float:
        """Wait until every process answers with a version; return when another last answered, monotonic.

        Raises
        ------
        UsageError
            Some process does not within `FOLLOW_DEADLINE_S`.
        """
        began_s = time.monotonic()

        def follows() -> bool:
            with self._lock:
                latest = list(self._latest)
            return len(latest) == NUM_IN_A_ROW and all(
                asked_s > began_s and found == version for asked_s, found in latest
            )

        wait_for(follows, f"{version} from every process", deadline_s=FOLLOW_DEADLINE_S)
        with self._lock:
            return max(
                (at_s for name, at_s in self._last_answer_s.items() if name != version), default=began_s
            )

    def _call(self, sizes: Iterator[int]) -> None:
        """Plan over a new connection, so that any process may answer."""
        size, asked_s = next(sizes), time.monotonic()
        try:
            answer = httpx.post(f"{self._url}/place", content=BODIES[size], timeout=CALL_TIMEOUT_S)
        except httpx.HTTPError as error:
            self._tell(f"{size} adapters: {error!r}")
        else:
            self._judge(size, asked_s, answer)

    def _judge(self, size: int, asked_s: float, answer: httpx.Response) -> None:
        if not answer.is_success:
            self._tell(f"{size} adapters: {answer.status_code} {answer.text[:200]}")
            return
        version = str(answer.json()["surrogate_version"])
        if self._expected.get(version, {}).get(size) != answer.content:
            self._tell(f"{size} adapters: not what {version} answers: {answer.text[:200]}")
        with self._lock:
            self.answers[version] += 1
            self._latest.append((asked_s, version))
            self._last_answer_s[version] = time.monotonic()

    def _tell(self, wrong: str) -> None:
        with self._lock:
            self.num_wrong += 1
            self.wrong = [*self.wrong, wrong][:MAX_TOLD]
