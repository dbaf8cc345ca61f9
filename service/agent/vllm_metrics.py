"""What a vLLM server's ``/metrics`` says: counters at one moment, and what two of them tell together."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
STEPS = "vllm:iteration_tokens_total_count"
PROMPT_TOKENS, GENERATED_TOKENS = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"
PREEMPTIONS, FINISHED = "vllm:num_preemptions_total", "vllm:request_success_total"
TTFT = "vllm:time_to_first_token_seconds"
ITL = ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")
CACHE_CONFIG, LORA_INFO = "vllm:cache_config_info", "vllm:lora_requests_info"
"""Names as of vLLM 0.32; where there are two, the second is an older version's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposition:
    """One scrape.

    Attributes
    ----------
    at_s
        When, on the clock of who scraped.
    totals
        Each sample's value by name, summed over its labels.
    labels
        The labels of the newest ``…_info`` series by name.
    """

    at_s: float
    totals: Mapping[str, float]
    labels: Mapping[str, Mapping[str, str]]

    def first(self, *names: str) -> float:
        """Return the value under the first name that is there; 0 where none is."""
        return next((self.totals[name] for name in names if name in self.totals), 0.0)

    @property
    def kv_tokens(self) -> int | None:
        """Tokens that the KV cache holds, None where the server does not say."""
        blocks = self._cache_config("num_gpu_blocks")
        return None if blocks is None or self.block_size is None else blocks * self.block_size

    @property
    def block_size(self) -> int | None:
        """Tokens in one KV block, None where the server does not say."""
        return self._cache_config("block_size")

    def _cache_config(self, name: str) -> int | None:
        try:
            return int(self.labels[CACHE_CONFIG][name])
        except (KeyError, ValueError):
            return None


def read_exposition(text: str, at_s: float) -> Exposition:
    """Return what a text in Prometheus's format says; lines that are no sample are passed over."""
    totals: dict[str, float] = defaultdict(float)
    labels: dict[str, dict[str, str]] = {}
    newest: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#") or (found := _SAMPLE.match(line)) is None:
            continue
        name = found["name"]
        try:
            value = float(found["value"])
        except ValueError:
            continue
        totals[name] += value
        if name.endswith("_info") and value >= newest.get(name, 0.0):
            newest[name] = value
            labels[name] = dict(_LABEL.findall(found["labels"] or ""))
    return Exposition(at_s=at_s, totals=dict(totals), labels=labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """What a server did between two scrapes.

    Attributes
    ----------
    duration_s
        Between them.
    num_steps, prompt_tokens, generated_tokens, num_started, num_finished, num_preemptions
        Engine steps, tokens, requests with their first token, requests that ended, preemptions.
    itl_ms, ttft_ms
        Means as the server sees them; NaN where there was none.
    """

    duration_s: float
    num_steps: float
    prompt_tokens: float
    generated_tokens: float
    num_started: float
    num_finished: float
    num_preemptions: float
    itl_ms: float
    ttft_ms: float


def interval_between(before: Exposition, after: Exposition) -> Interval:
    """Return what happened between two scrapes of the same server."""

    def grown(*names: str) -> float:
        return after.first(*names) - before.first(*names)

    def mean_ms(*names: str) -> float:
        count = grown(*(f"{name}_count" for name in names))
        return 1e3 * grown(*(f"{name}_sum" for name in names)) / count if count > 0 else float("nan")

    return Interval(
        duration_s=after.at_s - before.at_s,
        num_steps=grown(STEPS),
        prompt_tokens=grown(PROMPT_TOKENS),
        generated_tokens=grown(GENERATED_TOKENS),
        num_started=grown(f"{TTFT}_count"),
        num_finished=grown(FINISHED),
        num_preemptions=grown(PREEMPTIONS),
        itl_ms=mean_ms(*ITL),
        ttft_ms=mean_ms(TTFT),
    )
