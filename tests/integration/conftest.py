"""The real application on a real HTTP server and a real embedded store, in this process."""

import socket
import threading

import httpx
import pytest
import redis
import uvicorn

from service.app import create_app
from service.process import stop
from service.protocol import GuardedProtocol
from service.services.clock import Clock
from service.settings import Settings
from service.storage.connection import connect
from service.storage.embedded import start_store, store_url
from service.trial import START_DEADLINE_S
from tests.support.waiting import wait_until

STOP_S = 60.0
WINDOW_S = 300.0
"""In which the GPUs asked for do not fall, of applications of a `Fleet`."""

FAST = {"refresh_interval_s": 0.1, "stale_after_s": 0.5, "store_timeout_s": 1.0, "refresh_period_s": 0}


def make_settings(data_dir, **changes):
    return Settings(data_dir=data_dir, redis_url=None, **(FAST | changes))


class RunningApp:
    """The application behind uvicorn in a thread, and a client that speaks to it over loopback."""

    def __init__(self, settings, clock=None):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(
            uvicorn.Config(create_app(settings, clock), log_config=None, http=GuardedProtocol)
        )
        # A daemon: an application that does not stop fails its test and does not keep pytest from ending.
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True
        )
        self._thread.start()
        port = self._listener.getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        try:
            wait_until(self._is_ready, timeout_s=START_DEADLINE_S, what="readiness")
        except BaseException:
            self.close()
            raise

    def _is_ready(self):
        return self.client.get("/readyz").status_code == 200

    def close(self):
        self.client.close()
        self._server.should_exit = True
        self._thread.join(STOP_S)
        self._listener.close()
        assert not self._thread.is_alive(), f"the application did not stop within {STOP_S} s"


@pytest.fixture(scope="session")
def store_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data") / "store"
    process = start_store(directory)
    yield directory
    stop(process, 20)


@pytest.fixture(scope="session")
def client(store_dir):
    running = RunningApp(make_settings(store_dir.parent))
    yield running.client
    running.close()


@pytest.fixture
def client_without_store(tmp_path):
    running = RunningApp(make_settings(tmp_path))
    yield running.client
    running.close()


@pytest.fixture
def settings(store_dir):
    """Of what asks the store of the session; a module may have its own."""
    return make_settings(store_dir.parent, store_timeout_s=10.0)


@pytest.fixture
def redis_client(settings):
    client = connect(settings)
    yield client
    client.close()


@pytest.fixture
def fleet(tmp_path):
    """A store that can be stopped and started, and a way to start applications on it."""
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


class Fleet:
    """Applications on one store; all of it can be ended and begun again."""

    def __init__(self, data_dir):
        self._data_dir = data_dir
        self._apps = []
        self._stores = []
        self.start_store()

    def client(self, clock=None):
        settings = make_settings(self._data_dir, rate_noise=0, scale_down_window_s=WINDOW_S)
        self._apps.append(RunningApp(settings, clock))
        return self._apps[-1].client

    def start_store(self):
        self._stores.append(start_store(self._data_dir / "store"))

    def stop_store(self):
        stop(self._stores.pop(), 20)

    def lose_data(self):
        with redis.Redis.from_url(store_url(self._data_dir / "store")) as client:
            client.flushall()

    def close(self):
        for app in self._apps:
            app.close()
        for store in self._stores:
            stop(store, 20)


class HandClock:
    """A clock that moves when told."""

    def __init__(self):
        self.now_s = 1e9

    def as_clock(self):
        return Clock(monotonic_s=lambda: self.now_s, wall_s=lambda: self.now_s)
