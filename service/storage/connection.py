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

SWAP_FIELD = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""

HOLD = """
local left_ms = redis.call('PTTL', KEYS[1])
if left_ms >= 0 and left_ms <= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
return 1
"""
"""Take a key for a while. One held for longer than anyone may: the store's clock has gone back since."""


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


def swap_field(client: redis.Redis, key: str, name: str, old: bytes, new: bytes) -> bool:
    """Write a field of a hash, unless another process has written it since it was read; tells whether.

    Parameters
    ----------
    old
        As it was read; empty where there was none.
    """
    return bool(client.eval(SWAP_FIELD, 1, key, name, old, new))  # type: ignore[arg-type]


def hold(client: redis.Redis, key: str, period_ms: int) -> bool:
    """Take a key for a period at most, however the store's clock jumps; False where another has it."""
    return bool(client.eval(HOLD, 1, key, period_ms))  # type: ignore[arg-type]
