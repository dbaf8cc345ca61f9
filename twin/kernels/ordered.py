"""Order-keeping structures over array memory: an indexed heap, linked lists, a counted set.

Each function works on arrays that its caller owns, so a kernel can keep several of them. Indices
are int32; -1 means none.
"""

from numba import njit

BLOCK_BITS = 8
SUPERBLOCK_BITS = 16


@njit(cache=True, nogil=True)
def heap_sift_up(heap, position, keys, slot):
    """Move the item at `slot` towards the root until its parent's key is smaller."""
    item = heap[slot]
    key = keys[item]
    while slot > 0:
        parent = (slot - 1) >> 1
        other = heap[parent]
        if keys[other] <= key:
            break
        heap[slot] = other
        position[other] = slot
        slot = parent
    heap[slot] = item
    position[item] = slot


@njit(cache=True, nogil=True)
def heap_sift_down(heap, position, keys, size, slot):
    """Move the item at `slot` away from the root until both children's keys are larger."""
    item = heap[slot]
    key = keys[item]
    while True:
        child = 2 * slot + 1
        if child >= size:
            break
        if child + 1 < size and keys[heap[child + 1]] < keys[heap[child]]:
            child += 1
        other = heap[child]
        if key <= keys[other]:
            break
        heap[slot] = other
        position[other] = slot
        slot = child
    heap[slot] = item
    position[item] = slot


@njit(cache=True, nogil=True)
def heap_push(heap, position, keys, size, item):
    """Add `item` to a min-heap of `size` items by ``keys[item]``; return the new size."""
    heap[size] = item
    heap_sift_up(heap, position, keys, size)
    return size + 1


@njit(cache=True, nogil=True)
def heap_remove(heap, position, keys, size, item):
    """Remove `item` from a min-heap of `size` items; return the new size."""
    slot = position[item]
    last = heap[size - 1]
    position[item] = -1
    if last != item:
        heap[slot] = last
        position[last] = slot
        heap_sift_up(heap, position, keys, slot)
        heap_sift_down(heap, position, keys, size - 1, position[last])
    return size - 1


@njit(cache=True, nogil=True)
def list_append(previous, following, ends, item):
    """Append `item` to a doubly linked list; `ends` is (2,): first and last item."""
    last = ends[1]
    previous[item] = last
    following[item] = -1
    if last >= 0:
        following[last] = item
    else:
        ends[0] = item
    ends[1] = item


@njit(cache=True, nogil=True)
def list_remove(previous, following, ends, item):
    """Remove `item` from a doubly linked list; `ends` is (2,): first and last item."""
    before, after = previous[item], following[item]
    if before >= 0:
        following[before] = after
    else:
        ends[0] = after
    if after >= 0:
        previous[after] = before
    else:
        ends[1] = before


@njit(cache=True, nogil=True)
def idle_append(previous, following, ends, idle_since_step, step, adapter):
    """Append `adapter` to a least-recently-used list; within one step, lower indices go first."""
    idle_since_step[adapter] = step
    successor = -1
    last = ends[1]
    while last >= 0 and idle_since_step[last] == step and last > adapter:
        successor = last
        last = previous[last]
    previous[adapter] = last
    following[adapter] = successor
    if last >= 0:
        following[last] = adapter
    else:
        ends[0] = adapter
    if successor >= 0:
        previous[successor] = adapter
    else:
        ends[1] = adapter


@njit(cache=True, nogil=True)
def counted_add(present, block_counts, superblock_counts, item):
    """Put `item` into a set that can count its members below any item."""
    present[item] = 1
    block_counts[item >> BLOCK_BITS] += 1
    superblock_counts[item >> SUPERBLOCK_BITS] += 1


@njit(cache=True, nogil=True)
def counted_discard(present, block_counts, superblock_counts, item):
    """Take `item`, a member, out of a counted set."""
    present[item] = 0
    block_counts[item >> BLOCK_BITS] -= 1
    superblock_counts[item >> SUPERBLOCK_BITS] -= 1


@njit(cache=True, nogil=True)
def counted_below(present, block_counts, superblock_counts, item):
    """Return how many members of a counted set are smaller than `item`."""
    superblock = item >> SUPERBLOCK_BITS
    block = item >> BLOCK_BITS
    count = 0
    for index in range(superblock):
        count += superblock_counts[index]
    for index in range(superblock << (SUPERBLOCK_BITS - BLOCK_BITS), block):
        count += block_counts[index]
    for index in range(block << BLOCK_BITS, item):
        count += present[index]
    return count
