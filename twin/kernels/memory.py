"""KV cache left beside the adapter slots, callable from other kernels."""

from numba import njit


@njit(cache=True, nogil=True)
def kv_tokens_kernel(memory_vector, max_loras, max_lora_rank, block_size):
    """Return the KV cache's size, tokens, a multiple of `block_size`; 0 where nothing is left.

    Parameters
    ----------
    memory_vector
        (4,) float64 from `twin.memory.memory_vector`: pool bytes, KV bytes a token, slot bytes,
        slot bytes for each unit of rank.
    max_loras, max_lora_rank, block_size
        Integers as in `ServerConfig`.
    """
    slots_bytes = max_loras * (memory_vector[2] + memory_vector[3] * max_lora_rank)
    blocks = int((memory_vector[0] - slots_bytes) // (memory_vector[1] * block_size))
    return max(blocks, 0) * block_size
