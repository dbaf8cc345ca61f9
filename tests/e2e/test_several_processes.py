"""`loadmaster serve --processes 2`: one address, several processes, one state."""

import json
import os
import re
import signal
import socket
import threading

import httpx
import pytest

from tests.support.service_process import is_running, run_service
from tests.support.waiting import wait_until
from tests.support.workload_documents import workload_document

NUM_CONNECTIONS = 8


@pytest.fixture
def service(tmp_path):
    changes = {"PROCESSES": "2", "REFRESH_INTERVAL_S": "60", "DRAIN_S": "30"}
    with run_service(
        tmp_path / "data", **{f"LOADMASTER_{name}": value for name, value in changes.items()}
    ) as process:
        wait_until(lambda: len(answering(process)) == 2, timeout_s=120, what="two processes")
        yield process


def connections(service):
    """Connections that are open together, so that every process has some."""
    clients = [httpx.Client(base_url=service.client.base_url, timeout=30) for _ in range(NUM_CONNECTIONS)]
    for client in clients:
        client.get("/livez")
    return clients


def answering(service):
    """The processes that have answered a probe."""
    for client in connections(service):
        client.close()
    return set(
        re.findall(
            r'duration_seconds_count\{.*process="(api-\d)",route="/livez"',
            service.client.get("/metrics").text,
        )
    )


def test_what_one_process_was_told_all_answer_and_metrics_are_those_of_all(service):
    clients = connections(service)
    plan = clients[0].put("/workload", json=workload_document(24)).json()
    wait_until(
        lambda: all(client.get("/plan").json() == plan for client in clients),
        timeout_s=30,  # by news: the next look at the store is a minute away
        what="the plan in every process",
    )
    text = clients[-1].get("/metrics").text
    for process in ("api-0", "api-1", "serve"):
        assert f'process_resident_memory_bytes{{process="{process}"}}' in text
    assert len(re.findall(r"^loadmaster_gpus_needed{", text, re.MULTILINE)) == 1
    answered = clients[0].post("/place", json=workload_document(5)).json()
    wait_until(
        lambda: {client.get(f"/plans/{answered['plan_id']}").status_code for client in clients} == {200},
        timeout_s=30,
        what="the outcome in every process",
    )
    for client in clients:
        client.close()


def test_while_a_process_is_killed_and_replaced_the_others_answer(service):
    body = workload_document(24)
    plan = service.client.put("/workload", json=body).json()
    wrong, stopped = [], threading.Event()

    def ask():
        while not stopped.is_set():
            with httpx.Client(base_url=service.client.base_url, timeout=30) as client:
                try:
                    answer = client.post("/place", json=body)
                except httpx.TransportError:  # the connection was the killed process's
                    continue
            if answer.status_code != 200 or answer.json()["gpus"] != plan["gpus"]:
                wrong.append(answer.text)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        killed = service.child_pid("api-0")
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: service.child_pid("api-0") != killed, timeout_s=30, what="another process")
        wait_until(lambda: answering(service) == {"api-0", "api-1"}, timeout_s=120, what="its answers")
    finally:
        stopped.set()
        for asker in askers:
            asker.join()
    assert wrong == []
    restarts = re.search(
        r'child_restarts_total\{child="api-0".*\} (\S+)', service.client.get("/metrics").text
    )
    assert float(restarts[1]) == 1


def test_sigterm_ends_every_process_after_the_request_in_hand(service):
    family = service.descendants()
    assert len(family) >= 4, "store, worker and two processes that answer"
    body = json.dumps(workload_document(24)).encode()
    head = f"POST /place HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    url = service.client.base_url
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(head.encode() + body[:-1])
        held = re.compile(rf"^loadmaster_held_body_bytes{{.*}} {len(body) - 1}\.0$", re.MULTILINE)
        wait_until(lambda: held.search(service.client.get("/metrics").text), timeout_s=30, what="the request")
        service.process.terminate()
        wait_until(lambda: not takes_connections(url), timeout_s=30, what="the end of listening")
        connection.sendall(body[-1:])
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert service.stop() == 0
    assert not any(map(is_running, family))


def takes_connections(url):
    """Whether a new connection is answered."""
    try:
        return httpx.get(f"{url}/livez", timeout=0.5).status_code == 200
    except httpx.TransportError:
        return False
