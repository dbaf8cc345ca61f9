"""Order-keeping structures over array memory: sorted sets, sets that count, linked lists.

Each function works on arrays that its caller owns, so a kernel can keep several of them. Indices of
linked lists are int32; -1 means none. Sets hold integers as bits, 64 to a word, under summaries of
64 words to a bit or to a count, so every operation touches a handful of words.
"""

import numpy as np
from numba import config, njit, types
from numba.extending import intrinsic

if config.DISABLE_JIT:

    def lowest_bit(word):
        """Return the index of the lowest bit set in a non-zero uint64."""
        return (int(word) & -int(word)).bit_length() - 1

    def count_bits(word):
        """Return how many bits a uint64 has set."""
        return int(word).bit_count()

else:

    @intrinsic
    def lowest_bit(_, word):  # noqa: ARG001 (Numba reads the parameter's name)
        """Return the index of the lowest bit set in a non-zero uint64."""

        def generate(context, builder, _, arguments):
            zero_is_undefined = context.get_constant(types.boolean, True)  # noqa: FBT003 (Numba's own call)
            return builder.cttz(arguments[0], zero_is_undefined)

        return types.int64(types.uint64), generate

    @intrinsic
    def count_bits(_, word):  # noqa: ARG001
        """Return how many bits a uint64 has set."""

        def generate(_, builder, __, arguments):
            return builder.ctpop(arguments[0])

        return types.int64(types.uint64), generate


@njit(cache=True, nogil=True)
def bit_of(item):
    """Return the word in which only the bit of `item` is set."""
    return np.uint64(1) << np.uint64(item & 63)


@njit(cache=True, nogil=True)
def sorted_set(num_items):
    """Return an empty set of integers below `num_items`: bits, words in use, and 64 words in use."""
    return (
        np.zeros((num_items >> 6) + 1, np.uint64),
        np.zeros((num_items >> 12) + 1, np.uint64),
        np.zeros((num_items >> 18) + 1, np.uint64),
    )


@njit(cache=True, nogil=True)
def sorted_add(levels, item):
    """Put `item` into a sorted set."""
    bits, words, regions = levels
    bits[item >> 6] |= bit_of(item)
    words[item >> 12] |= bit_of(item >> 6)
    regions[item >> 18] |= bit_of(item >> 12)


@njit(cache=True, nogil=True)
def sorted_discard(levels, item):
    """Take `item` out of a sorted set."""
    bits, words, regions = levels
    bits[item >> 6] &= ~bit_of(item)
    if bits[item >> 6] == 0:
        words[item >> 12] &= ~bit_of(item >> 6)
        if words[item >> 12] == 0:
            regions[item >> 18] &= ~bit_of(item >> 12)


@njit(cache=True, nogil=True)
def sorted_first(levels):
    """Return the smallest member of a sorted set, or -1."""
    bits, words, regions = levels
    for region in range(regions.shape[0]):
        if regions[region] != 0:
            word = (region << 6) | lowest_bit(regions[region])
            word = (word << 6) | lowest_bit(words[word])
            return (word << 6) | lowest_bit(bits[word])
    return -1


@njit(cache=True, nogil=True)
def sorted_from(levels, item):
    """Return the smallest member of a sorted set that is not below `item`, or -1."""
    bits = levels[0]
    index = item >> 6
    if index >= bits.shape[0]:
        return -1
    word = bits[index] & ~(bit_of(item) - np.uint64(1))
    while word == 0:
        index += 1
        if index == bits.shape[0]:
            return -1
        word = bits[index]
    return (index << 6) | lowest_bit(word)


@njit(cache=True, nogil=True)
def counted_set(num_items):
    """Return an empty set of integers below `num_items` that can count its members below any item."""
    return (
        np.zeros((num_items >> 6) + 1, np.uint64),
        np.zeros((num_items >> 12) + 1, np.int64),
        np.zeros((num_items >> 18) + 1, np.int64),
    )


@njit(cache=True, nogil=True)
def counted_add(bits, block_counts, region_counts, item):
    """Put `item`, no member, into a counted set."""
    bits[item >> 6] |= bit_of(item)
    block_counts[item >> 12] += 1
    region_counts[item >> 18] += 1


@njit(cache=True, nogil=True)
def counted_discard(bits, block_counts, region_counts, item):
    """Take `item`, a member, out of a counted set."""
    bits[item >> 6] &= ~bit_of(item)
    block_counts[item >> 12] -= 1
    region_counts[item >> 18] -= 1


@njit(cache=True, nogil=True)
def counted_below(bits, block_counts, region_counts, item):
    """Return how many members of a counted set are smaller than `item`."""
    region, block, word = item >> 18, item >> 12, item >> 6
    count = 0
    for index in range(region):
        count += region_counts[index]
    for index in range(region << 6, block):
        count += block_counts[index]
    for index in range(block << 6, word):
        count += count_bits(bits[index])
    return count + count_bits(bits[word] & (bit_of(item) - np.uint64(1)))


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
