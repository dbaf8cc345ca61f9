"""Mem_max: what slots leave for the KV cache."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twin_cases import SHAPE, calibration, num_examples, server
from twin.domain import MemoryLaw
from twin.memory import (
    MAX_LORAS_LIMIT,
    feasible_max_loras,
    fits_in_memory,
    kv_bytes_per_token,
    kv_tokens,
    lora_bytes_per_rank,
    lora_bytes_per_slot,
    memory_verdict,
    required_kv_tokens,
)

law_of_memory = settings(max_examples=num_examples(100), deadline=None)
pools = st.floats(0, 1e9).map(lambda pool_bytes: calibration(memory=MemoryLaw(pool_bytes=pool_bytes)))
slots, ranks, blocks = st.integers(1, 600), st.integers(1, 256), st.sampled_from([1, 8, 16, 32])


@law_of_memory
@given(pools, slots, ranks, blocks)
def test_more_slots_never_leave_more_kv_tokens(made_up, max_loras, rank, block_size):
    now = kv_tokens(made_up, max_loras, rank, block_size)
    assert kv_tokens(made_up, max_loras + 1, rank, block_size) <= now


@law_of_memory
@given(pools, slots, ranks, blocks)
def test_a_higher_rank_never_leaves_more_kv_tokens(made_up, max_loras, rank, block_size):
    now = kv_tokens(made_up, max_loras, rank, block_size)
    assert kv_tokens(made_up, max_loras, rank + 1, block_size) <= now


@law_of_memory
@given(pools, slots, ranks, blocks)
def test_slots_and_kv_cache_share_the_pool_to_the_last_block(made_up, max_loras, rank, block_size):
    tokens = kv_tokens(made_up, max_loras, rank, block_size)
    assert tokens >= 0
    assert tokens % block_size == 0
    slots_bytes = max_loras * (lora_bytes_per_slot(SHAPE) + rank * lora_bytes_per_rank(SHAPE))
    block_bytes = block_size * kv_bytes_per_token(SHAPE)
    left_bytes = made_up.memory.pool_bytes - slots_bytes - tokens * kv_bytes_per_token(SHAPE)
    assert left_bytes < block_bytes
    assert left_bytes >= 0 or tokens == 0


@law_of_memory
@given(pools, slots, st.none() | st.integers(2, 100_000))
def test_a_launch_fails_for_one_of_two_reasons(made_up, max_loras, max_model_len):
    flags = server(max_loras=max_loras, max_model_len=max_model_len)
    available = kv_tokens(made_up, max_loras, flags.max_lora_rank)
    verdict = memory_verdict(made_up, flags)
    assert (verdict == "fits") == fits_in_memory(made_up, flags)
    assert (verdict == "no_memory") == (available == 0)
    if verdict == "kv_smaller_than_max_len":
        assert memory_verdict(made_up, server(max_loras=max_loras, max_model_len=available)) == "fits"


@law_of_memory
@given(pools, ranks, st.none() | st.integers(2, 100_000))
def test_the_largest_feasible_max_loras_is_the_border(made_up, rank, max_model_len):
    border = feasible_max_loras(made_up, rank, max_model_len)
    assert 0 <= border <= MAX_LORAS_LIMIT

    def fits(max_loras):
        flags = server(max_loras=max_loras, max_lora_rank=rank, max_model_len=max_model_len)
        return fits_in_memory(made_up, flags)

    assert border == 0 or fits(border)
    assert border == MAX_LORAS_LIMIT or not fits(border + 1)


def test_a_launch_needs_the_kv_cache_of_one_longest_request():
    made_up = calibration()
    available = kv_tokens(made_up, 4, 16)
    assert fits_in_memory(made_up, server(max_model_len=available))
    assert not fits_in_memory(made_up, server(max_model_len=available + 1))
    assert required_kv_tokens(made_up) == SHAPE.max_model_len
    assert required_kv_tokens(made_up, 77) == 77


EXTRA_VOCABULARY = 256
"""Rows that vLLM 0.8 adds for tokens of an adapter's own (`lora_extra_vocab_size`)."""


def buffers_of_a_slot(model, rank):
    """Yield rows and columns of each buffer that vLLM 0.8 makes for one slot (`create_lora_weights`)."""
    queries, keys = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    hidden, inner = model.hidden_size, model.intermediate_size
    projections = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    projections += [(hidden, inner), (hidden, inner), (inner, hidden)]
    for columns, rows in projections * model.num_layers:
        yield from ((rank, columns), (rows, rank))
    if model.has_embedding_lora:
        tokens = model.vocab_size + EXTRA_VOCABULARY
        embedding = ((tokens, rank), (hidden, rank), (EXTRA_VOCABULARY, hidden))
        output_head = ((rank, hidden), (tokens, rank), (EXTRA_VOCABULARY, hidden))
        yield from (*embedding, *output_head)


@law_of_memory
@given(
    st.builds(
        replace,
        st.just(SHAPE),
        num_heads=st.sampled_from([8, 12]),
        num_kv_heads=st.sampled_from([1, 2, 8]),
        has_embedding_lora=st.booleans(),
    ),
    ranks,
)
def test_a_slot_takes_the_bytes_of_vllms_buffers(model, rank):
    elements = sum(rows * columns for rows, columns in buffers_of_a_slot(model, rank))
    bytes_of_slot = lora_bytes_per_slot(model) + rank * lora_bytes_per_rank(model)
    assert bytes_of_slot == model.dtype_bytes * elements


def test_the_published_kv_cache_sizes_follow_from_the_shapes():
    llama = replace(
        SHAPE,
        num_layers=32,
        hidden_size=4096,
        intermediate_size=14336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=128_256,
    )
    qwen = replace(
        SHAPE,
        num_layers=28,
        hidden_size=3584,
        intermediate_size=18944,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        vocab_size=152_064,
        has_embedding_lora=False,
    )
    assert kv_bytes_per_token(llama) == 128 * 1024
    assert kv_bytes_per_token(qwen) == 56 * 1024
    # Launches measured 43.98 and 87.91 KV tokens for each slot and unit of rank.
    assert lora_bytes_per_rank(llama) / kv_bytes_per_token(llama) == pytest.approx(43.98, rel=0.02)
    assert lora_bytes_per_rank(qwen) / kv_bytes_per_token(qwen) == pytest.approx(87.91, rel=0.02)
    assert lora_bytes_per_slot(qwen) == 0
