"""A service under requests that no honest caller sends: what it answers, and whether its memory grows."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from service.drill.hostile_requests import hostile_requests
from service.drill.waiting import wait_for
from service.services.keys import make_key
from service.storage.keys import KeyFile
from service.trial import temporary_service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.drill.hostile_requests import HostileRequest

NUM_SENDERS = 6
WARM_UP_SHARE = 0.2
"""Of the requests, after which memory is looked at first: pools fill, code is loaded."""

ANSWER_DEADLINE_S = 30.0
KEY_DEADLINE_S = 60.0
PAUSE_S = 0.05
NO_ANSWER = "closed"
SILENT = "silent"
MAX_GROWTH = 0.1
"""Of memory, between the first look and the last."""

SETTINGS = {"body_deadline_s": "0.5", "key_rate_rps": "1e9", "key_burst": "1000000"}


def hostile_drill(num_requests: int, seed: int) -> dict[str, Any]:
    """Return what a service of its own answers to hostile requests; `passed` tells whether all is well.

    It is: no answer is 5xx but 503, none stays away, the service is ready afterwards and holds no body, and
    its memory has grown by no more than `MAX_GROWTH` since the first `WARM_UP_SHARE` of the requests.
    """
    with temporary_service(**SETTINGS) as service:
        key, text = make_key("drill", ["ops"], now_s=time.time())
        KeyFile(service.data_dir / "keys.json").add(key)
        client = httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {text}"}, timeout=30)
        with client:
            _await_key(service.url)
            requests = islice(hostile_requests(np.random.default_rng(seed)), num_requests)
            num_warm_up = round(WARM_UP_SHARE * num_requests)
            by_kind = _send_all(islice(requests, num_warm_up), service.url, text)
            before = _gauge(client, "process_resident_memory_bytes")
            _add(by_kind, _send_all(requests, service.url, text))
            after = _gauge(client, "process_resident_memory_bytes")
            held = _gauge(client, "loadmaster_held_body_bytes")
            is_ready = client.get("/readyz").is_success
    statuses = sum(by_kind.values(), Counter())
    failed = [status for status in statuses if _is_failure(status)]
    growth = after / before - 1
    return {
        "requests": num_requests,
        "statuses": dict(sorted(statuses.items())),
        "by_kind": {kind: dict(sorted(counts.items())) for kind, counts in by_kind.items()},
        "resident_before_mb": round(before / 2**20, 1),
        "resident_after_mb": round(after / 2**20, 1),
        "held_body_bytes": held,
        "ready": is_ready,
        "passed": not failed and is_ready and held == 0 and growth <= MAX_GROWTH,
    }


def _await_key(url: str) -> None:
    """Wait until the service knows that there are keys."""

    def knows() -> bool:
        return httpx.get(f"{url}/jobs").status_code == httpx.codes.UNAUTHORIZED

    wait_for(knows, "the key", deadline_s=KEY_DEADLINE_S)


def _send_all(requests: Iterator[HostileRequest], url: str, key: str) -> dict[str, Counter[str]]:
    """Send them over a few connections at a time; return how often each kind was answered how."""
    turn = threading.Lock()
    by_kind: dict[str, Counter[str]] = {}

    def send_some() -> None:
        while True:
            with turn:
                request = next(requests, None)
            if request is None:
                return
            status = _send(request, url, key)
            with turn:
                by_kind.setdefault(request.kind, Counter())[status] += 1

    senders = [threading.Thread(target=send_some) for _ in range(NUM_SENDERS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    return by_kind


def _send(request: HostileRequest, url: str, key: str) -> str:
    """Return the status that answered a request, `NO_ANSWER`, or `SILENT`."""
    parts = list(request.parts)
    if request.kind != "a wrong key":
        parts[0] = _with_key(parts[0], key)
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=ANSWER_DEADLINE_S) as connection:
        try:
            for number, part in enumerate(parts):
                if number:
                    time.sleep(PAUSE_S)
                connection.sendall(part)
        except OSError:
            pass  # refused before all was sent: the answer is there
        if parts[-1] == b"":
            return NO_ANSWER
        try:
            return _status(connection.recv(64))
        except TimeoutError:
            return SILENT
        except OSError:
            return NO_ANSWER


def _with_key(head: bytes, key: str) -> bytes:
    host = b"Host: localhost\r\n"
    return head.replace(host, host + f"Authorization: Bearer {key}\r\n".encode(), 1)


def _status(answer: bytes) -> str:
    found = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    return found[1].decode() if found else NO_ANSWER


def _is_failure(status: str) -> bool:
    return status == SILENT or (status.startswith("5") and status != "503")


def _add(totals: dict[str, Counter[str]], more: dict[str, Counter[str]]) -> None:
    for kind, counts in more.items():
        totals.setdefault(kind, Counter()).update(counts)


def _gauge(client: httpx.Client, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found is not None, f"the service tells {name}"
    return float(found[1])
