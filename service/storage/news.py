"""News from the store: another process has written what all of them keep in memory."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from service.observability import LOOP_ERRORS
from service.storage.connection import url_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.settings import Settings

CHANNEL = "loadmaster:news"
WAIT_S = 30.0

log = structlog.get_logger()


async def listen(settings: Settings, heard: Callable[[], None]) -> None:
    """Call `heard` at each news, until cancelled.

    News may be lost: while the store is away nothing is heard. Whoever needs to know looks at the store now
    and then besides.
    """
    while True:
        try:
            await _listen_once(settings, heard)
        except (RedisError, OSError) as error:
            LOOP_ERRORS.labels("news").inc()
            log.debug("news_interrupted", reason=str(error))
        await asyncio.sleep(settings.refresh_interval_s * random.uniform(0.5, 1))  # noqa: S311 (jitter)


async def _listen_once(settings: Settings, heard: Callable[[], None]) -> None:
    client = redis.asyncio.Redis.from_url(
        url_of(settings), protocol=2, socket_connect_timeout=settings.store_timeout_s
    )
    try:
        async with client.pubsub() as channel:
            await channel.subscribe(CHANNEL)
            while True:
                news = await channel.get_message(ignore_subscribe_messages=True, timeout=WAIT_S)
                if news is not None:
                    heard()
    finally:
        await client.aclose()
