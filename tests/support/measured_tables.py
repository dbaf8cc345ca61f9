"""Measured tables written by the twin itself, with laws that the tests know."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHARED_RUNS = Path(__file__).parents[3] / "shared" / "data" / "h100_vllm"

needs_measured_runs = pytest.mark.skipif(
    not (SHARED_RUNS / "runs.csv").is_file(),
    reason="the measured runs (../shared/data/h100_vllm) are not beside this clone",
)

RUN = {
    "run_id": "r1",
    "model": "llama-3.1-8b-instruct",
    "workload": "group-a",
    "adapters": "3",
    "max_loras": "2",
    "max_lora_rank": "16",
    "lora_rank_pool": "8 16",
    "adapter_rate_counts": "0.1x2;0.4x1",
    "pool_mean_input_len": "223",
    "pool_mean_output_len": "197",
    "duration_s": "3600.5",
    "sent_requests": "",
    "tot_tok_s": "250",
    "mean_itl_ms": "20",
    "mean_ttft_ms": "50",
    "ttft_incl_unfinished_ms": "900",
    "failed": "False",
    "error": "",
}


def write_table(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """Write rows as CSV, columns from the first one."""
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
