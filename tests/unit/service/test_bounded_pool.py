import asyncio
import threading

import pytest

from service.errors import OverloadedError
from service.services.bounded import BoundedPool


def test_a_call_beyond_the_backlog_is_refused_at_once():
    async def scenario():
        release = threading.Event()
        pool = BoundedPool("test", num_threads=1, backlog=1, deadline_s=10)
        calls = [asyncio.create_task(pool.run(lambda: release.wait(10))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as caught:
            await pool.run(int)
        release.set()
        assert caught.value.retry_after_s == 1
        assert await asyncio.gather(*calls) == [True, True]
        assert await pool.run(lambda: 5) == 5
        pool.close()

    asyncio.run(scenario())


def test_a_caller_is_answered_by_its_deadline_and_the_slow_call_still_counts():
    async def scenario():
        release = threading.Event()
        pool = BoundedPool("test", num_threads=1, backlog=0, deadline_s=0.01)
        with pytest.raises(OverloadedError, match="took longer"):
            await pool.run(lambda: release.wait(10))
        with pytest.raises(OverloadedError, match="waiting"):
            await pool.run(int)
        release.set()
        pool.close()

    asyncio.run(scenario())


def test_an_error_of_the_call_reaches_the_caller():
    async def scenario():
        pool = BoundedPool("test", num_threads=1, backlog=0, deadline_s=10)
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0)
        pool.close()

    asyncio.run(scenario())
