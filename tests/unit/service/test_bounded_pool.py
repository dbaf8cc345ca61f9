import asyncio
import threading

import pytest

from service.errors import OverloadedError
from service.services.bounded import BoundedPool, BoundedTurn


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


@pytest.mark.parametrize("num_turns", range(8))
def test_a_cancellation_that_meets_the_result_is_not_swallowed(num_turns):
    async def scenario():
        loop = asyncio.get_running_loop()
        pool = BoundedPool("test", num_threads=1, backlog=1, deadline_s=10)
        queued = threading.Event()

        async def call_then_sleep():
            await pool.run(int)
            await asyncio.sleep(3600)

        def cancel_after(turns):
            if turns == 0:
                task.cancel()
            else:
                loop.call_soon(cancel_after, turns - 1)

        def second_call():  # the one thread begins it once the loop was told of the first's result
            loop.call_soon_threadsafe(cancel_after, num_turns)
            queued.set()

        task = asyncio.create_task(call_then_sleep())
        other = asyncio.create_task(pool.run(second_call))
        await asyncio.sleep(0)
        assert queued.wait(10)
        await asyncio.wait([task], timeout=1)
        assert task.cancelled()
        await other
        pool.close()

    asyncio.run(scenario())


def test_a_closed_pool_counts_nothing_in_flight():
    async def scenario():
        pool = BoundedPool("test", num_threads=1, backlog=0, deadline_s=10)
        pool.close()
        for _ in range(3):
            with pytest.raises(RuntimeError, match="after shutdown"):
                await pool.run(int)

    asyncio.run(scenario())


def test_turns_come_in_order_and_one_beyond_the_backlog_is_refused_at_once():
    async def scenario():
        lock, order = asyncio.Lock(), []
        turn = BoundedTurn(lock, "writes", backlog=2, deadline_s=10)

        async def take(number):
            async with turn.taken():
                order.append(number)

        await lock.acquire()
        waiting = [asyncio.create_task(take(number)) for number in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="2 writes are waiting"):
            await take(2)
        lock.release()
        await asyncio.gather(*waiting)
        await take(3)
        assert order == [0, 1, 3]

    asyncio.run(scenario())


def test_a_turn_that_does_not_come_in_time_is_refused_and_leaves_the_lock_to_others():
    async def scenario():
        lock = asyncio.Lock()
        turn = BoundedTurn(lock, "writes", backlog=1, deadline_s=0.01)
        await lock.acquire()
        for _ in range(2):  # the one that has given up waits no more
            with pytest.raises(OverloadedError, match="taken longer"):
                async with turn.taken():
                    pass
        lock.release()
        async with turn.taken():
            assert lock.locked()
        assert not lock.locked()

    asyncio.run(scenario())


def test_a_turn_that_fails_ends():
    async def scenario():
        lock = asyncio.Lock()
        with pytest.raises(ZeroDivisionError):
            async with BoundedTurn(lock, "writes", backlog=0, deadline_s=10).taken():
                raise ZeroDivisionError
        assert not lock.locked()

    asyncio.run(scenario())
