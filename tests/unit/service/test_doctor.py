"""The doctor's checks: each says what it found, and what to do where that is not good."""

import resource
import socket

import pytest

from service.doctor import installation, machine
from service.settings import Settings
from service.storage.embedded import start_store


def settings(tmp_path, **changes):
    return Settings(data_dir=tmp_path / "data", **changes)


def test_a_port_that_another_has_is_bad_and_a_free_one_good(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = machine.port(settings(tmp_path, port=port))
        assert finding.verdict == "bad"
        assert "LOADMASTER_PORT" in finding.do
    assert machine.port(settings(tmp_path, port=0)).verdict == "good"


def test_few_files_are_a_warning_that_names_the_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        finding = machine.file_limit()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert finding.verdict == "warning"
    assert "ulimit -n" in finding.do


def test_a_data_directory_that_is_a_file_is_bad(tmp_path):
    (tmp_path / "data").write_text("")
    assert machine.data_directory(settings(tmp_path)).verdict == "bad"
    assert machine.data_directory(Settings(data_dir=tmp_path / "new")).verdict == "good"


def test_a_key_file_that_others_may_write_is_bad(tmp_path):
    (tmp_path / "keys.json").write_text('{"keys": []}')
    (tmp_path / "keys.json").chmod(0o666)
    finding = machine.keys(settings(tmp_path, keys_file=tmp_path / "keys.json"))
    assert finding.verdict == "bad"
    assert "chmod" in finding.told


def test_a_store_that_does_not_answer_is_bad(tmp_path):
    (finding,) = installation.store(settings(tmp_path, redis_url="redis://127.0.0.1:1/0"))
    assert finding.verdict == "bad"
    assert "LOADMASTER_REDIS_URL" in finding.do


def test_an_embedded_store_that_is_not_running_is_no_fault(tmp_path):
    (finding,) = installation.store(settings(tmp_path))
    assert finding.verdict == "good"


def test_a_store_that_throws_away_and_has_no_worker_is_told(tmp_path):
    chosen = settings(tmp_path)
    chosen.data_dir.mkdir()
    process = start_store(chosen.store_dir)
    try:
        found = {finding.check: finding for finding in installation.store(chosen)}
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert found["store"].verdict == "good"
    assert found["clock"].verdict == "good"
    assert found["store's memory"].verdict == "good"
    assert found["workers"].verdict == "warning"
    assert "loadmaster worker" in found["workers"].do


@pytest.mark.parametrize(
    ("ahead_s", "verdict"), [(0.1, "good"), (-1.9, "good"), (9, "warning"), (-9, "warning")]
)
def test_clocks_that_differ_are_a_warning(ahead_s, verdict):
    assert installation.clock(ahead_s).verdict == verdict


def test_a_policy_that_evicts_is_bad():
    assert installation.eviction("allkeys-lru").verdict == "bad"


def test_every_shipped_calibration_is_sound():
    assert {finding.verdict for finding in installation.targets()} == {"good"}
