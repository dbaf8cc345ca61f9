"""The kernels' order-keeping structures against Python's own lists and sets."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twin_cases import num_examples
from twin.kernels import ordered

ITEMS = 12
operations = st.lists(st.tuples(st.booleans(), st.integers(0, ITEMS - 1)), max_size=60)


LAST = 600_000
numbers = st.one_of(
    st.integers(0, LAST), st.integers(0, 200), st.sampled_from([63, 64, 4095, 4096, 2**18 - 1, 2**18])
)


@settings(max_examples=num_examples(60), deadline=None)
@given(st.lists(st.tuples(st.booleans(), numbers), max_size=60))
def test_a_sorted_set_knows_its_smallest_member(steps):
    levels, members = ordered.sorted_set(LAST + 1), set()
    for wanted, item in steps:
        if wanted:
            ordered.sorted_add(levels, item)
            members.add(item)
        elif item in members:
            ordered.sorted_discard(levels, item)
            members.remove(item)
        assert ordered.sorted_first(levels) == min(members, default=-1)
        for start in (0, item, item + 1, LAST):
            following = min((member for member in members if member >= start), default=-1)
            assert ordered.sorted_from(levels, start) == following
    for item in sorted(members):
        assert ordered.sorted_first(levels) == item
        ordered.sorted_discard(levels, item)
    assert not any(level.any() for level in levels)


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
@given(st.sets(numbers, max_size=30), st.lists(numbers, min_size=1, max_size=10))
def test_a_counted_set_counts_its_members_below_any_item(members, limits):
    counted = ordered.counted_set(LAST + 1)
    for item in members:
        ordered.counted_add(*counted, item)
    for item in sorted(members)[::3]:
        ordered.counted_discard(*counted, item)
    members = members - set(sorted(members)[::3])
    for limit in (*limits, *members):
        assert ordered.counted_below(*counted, limit) == sum(member < limit for member in members)
