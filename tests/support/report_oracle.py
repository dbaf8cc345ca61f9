"""A report's sums and quantiles in plain Python, request by request."""

from __future__ import annotations

import math
from typing import NamedTuple


class ServedRequest(NamedTuple):
    """One request sent; -1 where a time never came."""

    adapter: int
    prompt_tokens: int
    output_tokens: int
    sent_ns: int
    first_token_ns: int
    finish_ns: int


def nearest_rank(values, level):
    """Return the smallest value that at least `level` of all values do not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[math.ceil(level * len(values)) - 1]


def summarise(requests, num_adapters, end_ns):
    """Return sums by name, quantiles by latency, and tokens sent and completed by adapter."""
    completed = [r for r in requests if 0 <= r.finish_ns <= end_ns]
    several = [r for r in completed if r.output_tokens > 1]
    ttft_ns = [r.first_token_ns - r.sent_ns for r in completed]
    decode_ns = [r.finish_ns - r.first_token_ns for r in completed]
    tpot_ns = [(r.finish_ns - r.first_token_ns) / (r.output_tokens - 1) for r in several]
    e2e_ns = [r.finish_ns - r.sent_ns for r in completed]
    sums = {
        "NUM_COMPLETED": len(completed),
        "COMPLETED_PROMPT_TOKENS": sum(r.prompt_tokens for r in completed),
        "COMPLETED_OUTPUT_TOKENS": sum(r.output_tokens for r in completed),
        "SENT_TOKENS": sum(r.prompt_tokens + r.output_tokens for r in requests),
        "NUM_GAPS": sum(r.output_tokens - 1 for r in completed),
        "NUM_WITH_GAPS": len(several),
        "TTFT_NS": sum(ttft_ns),
        "DECODE_NS": sum(decode_ns),
        "TPOT_NS": sum(tpot_ns),
    }
    quantiles_ms = [
        [nearest_rank(values, level) * 1e-6 for level in (0.5, 0.95, 0.99)]
        for values in (ttft_ns, tpot_ns, e2e_ns)
    ]
    tokens_of = [
        [
            sum(r.prompt_tokens + r.output_tokens for r in rows if r.adapter == row)
            for row in range(num_adapters)
        ]
        for rows in (requests, completed)
    ]
    return sums, quantiles_ms, *tokens_of
