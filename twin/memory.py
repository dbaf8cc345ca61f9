"""Mem_max: what a launch leaves for the KV cache, computed from the model's shapes.

Only the pool (what slots and KV share) is fitted; bytes of a KV token and of a slot follow from the
shapes of vLLM's buffers, and launches only confirm them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from twin.kernels.memory import kv_tokens_kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.domain import Calibration, ModelShape, ServerConfig

LORA_EXTRA_VOCAB = 256
"""vLLM 0.8 reserves this many extra rows of embedding for each slot (`lora_extra_vocab_size`)."""

BLOCK_SIZE = 16
"""vLLM's own, where nobody asks for another."""

MAX_LORAS_LIMIT = 4096
"""The search for the largest feasible `max_loras` ends here."""


def kv_bytes_per_token(model: ModelShape) -> int:
    """Return the bytes of one token's keys and values over all layers."""
    return 2 * model.num_layers * model.num_kv_heads * model.head_dim * model.dtype_bytes


def lora_bytes_per_rank(model: ModelShape) -> int:
    """Return the bytes that one slot takes for each unit of `max_lora_rank`.

    A slot holds A (rank x in) and B (out x rank) of the projections q, k, v, o, gate, up and down
    of every layer, and of embedding and output head where the model has them.
    """
    queries = model.num_heads * model.head_dim
    keys = model.num_kv_heads * model.head_dim
    hidden, inner = model.hidden_size, model.intermediate_size
    layer = (hidden + queries) * 2 + (hidden + keys) * 2 + (hidden + inner) * 3
    elements = layer * model.num_layers
    if model.has_embedding_lora:
        vocabulary = model.vocab_size + LORA_EXTRA_VOCAB
        elements += 2 * (vocabulary + hidden)
    return elements * model.dtype_bytes


def lora_bytes_per_slot(model: ModelShape) -> int:
    """Return the bytes that one slot takes whatever its rank: extra vocabulary rows, twice."""
    if not model.has_embedding_lora:
        return 0
    return 2 * LORA_EXTRA_VOCAB * model.hidden_size * model.dtype_bytes


def memory_vector(calibration: Calibration) -> NDArray[np.float64]:
    """Pack what `kv_tokens_kernel` needs.

    Returns
    -------
    (4,) float64: pool bytes, KV bytes a token, slot bytes, slot bytes for each unit of rank.
    """
    model = calibration.model
    return np.array(
        [
            calibration.memory.pool_bytes,
            kv_bytes_per_token(model),
            lora_bytes_per_slot(model),
            lora_bytes_per_rank(model),
        ],
        dtype=np.float64,
    )


def kv_tokens(
    calibration: Calibration, max_loras: int, max_lora_rank: int, block_size: int = BLOCK_SIZE
) -> int:
    """Return the KV cache's size in tokens, a multiple of `block_size`; 0 where nothing is left."""
    return int(kv_tokens_kernel(memory_vector(calibration), max_loras, max_lora_rank, block_size))


MemoryVerdict = Literal["fits", "kv_smaller_than_max_len", "no_memory"]


def memory_verdict(calibration: Calibration, server: ServerConfig) -> MemoryVerdict:
    """Tell whether vLLM starts, and if not, which of two things is the matter.

    Returns
    -------
    ``kv_smaller_than_max_len``: there is a KV cache, smaller than one request of `max_model_len` tokens; a
    lower `max_model_len` starts. ``no_memory``: the slots alone take more than is free; vLLM then finds no
    memory for KV blocks, or torch none for the slots.
    """
    available = kv_tokens(calibration, server.max_loras, server.max_lora_rank, server.block_size)
    if available == 0:
        return "no_memory"
    required = required_kv_tokens(calibration, server.max_model_len)
    return "fits" if available >= required else "kv_smaller_than_max_len"


def fits_in_memory(calibration: Calibration, server: ServerConfig) -> bool:
    """Tell whether vLLM starts: the KV cache must hold one request of `max_model_len` tokens."""
    return memory_verdict(calibration, server) == "fits"


def required_kv_tokens(calibration: Calibration, max_model_len: int | None = None) -> int:
    """Return the KV tokens without which vLLM refuses to start: one longest request."""
    return calibration.model.max_model_len if max_model_len is None else max_model_len


def feasible_max_loras(calibration: Calibration, max_lora_rank: int, max_model_len: int | None = None) -> int:
    """Return the largest `max_loras` that starts with this rank, 0 if none does."""
    required = required_kv_tokens(calibration, max_model_len)
    memory = memory_vector(calibration)
    low, high = 0, MAX_LORAS_LIMIT
    while low < high:
        middle = (low + high + 1) // 2
        if kv_tokens_kernel(memory, middle, max_lora_rank, BLOCK_SIZE) >= required:
            low = middle
        else:
            high = middle - 1
    return low
