import stat
from dataclasses import replace

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from service.errors import (
    ForbiddenError,
    InvalidRequestError,
    KeyFileError,
    NotFoundError,
    RateLimitedError,
    UnauthenticatedError,
)
from service.observability import redact
from service.services.clock import Clock
from service.services.guard import Guard, access_of
from service.services.keys import KeyRing, make_key
from service.services.rate_limit import RateLimiter
from service.settings import Settings
from service.storage.audit import AuditLog
from service.storage.keys import KeyFile

NOW_S = 1e9
CLOCK = Clock(monotonic_s=lambda: 0.0, wall_s=lambda: NOW_S)


def a_key(*scopes, **changes):
    return make_key("somebody", scopes or ("place",), now_s=NOW_S, **changes)


def a_guard(tmp_path, *keys, **changes):
    file = KeyFile(tmp_path / "keys.json")
    for key in keys:
        file.add(key)
    return Guard(Settings(data_dir=tmp_path, **changes), file, CLOCK)


def admit(guard, method, path, text=None, host="localhost:8080", address="127.0.0.1"):
    authorization = None if text is None else f"Bearer {text}"
    return guard.admit(method, path, host=host, authorization=authorization, address=address)


def test_a_key_is_found_by_its_text_and_kept_as_a_hash():
    key, text = a_key("ops", "place")
    ring = KeyRing([a_key()[0], key])
    assert ring.find(f"Bearer {text}", NOW_S) is key
    assert ring.find(f"bearer  {text} ", NOW_S) is key
    assert text.rpartition("_")[2] not in repr(key)
    assert key.scopes == ("ops", "place")


@given(st.text(max_size=80))
def test_no_other_text_opens_anything(text):
    key, right = a_key()
    ring = KeyRing([key])
    assert ring.find(text, NOW_S) is None
    assert ring.find(f"Bearer {text}", NOW_S) is None
    assert ring.find(right, NOW_S) is None
    assert ring.find(f"Basic {right}", NOW_S) is None


def test_the_secret_of_another_key_does_not_open_this_one():
    (first, first_text), (second, second_text) = a_key(), a_key()
    ring = KeyRing([first, second])
    mixed = f"lm_{first.key_id}_{second_text[16:]}"
    assert len(mixed) == len(first_text)
    assert ring.find(f"Bearer {mixed}", NOW_S) is None


def test_a_revoked_or_expired_key_opens_nothing():
    key, text = a_key(expires_at_s=NOW_S + 1)
    assert KeyRing([key]).find(f"Bearer {text}", NOW_S) is key
    assert KeyRing([key]).find(f"Bearer {text}", NOW_S + 1) is None
    assert KeyRing([replace(key, revoked_at_s=NOW_S)]).find(f"Bearer {text}", NOW_S) is None


@pytest.mark.parametrize(("name", "scopes"), [("", ("ops",)), ("a\n", ("ops",)), ("a", ()), ("a", ("root",))])
def test_a_key_without_a_name_or_a_known_scope_is_not_made(name, scopes):
    with pytest.raises(InvalidRequestError):
        make_key(name, scopes, now_s=NOW_S)


def test_the_file_keeps_keys_for_its_owner_alone(tmp_path):
    file = KeyFile(tmp_path / "new" / "keys.json")
    assert file.load().keys == ()
    first, second = a_key("ops")[0], a_key("agent")[0]
    file.add(first)
    file.add(second)
    assert file.load().keys == (first, second)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    revoked = file.revoke(first.key_id, NOW_S + 5)
    assert file.load().keys == (revoked, second)
    assert file.revoke(first.key_id, NOW_S + 9) == revoked
    with pytest.raises(NotFoundError):
        file.revoke("nobody", NOW_S)


@pytest.mark.parametrize("text", ["", "{}", '{"keys": [{}]}', '{"keys": [{"name": 1}]}', "[]"])
def test_a_file_that_holds_no_keys_is_refused(tmp_path, text):
    file = KeyFile(tmp_path / "keys.json")
    file.path.write_text(text)
    with pytest.raises(KeyFileError):
        file.load()


