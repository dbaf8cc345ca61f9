import pytest
from pydantic import ValidationError

from service.settings import Settings


@pytest.fixture(autouse=True)
def _no_ambient_store(monkeypatch):
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("LOADMASTER_REDIS_URL", raising=False)


def test_the_defaults_bind_loopback_and_start_a_store():
    settings = Settings()
    assert settings.host == "127.0.0.1"
    assert settings.redis_url is None


@pytest.mark.parametrize("name", ["LOADMASTER_REDIS_URL", "REDIS_URL"])
def test_a_store_may_be_named_by_either_variable(monkeypatch, name):
    monkeypatch.setenv(name, "redis://elsewhere")
    assert Settings().redis_url == "redis://elsewhere"


def test_our_own_variable_wins(monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://theirs")
    monkeypatch.setenv("LOADMASTER_REDIS_URL", "redis://ours")
    assert Settings().redis_url == "redis://ours"


@pytest.mark.parametrize("url", ["", "elsewhere:6379", "ftp://elsewhere", "redis://"])
def test_what_names_no_store_is_refused(monkeypatch, url):
    monkeypatch.setenv("LOADMASTER_REDIS_URL", url)
    with pytest.raises(ValidationError, match="REDIS_URL"):
        Settings()


def test_a_port_out_of_range_is_refused(monkeypatch):
    monkeypatch.setenv("LOADMASTER_PORT", "70000")
    with pytest.raises(ValidationError, match="port"):
        Settings()


def test_several_processes_share_the_cores_unless_their_threads_are_given():
    alone = Settings()
    assert alone.threads_each == alone.place_threads
    assert Settings(processes=64).threads_each == 1
    assert Settings(processes=64, place_threads=3).threads_each == 3
