"""`loadmaster keys` as users type it, and what `serve` does without one."""

import json

import pytest

from service.cli import run_command_line
from service.settings import Settings
from service.storage.keys import KeyFile


@pytest.fixture
def keys(tmp_path, monkeypatch, capfd):
    """Run `loadmaster keys ...` on a data directory of its own and return status, output and errors."""
    monkeypatch.setenv("LOADMASTER_DATA_DIR", str(tmp_path))

    def run(*arguments):
        capfd.readouterr()
        status = run_command_line(["keys", *arguments])
        return status, *capfd.readouterr()

    return run


def test_a_key_is_printed_once_listed_without_its_secret_and_revoked(keys, tmp_path):
    status, text, _ = keys("create", "planner", "--scope", "place", "--scope", "ops", "--json")
    made = json.loads(text)
    assert status == 0
    ring = KeyFile(Settings().keys_path).load()
    assert ring.find(f"Bearer {made['key']}", ring.keys[0].created_at_s).name == "planner"

    secret = made["key"].rpartition("_")[2]
    status, listed, _ = keys("list", "--json")
    (row,) = json.loads(listed)["keys"]
    assert (row["id"], row["scopes"], row["state"]) == (made["id"], ["ops", "place"], "active")
    assert secret not in listed
    assert keys("revoke", made["id"])[0] == 0
    assert json.loads(keys("list", "--json")[1])["keys"][0]["state"] == "revoked"
    audit = (tmp_path / "audit.log").read_text()
    assert [json.loads(line)["action"] for line in audit.splitlines()] == ["keys create", "keys revoke"]
    assert secret not in audit


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("create", "x", "--scope", "root"), "scope"),
        (("create", "x"), "scope"),
        (("create", "", "--scope", "ops"), "name"),
        (("revoke", "nobody"), "id"),
    ],
)
def test_a_mistake_exits_2_and_is_named(keys, arguments, reason):
    status, _, errors = keys(*arguments)
    assert status == 2
    assert reason in errors.lower()


def test_beyond_loopback_nothing_is_served_without_an_active_key(keys, capfd):
    made = json.loads(keys("create", "gone", "--scope", "ops", "--json")[1])
    keys("revoke", made["id"])
    capfd.readouterr()
    assert run_command_line(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "no API key" in capfd.readouterr().err
