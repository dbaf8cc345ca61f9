"""Requests that no honest caller sends, each as the bytes of a whole HTTP/1.1 request."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from service.bench import bench_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.random import Generator

NUM_ADAPTERS = 12
DEPTH = 50_000
LONG_BYTES = 17 * 2**20
"""Beyond the default limit of a body."""

ROUTES = (
    ("POST", "/place"),
    ("POST", "/re-place"),
    ("PUT", "/workload"),
    ("PATCH", "/workload"),
    ("POST", "/simulate"),
    ("POST", "/what-if"),
    ("POST", "/recalibrate"),
    ("POST", "/measurements"),
    ("GET", "/jobs"),
    ("GET", "/plans/0123"),
    ("GET", "/gpus-needed"),
    ("DELETE", "/workload"),
)
WRONG_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, -0.0, 2**63, 2**200, "1", "", "\x00", "\ud7ff" * 50, [], {}, [[]], "NaN",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileRequest:
    """One request.

    Attributes
    ----------
    kind
        What is wrong with it.
    parts
        Its bytes; between two parts the sender waits, and after the last one for an answer.
    """

    kind: str
    parts: tuple[bytes, ...]


def hostile_requests(rng: Generator) -> Iterator[HostileRequest]:
    """Yield requests without end, of every kind in turn; the same generator gives the same ones."""
    while True:
        for kind, make in KINDS.items():
            yield HostileRequest(kind=kind, parts=make(rng))


def request(method: str, path: str, body: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """Return the bytes of a request with its length told."""
    head = [f"{method} {path} HTTP/1.1".encode("latin-1"), b"Host: localhost", b"Connection: close"]
    head += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", body])


def _route(rng: Generator) -> tuple[str, str]:
    return ROUTES[int(rng.integers(len(ROUTES)))]


def _document(rng: Generator) -> dict[str, Any]:
    """Return a valid workload that nobody has sent before."""
    document = bench_workload(NUM_ADAPTERS)
    document["adapters"][0]["rate_rps"] = float(rng.uniform(0.01, 0.4))
    return document


def _random_bytes(rng: Generator) -> tuple[bytes, ...]:
    return (request(*_route(rng), rng.bytes(int(rng.integers(1, 4000)))),)


def _no_http(rng: Generator) -> tuple[bytes, ...]:
    return (rng.bytes(int(rng.integers(1, 4000))) + b"\r\n\r\n",)


def _truncated(rng: Generator) -> tuple[bytes, ...]:
    body = orjson.dumps(_document(rng))
    return (request(*_route(rng), body[: int(rng.integers(1, len(body)))]),)


def _flipped(rng: Generator) -> tuple[bytes, ...]:
    """Return a workload with some of its bytes changed."""
    body = bytearray(orjson.dumps(_document(rng)))
    for place in rng.integers(0, len(body), int(rng.integers(1, 8))):
        body[place] = int(rng.integers(256))
    return (request(*_route(rng), bytes(body)),)


def _wrong_type(rng: Generator) -> tuple[bytes, ...]:
    document = _document(rng)
    wrong = WRONG_VALUES[int(rng.integers(len(WRONG_VALUES)))]
    target = document["adapters"][1] if rng.integers(2) else document
    names = sorted(target)
    target[names[int(rng.integers(len(names)))]] = wrong
    return (request(*_route(rng), json.dumps(document).encode()),)  # orjson refuses some of these values


def _not_a_number(rng: Generator) -> tuple[bytes, ...]:
    written = (b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e-400", b"9" * 5000, b"0x10", b"01")
    rate = repr(_document(rng)["adapters"][0]["rate_rps"]).encode()
    document = bench_workload(NUM_ADAPTERS)
    document["adapters"][0]["rate_rps"] = float(rate)
    body = orjson.dumps(document).replace(rate, written[int(rng.integers(len(written)))], 1)
    return (request(*_route(rng), body),)


def _unknown_fields(rng: Generator) -> tuple[bytes, ...]:
    many = {f"field-{number}": number for number in range(int(rng.integers(1, 20_000)))}
    document = _document(rng)
    (document["adapters"][0] if rng.integers(2) else document).update(many)
    return (request(*_route(rng), orjson.dumps(document)),)


def _deep(rng: Generator) -> tuple[bytes, ...]:
    opening = (b"[", b'{"adapters":', b'{"options":[')[int(rng.integers(3))]
    return (request(*_route(rng), opening * int(rng.integers(100, DEPTH))),)


def _too_many_values(rng: Generator) -> tuple[bytes, ...]:
    rates = b",".join([b"1"] * int(rng.integers(100_000, 1_200_000)))
    return (request(*_route(rng), b'{"adapters":{"id":[' + rates + b"]}}"),)


def _too_long(rng: Generator) -> tuple[bytes, ...]:
    if rng.integers(2):  # told beforehand
        return (b"POST /place HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n{" % LONG_BYTES,)
    head = b"POST /place HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n" % 2**20 + b" " * 2**20 + b"\r\n"
    return (head + chunk * math.ceil(LONG_BYTES / 2**20),)


def _slow_body(rng: Generator) -> tuple[bytes, ...]:
    whole = request("POST", "/place", orjson.dumps(_document(rng)))
    cuts = sorted(int(cut) for cut in rng.integers(1, len(whole), 2))
    return whole[: cuts[0]], whole[cuts[0] : cuts[1]]  # the rest never comes


def _wrong_length(rng: Generator) -> tuple[bytes, ...]:
    lengths = (b"-1", b"99999999999999999999999", b"1e3", b"0, 5", b"\xff", b"5\r\nContent-Length: 7")
    told = lengths[int(rng.integers(len(lengths)))]
    return (b"POST /place HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + told + b"\r\n\r\n{}{}{}",)


def _wrong_chunks(rng: Generator) -> tuple[bytes, ...]:
    head = b"POST /place HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return (head + rng.bytes(int(rng.integers(1, 200))) + b"\r\n",)


def _long_head(rng: Generator) -> tuple[bytes, ...]:
    value = b"x" * int(rng.integers(1_000, 200_000))
    if rng.integers(2):
        return (request("GET", "/gpus-needed", headers=[(b"X-Long", value)]),)
    return (request("GET", "/jobs?" + value.decode()),)


def _wrong_key(rng: Generator) -> tuple[bytes, ...]:
    keys = (b"Bearer lm_000000000000_" + b"A" * 43, b"Bearer ", b"Basic " + rng.bytes(8).hex().encode())
    header = (b"Authorization", keys[int(rng.integers(len(keys)))])
    return (request(*_route(rng), orjson.dumps(_document(rng)), [header]),)


def _wrong_path(rng: Generator) -> tuple[bytes, ...]:
    paths = (
        "/%00",
        "/../../etc/passwd",
        "//place",
        "/jobs/%ff",
        "/plans/" + "x" * 3000,
        "/place/",
        "/*",
        "*",
    )
    method = ("GET", "POST", "TRACE", "CONNECT", "PROPFIND", "get")[int(rng.integers(6))]
    return (request(method, paths[int(rng.integers(len(paths)))]),)


def _wrong_query(rng: Generator) -> tuple[bytes, ...]:
    queries = ("base_model=" + "y" * 5000, "limit=-1", "limit=1e9", "limit=%00", "gpu_type=%ff", "a=1&" * 500)
    path = ("/jobs", "/gpus-needed", "/plan", "/workload")[int(rng.integers(4))]
    return (request("GET", f"{path}?{queries[int(rng.integers(len(queries)))]}"),)


def _gone_at_once(rng: Generator) -> tuple[bytes, ...]:
    """Return a good request whose sender does not wait for the answer: see `HostileRequest.parts`."""
    return (request("POST", "/place", orjson.dumps(_document(rng))), b"")


KINDS: dict[str, Callable[[Generator], tuple[bytes, ...]]] = {
    "random bytes as a body": _random_bytes,
    "no HTTP": _no_http,
    "truncated JSON": _truncated,
    "bytes changed": _flipped,
    "a wrong type": _wrong_type,
    "no number": _not_a_number,
    "unknown fields": _unknown_fields,
    "deep JSON": _deep,
    "too many values": _too_many_values,
    "a body too long": _too_long,
    "a body that does not end": _slow_body,
    "a wrong length": _wrong_length,
    "wrong chunks": _wrong_chunks,
    "a long head": _long_head,
    "a wrong key": _wrong_key,
    "a wrong path": _wrong_path,
    "a wrong query": _wrong_query,
    "gone at once": _gone_at_once,
}
