"""A report's sums and quantiles in plain Python, request by request."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple


class ServedRequest(NamedTuple):
    """One request sent; -1 where a time never came."""

    adapter: int
    prompt_tokens: int
    output_tokens: int
    sent_ns: int
    admitted_ns: int
    first_token_ns: int
    finish_ns: int

    @property
    def tokens(self) -> int:
        """Prompt and generated tokens."""
        return self.prompt_tokens + self.output_tokens

    def wait_ns(self, start_ns: int, end_ns: int) -> int:
        """Return how long it waited for its first admission within a window."""
        admitted_ns = self.admitted_ns if self.admitted_ns >= 0 else end_ns
        return max(min(admitted_ns, end_ns) - max(self.sent_ns, start_ns), 0)


def nearest_rank(values, level):
    """Return the smallest value that at least `level` of all values do not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[math.ceil(level * len(values)) - 1]


def summarise(requests, num_adapters, start_ns, end_ns):
    """Return sums by name, quantiles by latency, and each adapter's figures by name."""
    sent = [r for r in requests if r.sent_ns >= start_ns]
    finished = [r for r in requests if 0 <= r.finish_ns <= end_ns]
    completed = [r for r in finished if r.finish_ns > start_ns]
    several = [r for r in completed if r.output_tokens > 1]
    ttft_ns = [r.first_token_ns - r.sent_ns for r in completed]
    decode_ns = [r.finish_ns - r.first_token_ns for r in completed]
    tpot_ns = [(r.finish_ns - r.first_token_ns) / (r.output_tokens - 1) for r in several]
    e2e_ns = [r.finish_ns - r.sent_ns for r in completed]
    unfinished_before = [r for r in requests if r.sent_ns < start_ns and not 0 <= r.finish_ns <= start_ns]
    sums = {
        "NUM_SENT": len(sent),
        "NUM_COMPLETED": len(completed),
        "NUM_UNFINISHED_BEFORE": len(unfinished_before),
        "NUM_UNFINISHED": len(requests) - len(finished),
        "COMPLETED_PROMPT_TOKENS": sum(r.prompt_tokens for r in completed),
        "COMPLETED_OUTPUT_TOKENS": sum(r.output_tokens for r in completed),
        "SENT_TOKENS": sum(r.tokens for r in sent),
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
    by_adapter = []
    for row in range(num_adapters):
        its_sent, its_completed = ([r for r in rows if r.adapter == row] for rows in (sent, completed))
        waits_ns = [r.wait_ns(start_ns, end_ns) for r in its_sent]
        by_adapter.append(
            {
                "ADAPTER_SENT": len(its_sent),
                "ADAPTER_COMPLETED": len(its_completed),
                "ADAPTER_SENT_TOKENS": sum(r.tokens for r in its_sent),
                "ADAPTER_COMPLETED_TOKENS": sum(r.tokens for r in its_completed),
                "ADAPTER_WAIT_NS": sum(waits_ns),
                "ADAPTER_MAX_WAIT_NS": max(waits_ns, default=0),
                "ADAPTER_WINDOW_WAIT_NS": sum(
                    r.wait_ns(start_ns, end_ns) for r in requests if r.adapter == row
                ),
            }
        )
    return sums, quantiles_ms, by_adapter


def unfinished_late(requests, start_ns, end_ns):
    """How many requests are sent and not finished at each moment of the window's last fifth."""
    late_ns = (end_ns - start_ns) // 5
    counts = []
    for moment in range(1, 65):
        now_ns = end_ns - late_ns + Fraction(moment * late_ns, 64)
        counts.append(
            sum(r.sent_ns <= now_ns and not (0 <= r.finish_ns <= min(now_ns, end_ns)) for r in requests)
        )
    return counts
