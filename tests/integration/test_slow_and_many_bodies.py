import json
import socket

import pytest

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
