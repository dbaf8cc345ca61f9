"""One way to reach the store, with a limit on every wait."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.errors import StoreUnavailableError
from service.observability import STORE_UP
from service.storage.embedded import store_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.settings import Settings

RETRY_AFTER_S = 5


def url_of(settings: Settings) -> str:
    """Return where the store is: the configured one, else the embedded one."""
    return settings.redis_url or store_url(settings.store_dir)


def connect(settings: Settings) -> redis.Redis:
    """Return a client (connected at first use) of the store."""
    return redis.Redis.from_url(
        url_of(settings),
        protocol=2,
        socket_timeout=settings.store_timeout_s,
        socket_connect_timeout=settings.store_timeout_s,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=30,
    )


@contextmanager
def store_call() -> Iterator[None]:
    """Turn every failure of the store into `StoreUnavailableError`, and remember whether it answered."""
    try:
        yield
    except redis.RedisError as error:
        STORE_UP.set(0)
        raise StoreUnavailableError(
            f"the store did not carry out the call ({type(error).__name__})", retry_after_s=RETRY_AFTER_S
        ) from error
    STORE_UP.set(1)
