import json
import socket

import pytest

from service.protocol import GuardedProtocol
from tests.integration.conftest import RunningApp, make_settings
from tests.support.waiting import wait_until
from tests.support.workload_documents import workload_document

HEAD = b"POST /place HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def run_app(store_dir):
    apps = []

    def run(**changes):
        apps.append(RunningApp(make_settings(store_dir.parent, **changes)))
        return apps[-1]

    yield run
    for app in apps:
        app.close()


def connect(app):
    return socket.create_connection((app.client.base_url.host, app.client.base_url.port), timeout=10)


def read_answer(connection):
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def test_a_body_that_never_ends_is_answered_and_its_connection_closed(run_app):
    running = run_app(body_deadline_s=0.2)
    with connect(running) as connection:
        connection.sendall(HEAD % 1000 + b"{")
        answer = read_answer(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"field":"body"' in answer


def test_bodies_that_together_are_too_long_are_refused_until_the_others_are_done(run_app):
    running = run_app(max_held_bytes=50_000)
    body = json.dumps(workload_document(300)).encode()
    assert len(body) < 50_000 < 2 * len(body)

    def post():
        answer = running.client.post("/place", content=body)
        return answer.status_code, answer.json().get("code")

    with connect(running) as connection:
        connection.sendall(HEAD % len(body) + body[:-1])
        held = f"loadmaster_held_body_bytes {len(body) - 1}.0"
        wait_until(lambda: held in running.client.get("/metrics").text, timeout_s=5, what="reading")
        assert post() == (503, "overloaded")
        connection.sendall(body[-1:])
        assert connection.recv(12) == b"HTTP/1.1 200"
    wait_until(lambda: post() == (200, None), timeout_s=5, what="acceptance")


class Hasty(GuardedProtocol):
    head_deadline_s = 0.2
    max_connections = 2


@pytest.fixture
def hasty_app(store_dir, monkeypatch):
    monkeypatch.setattr("tests.integration.conftest.GuardedProtocol", Hasty)
    app = RunningApp(make_settings(store_dir.parent))
    app.client.close()
    yield app
    app.close()


def problem_of(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return json.loads(body)


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_a_head_that_never_ends_is_answered_and_its_connection_closed(hasty_app, sent):
    with connect(hasty_app) as connection:
        connection.sendall(sent)
        assert problem_of(read_answer(connection))["code"] == "head_timeout"


def test_a_later_request_of_a_connection_has_the_deadline_too(hasty_app):
    with connect(hasty_app) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nGET /livez")
        answer = read_answer(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in answer


def test_what_is_no_http_is_a_problem_too(client):
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        assert problem_of(read_answer(connection))["code"] == "malformed_http"


def test_connections_beyond_the_limit_are_told_so(hasty_app):
    with connect(hasty_app) as first, connect(hasty_app) as second, connect(hasty_app) as third:
        assert problem_of(read_answer(third))["code"] == "overloaded"
        for connection in (first, second):
            assert problem_of(read_answer(connection))["code"] == "head_timeout"


def test_a_head_without_end_is_refused_by_its_length(client):
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nX-Long: " + b"x" * (GuardedProtocol.max_head_bytes + 1))
        assert problem_of(read_answer(connection))["code"] == "head_too_large"


def test_a_body_that_is_no_http_is_a_problem_too(client):
    head = b"POST /place HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall(head + b"no length of a chunk\r\n")
        assert problem_of(read_answer(connection))["code"] == "malformed_http"
    held = "loadmaster_held_body_bytes 0.0"
    wait_until(lambda: held in client.get("/metrics").text, timeout_s=5, what="the end of the request")
