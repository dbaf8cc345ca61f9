"""The kernels' order-keeping structures against Python's own lists and sets."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twin_cases import num_examples
from twin.kernels import ordered

ITEMS = 12
operations = st.lists(st.tuples(st.booleans(), st.integers(0, ITEMS - 1)), max_size=60)


@settings(max_examples=num_examples(60), deadline=None)
@given(operations, st.permutations(range(ITEMS)))
def test_a_heap_keeps_its_smallest_key_on_top(steps, order):
    keys = np.array(order, np.int64)
    heap, position = np.empty(ITEMS, np.int32), np.full(ITEMS, -1, np.int32)
    size, members = 0, set()
    for wanted, item in steps:
        if wanted and item not in members:
            size = ordered.heap_push(heap, position, keys, size, item)
            members.add(item)
        elif not wanted and item in members:
            size = ordered.heap_remove(heap, position, keys, size, item)
            members.remove(item)
        assert size == len(members)
        assert set(heap[:size].tolist()) == members
        assert all(position[heap[slot]] == slot for slot in range(size))
        if members:
            assert heap[0] == min(members, key=lambda member: keys[member])


@settings(max_examples=num_examples(50), deadline=None)
@given(st.permutations(range(ITEMS)), st.lists(st.integers(0, ITEMS - 1), max_size=20))
def test_a_heap_follows_keys_that_become_smaller(order, items):
    keys = np.array(order, np.int64)
    heap, position = np.empty(ITEMS, np.int32), np.full(ITEMS, -1, np.int32)
    for item in range(ITEMS):
        ordered.heap_push(heap, position, keys, item, item)
    for count, item in enumerate(items):
        keys[item] = -1 - count
        ordered.heap_sift_up(heap, position, keys, position[item])
    popped = []
    for size in range(ITEMS, 0, -1):
        popped.append(int(heap[0]))
        ordered.heap_remove(heap, position, keys, size, popped[-1])
    assert popped == sorted(range(ITEMS), key=lambda item: keys[item])


def _items_of(following, ends):
    items, item = [], int(ends[0])
    while item >= 0:
        items.append(item)
        item = int(following[item])
    return items


@settings(max_examples=num_examples(60), deadline=None)
@given(operations)
def test_a_linked_list_keeps_the_order_of_appending(steps):
    previous, following = np.full(ITEMS, -1, np.int32), np.full(ITEMS, -1, np.int32)
    ends = np.full(2, -1, np.int32)
    expected = []
    for wanted, item in steps:
        if wanted and item not in expected:
            ordered.list_append(previous, following, ends, item)
            expected.append(item)
        elif not wanted and item in expected:
            ordered.list_remove(previous, following, ends, item)
            expected.remove(item)
        assert _items_of(following, ends) == expected
        assert _items_of(previous, ends[::-1]) == expected[::-1]


@settings(max_examples=num_examples(60), deadline=None)
@given(st.lists(st.tuples(st.integers(0, ITEMS - 1), st.integers(0, 1)), max_size=40))
def test_idle_adapters_stand_in_order_of_last_use_then_of_index(uses):
    previous, following = np.full(ITEMS, -1, np.int32), np.full(ITEMS, -1, np.int32)
    ends, idle_since_step = np.full(2, -1, np.int32), np.full(ITEMS, -1, np.int64)
    last_use, step = {}, 0
    for adapter, pause in uses:
        step += pause
        if adapter in last_use:
            ordered.list_remove(previous, following, ends, adapter)
        ordered.idle_append(previous, following, ends, idle_since_step, step, adapter)
        last_use[adapter] = step
        expected = sorted(last_use, key=lambda used: (last_use[used], used))
        assert _items_of(following, ends) == expected
        assert _items_of(previous, ends[::-1]) == expected[::-1]


@settings(max_examples=num_examples(50), deadline=None)
@given(
    st.sets(st.integers(0, 200_000), max_size=30),
    st.lists(st.integers(0, 200_000), min_size=1, max_size=10),
)
def test_a_counted_set_counts_its_members_below_any_item(members, limits):
    present = np.zeros(200_001, np.uint8)
    block_counts = np.zeros((200_001 >> ordered.BLOCK_BITS) + 1, np.int32)
    superblock_counts = np.zeros((200_001 >> ordered.SUPERBLOCK_BITS) + 1, np.int32)
    for item in members:
        ordered.counted_add(present, block_counts, superblock_counts, item)
    for item in sorted(members)[::3]:
        ordered.counted_discard(present, block_counts, superblock_counts, item)
    members = members - set(sorted(members)[::3])
    for limit in limits:
        below = ordered.counted_below(present, block_counts, superblock_counts, limit)
        assert below == sum(member < limit for member in members)
