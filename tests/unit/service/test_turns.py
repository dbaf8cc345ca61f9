import asyncio

import pytest

from service.storage.turns import exclusive, turn_of


def test_one_holds_the_lock_at_a_time(tmp_path):
    holders, most = [], []

    async def hold():
        async with turn_of(tmp_path / "lock"):
            holders.append(1)
            most.append(len(holders))
            await asyncio.sleep(0)
            holders.pop()

    async def all_of_them():
        await asyncio.gather(*(hold() for _ in range(4)))

    asyncio.run(all_of_them())
    assert most == [1, 1, 1, 1]


def test_who_waits_for_a_turn_can_be_cancelled(tmp_path):
    async def wait_in_vain():
        async with asyncio.timeout(0.1), turn_of(tmp_path / "lock"):
            pass

    with exclusive(tmp_path / "lock"), pytest.raises(TimeoutError):
        asyncio.run(wait_in_vain())
