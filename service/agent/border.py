"""The memory border: the largest `max_loras` that starts, bracketed with few launches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from service.agent.plan import SPARE_CPU_LORAS, Launch

if TYPE_CHECKING:
    from collections.abc import Mapping

TOLERANCE = 0.02
"""The border is found when a launch that starts and one that fails are so near, relative to slots."""

MAX_SLOTS = 4096


def next_launch(kv_tokens: Mapping[int, int], max_lora_rank: int, required_tokens: int) -> Launch | None:
    """Return the launch that narrows the border most, None where it is known or cannot be predicted.

    Memory falls linearly with slots, so launches far from the border predict it: what is launched is one
    just beyond the prediction and one just within. Where they contradict it, the middle of what is left.

    Parameters
    ----------
    kv_tokens
        KV tokens by `max_loras` of launches with this rank; 0 where memory did not suffice.
    max_lora_rank, required_tokens
        The rank, and the tokens without which no server starts.
    """
    started = {slots: tokens for slots, tokens in kv_tokens.items() if tokens >= required_tokens}
    if len(started) < 2:  # noqa: PLR2004 (a line)
        return None
    failed = [slots for slots, tokens in kv_tokens.items() if tokens < required_tokens]
    low, high = max(started), min(failed, default=MAX_SLOTS + 1)
    if high - low <= max(1.0, TOLERANCE * low):
        return None
    predicted = _predicted(started, required_tokens)
    if predicted is None:
        return None
    margin = math.ceil(0.25 * TOLERANCE * predicted)
    for slots in (predicted + max(margin, 1), predicted - margin):
        if low < slots < high:
            return _launch(slots, max_lora_rank)
    if not failed and predicted >= MAX_SLOTS:
        return None
    return _launch((low + high) // 2, max_lora_rank)


def _launch(max_loras: int, max_lora_rank: int) -> Launch:
    return Launch(max_loras=max_loras, max_lora_rank=max_lora_rank, max_cpu_loras=max_loras + SPARE_CPU_LORAS)


def _predicted(started: Mapping[int, int], required_tokens: int) -> int | None:
    """Return the slots at which the line through the outermost launches meets what is required."""
    fewest, most = min(started), max(started)
    falls = (started[fewest] - started[most]) / (most - fewest)
    if falls <= 0:
        return None
    return min(most + math.floor((started[most] - required_tokens) / falls), MAX_SLOTS)