def test_a_file_that_others_may_write_is_refused(tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    file.add(a_key()[0])
    file.path.chmod(0o622)
    with pytest.raises(KeyFileError, match="written by others"):
        file.load()


ACCESS = {
    ("GET", "/livez"): set(),
    ("GET", "/readyz"): set(),
    ("POST", "/livez"): {"ops"},
    ("GET", "/metrics"): {"place", "ops", "agent"},
    ("GET", "/gpus-needed"): {"place", "ops"},
    ("POST", "/place"): {"place", "ops"},
    ("POST", "/place/"): {"ops"},
    ("PUT", "/workload"): {"ops"},
    ("PATCH", "/workload"): {"ops"},
    ("DELETE", "/workload"): {"ops"},
    ("POST", "/recalibrate"): {"ops"},
    ("POST", "/anything-new"): {"ops"},
    ("POST", "/measurements"): {"agent", "ops"},
    ("POST", "/agents/1/report"): {"agent", "ops"},
    ("POST", "/agentsx"): {"ops"},
}


@pytest.mark.parametrize(("request_line", "scopes"), ACCESS.items())
def test_what_is_not_known_to_be_harmless_is_for_ops(request_line, scopes):
    access = access_of(*request_line)
    assert access.scopes == scopes
    assert access.audited == (scopes == {"ops"})


def test_without_keys_this_machine_may_do_everything_and_no_other_name_is_answered(tmp_path):
    guard = a_guard(tmp_path, allowed_hosts=("planner",))
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:8080", "[::1]", "planner:80", ""):
        assert admit(guard, "PUT", "/workload", host=host)[0] == "anyone"
    for host in ("evil.example:8080", "10.0.0.1", "localhost.evil.example", "127.0.0.1.evil.example:80"):
        with pytest.raises(ForbiddenError):
            admit(guard, "GET", "/plan", host=host)


def test_with_a_key_every_call_needs_one_with_the_scope(tmp_path):
    (placing, place_text), (operating, ops_text) = a_key("place"), a_key("ops")
    guard = a_guard(tmp_path, placing, operating)
    assert admit(guard, "GET", "/livez", host="anything")[0] == "anyone"
    assert placing.key_id in admit(guard, "POST", "/place", place_text, host="anything")[0]
    assert admit(guard, "PUT", "/workload", ops_text)[1].audited
    with pytest.raises(ForbiddenError, match="ops"):
        admit(guard, "PUT", "/workload", place_text)
    for text in (None, "nonsense", place_text[:-1] + ("a" if place_text[-1] != "a" else "b")):
        with pytest.raises(UnauthenticatedError):
            admit(guard, "POST", "/place", text)


def test_a_change_of_the_file_is_noticed_and_never_opens_what_was_closed(tmp_path):
    guard, file = a_guard(tmp_path), KeyFile(tmp_path / "keys.json")
    key, text = a_key("ops")
    file.add(key)
    guard.refresh()
    with pytest.raises(UnauthenticatedError):
        admit(guard, "GET", "/plan")
    admit(guard, "GET", "/plan", text)
    file.path.write_text("nonsense")
    guard.refresh()
    admit(guard, "GET", "/plan", text)
    file.path.unlink()
    guard.refresh()
    for given_text in (None, text):
        with pytest.raises(UnauthenticatedError):
            admit(guard, "GET", "/plan", given_text)


def test_a_key_may_ask_so_often_and_no_other_pays_for_it(tmp_path):
    (first, first_text), (second, second_text) = a_key(), a_key()
    guard = a_guard(tmp_path, first, second, key_burst=2, key_rate_rps=0.1)
    for _ in range(2):
        admit(guard, "GET", "/plan", first_text)
    with pytest.raises(RateLimitedError) as caught:
        admit(guard, "GET", "/plan", first_text)
    assert caught.value.retry_after_s == 10
    admit(guard, "GET", "/plan", second_text)


def test_an_address_that_fails_too_often_is_told_to_wait_and_good_keys_are_not(tmp_path):
    key, text = a_key()
    guard = a_guard(tmp_path, key, auth_failures_burst=2, auth_failures_rps=0.1)
    for last in ("1", "2"):  # 64 bits of an IPv6 address are one sender's own
        with pytest.raises(UnauthenticatedError):
            admit(guard, "GET", "/plan", "wrong", address=f"2001:db8::{last}")
    with pytest.raises(RateLimitedError) as caught:
        admit(guard, "GET", "/plan", address="2001:db8::3")
    assert caught.value.retry_after_s == 10
    admit(guard, "GET", "/plan", text, address="2001:db8::3")
    with pytest.raises(UnauthenticatedError):
        admit(guard, "GET", "/plan", "wrong", address="10.0.0.1")


def test_no_more_names_are_remembered_than_the_limit(monkeypatch):
    monkeypatch.setattr("service.services.rate_limit.MAX_REMEMBERED", 3)
    limiter = RateLimiter(rate_rps=0.1, burst=1)
    for name in "abcd":
        assert limiter.take(name, 0.0) == 0
    assert limiter.take("d", 0.0) > 0
    assert limiter.take("a", 0.0) == 0, "it was forgotten, as the one not seen for longest"


@given(st.lists(st.floats(0, 3), max_size=60), st.floats(0.1, 10), st.integers(1, 5))
def test_no_more_is_taken_than_the_burst_and_what_time_brings(pauses, rate_rps, burst):
    limiter, now_s, taken = RateLimiter(rate_rps=rate_rps, burst=burst), 0.0, 0
    for pause_s in pauses:
        now_s += pause_s
        taken += limiter.take("key", now_s) == 0
        assert taken <= burst + rate_rps * now_s + 1e-6


def test_keys_and_passwords_are_struck_out_of_the_log():
    key, text = a_key()
    event = redact(None, "info", {"event": f"got {text}!", "url": "redis://me:pw@host:1/0", "n": 1})
    assert event == {"event": f"got lm_{key.key_id}***!", "url": "redis://***host:1/0", "n": 1}


def test_the_audit_log_is_bounded_and_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("service.storage.audit.MAX_BYTES", 200)
    audit = AuditLog(tmp_path / "audit.log")
    with structlog.testing.capture_logs():
        for number in range(40):
            audit.write(at_s=NOW_S, actor="somebody", action=f"act {number}")
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [
        "audit.log",
        *(f"audit.log.{number}" for number in (1, 2, 3, 4)),
        "audit.log.lock",
    ]
    assert "act 39" in (tmp_path / "audit.log").read_text()
    assert stat.S_IMODE((tmp_path / "audit.log").stat().st_mode) == 0o600
