import json
import time

import pytest

from service.services.keys import make_key
from service.storage.keys import KeyFile
from tests.integration.conftest import RunningApp, make_settings
from tests.support.waiting import wait_until
from tests.support.workload_documents import workload_document


class Locked:
    """An application with one key of each scope."""

    def __init__(self, store_dir, directory):
        self.settings = make_settings(
            store_dir.parent,
            keys_file=directory / "keys.json",
            key_refresh_s=0.02,
            key_burst=10_000,
            auth_failures_burst=10_000,
        )
        self.file = KeyFile(self.settings.keys_path)
        self.made = {
            scope: make_key(scope, [scope], now_s=time.time()) for scope in ("place", "ops", "agent")
        }
        for key, _ in self.made.values():
            self.file.add(key)
        self.app = RunningApp(self.settings)
        self.client = self.app.client

    def bearer(self, scope):
        return {"Authorization": f"Bearer {self.made[scope][1]}"}


@pytest.fixture(scope="module")
def locked(store_dir, tmp_path_factory):
    running = Locked(store_dir, tmp_path_factory.mktemp("keys"))
    yield running
    running.app.close()


def test_without_a_key_only_probes_the_description_and_the_empty_page_answer(locked):
    for path in ("/", "/livez", "/readyz", "/docs", "/openapi.json"):
        assert locked.client.get(path).status_code == 200
    for method, path in (("GET", "/plan"), ("POST", "/place"), ("GET", "/metrics"), ("GET", "/nowhere")):
        answer = locked.client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_a_scope_opens_what_it_is_for_and_acts_are_recorded_without_secrets(locked):
    place, ops, agent = (locked.bearer(scope) for scope in ("place", "ops", "agent"))
    client, body = locked.client, workload_document(3)
    assert client.post("/place", json=body, headers=place).status_code == 200
    assert client.post("/place", json=body, headers=agent).status_code == 403
    assert client.put("/workload", json=body, headers=place).status_code == 403
    assert client.put("/workload", json=body, headers=ops | {"x-request-id": "act-1"}).status_code == 200
    assert client.get("/gpus-needed", headers=place).status_code == 200
    assert client.put("/gpus-running", json={"gpus_running": 1}, headers=place).status_code == 204
    assert client.put("/gpus-running", json={"gpus_running": 1}, headers=agent).status_code == 403
    assert client.get("/metrics", headers=agent).status_code == 200

    audit = locked.settings.audit_path
    wait_until(lambda: audit.exists() and "act-1" in audit.read_text(), timeout_s=5, what="the record")
    entry = next(
        row for row in map(json.loads, audit.read_text().splitlines()) if row["request_id"] == "act-1"
    )
    key, text = locked.made["ops"]
    assert (entry["actor"], entry["action"], entry["status"]) == (f"ops ({key.key_id})", "PUT /workload", 200)
    secret = text.partition(f"{key.key_id}_")[2]  # it may hold further underscores
    assert len(secret) > 20
    assert secret not in audit.read_text()


def test_a_revoked_key_is_refused_soon_and_the_others_are_not(locked):
    key, text = make_key("leaver", ["place"], now_s=time.time())
    headers = {"Authorization": f"Bearer {text}"}

    def status():
        return locked.client.get("/jobs", headers=headers).status_code

    locked.file.add(key)
    wait_until(lambda: status() == 200, timeout_s=5, what="the new key")
    locked.file.revoke(key.key_id, time.time())
    wait_until(lambda: status() == 401, timeout_s=5, what="the revocation")
    assert locked.client.get("/jobs", headers=locked.bearer("place")).status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/docs", "/nowhere", "/plan"])
def test_every_answer_tells_browsers_to_be_careful(client, path):
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers


def test_without_keys_a_name_that_is_not_this_machines_is_refused(client):
    answer = client.get("/plan", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
