"""Waves: batches handed out through a window, each counted once."""

import numpy as np
import pytest

from service.storage.waves import Wave


@pytest.fixture
def wave(redis_client, request):
    wave = Wave(redis_client, request.node.name, 0)
    yield wave
    wave.close()


def columns_of(rows):
    return np.stack([rows, 2 * rows], axis=1).astype(float)


def test_every_row_is_in_one_batch_and_batches_come_through_the_window(wave):
    rows = np.arange(1000, 2005)
    wave.open(rows, 100)
    seen, taken = [], wave.take(4)
    assert taken == [0, 1, 2, 3]
    assert wave.take(4) == []
    while taken:
        index = taken.pop(0)
        seen.append(wave.rows_of(index))
        assert wave.commit(index, columns_of(seen[-1]))
        assert len(wave.open_batches()) < 4
        taken += wave.take(4)
    assert np.array_equal(np.concatenate(seen), rows)
    assert wave.state().is_done
    assert wave.state().rows_done == len(rows)


def test_a_batch_that_runs_twice_is_counted_once_also_after_its_result_was_gathered(wave):
    wave.open(np.arange(10), 5)
    wave.take(2)
    columns = columns_of(wave.rows_of(0))
    assert wave.commit(0, columns)
    assert not wave.commit(0, columns)
    held = wave.held(2, limit=10)
    assert np.array_equal(held[0], columns)
    wave.release([0])
    assert not wave.commit(0, columns)
    assert wave.held(2, limit=10) == {}
    state = wave.state()
    assert (state.num_done, state.rows_done, state.is_done) == (1, 5, False)


def test_a_wave_opened_again_keeps_what_was_counted(wave):
    wave.open(np.arange(10), 5)
    wave.take(1)
    wave.commit(0, columns_of(wave.rows_of(0)))
    wave.open(np.arange(10), 5)
    assert wave.state().num_done == 1
    assert wave.take(5) == [1]


def test_a_batch_of_a_wave_that_is_over_is_not_counted(wave):
    wave.open(np.arange(10), 5)
    wave.take(2)
    columns = columns_of(wave.rows_of(0))
    wave.close()
    assert not wave.commit(0, columns)
    assert wave.state() is None


def test_a_million_waiting_simulations_cost_the_store_their_numbers_alone(wave, redis_client):
    before = redis_client.info("memory")["used_memory"]
    wave.open(np.arange(1_000_000), 128)
    wave.take(64)
    assert redis_client.info("memory")["used_memory"] - before < 20 * 2**20
    assert len(wave.open_batches()) == 64
