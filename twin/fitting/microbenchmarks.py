"""Short runs of one kind of step: what each measured, and the step that it ran over and over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from twin.fitting.step import BENCHMARK_WEIGHT, StepObservation
from twin.fitting.tables import read_rows
from twin.kernels.latency import step_terms

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = (
    *("model", "max_num_seqs", "in_len", "out_len", "adapters", "max_loras", "rank", "failed"),
    *("preemptions", "adapters_in_batch_mean", "expected_unique_uniform", "steps", "step_ms_p50"),
    "median_itl_ms",
)
TOKEN_BUDGET = 2048
ONE_PROMPT_LEFT = 1
"""A benchmark of prefills keeps one request decoding its single token in each step."""

MIN_STEPS = 50
"""Fewer steps are those of a benchmark's start and end."""


def microbenchmark_observations(directory: Path, base_model: str) -> list[StepObservation]:
    """Return the steps that ``step_latency_runs.csv`` measured, without those that ran out of memory.

    A run of decodes (prompts of one token) holds its whole batch at mid-answer; a run of prefills
    (answers of one token) spends its token budget in every step.
    """
    observations = []
    for row in read_rows(directory, "step_latency_runs.csv", COLUMNS):
        if row["model"] != base_model or row["failed"] == "True":
            continue
        decodes_only, prefills_only = float(row["in_len"]) == 1, float(row["out_len"]) == 1
        if decodes_only and not prefills_only:
            observation = _of_decodes(row)
        elif prefills_only and _number(row["steps"]) >= MIN_STEPS:
            observation = _observation(row["step_ms_p50"], (ONE_PROMPT_LEFT, TOKEN_BUDGET - 1, 0.0, 0.0))
        else:
            observation = None
        if observation is not None:
            observations.append(observation)
    return observations


def _of_decodes(row: dict[str, str]) -> StepObservation | None:
    if _number(row["preemptions"]) > 0:
        return None
    batch = float(row["max_num_seqs"])
    context_tokens = batch * (float(row["in_len"]) + 0.5 * float(row["out_len"]))
    if _number(row["adapters"]) == 0:
        return _observation(row["median_itl_ms"], (batch, 0.0, context_tokens, 0.0))
    in_batch = row["adapters_in_batch_mean"] or row["expected_unique_uniform"]
    slots, rank = int(float(row["max_loras"])), int(float(row["rank"]))
    state = (batch, 0.0, context_tokens, _number(in_batch))
    return _observation(row["median_itl_ms"], state, max_loras=slots, max_lora_rank=rank)


def _observation(
    measured_ms: str,
    state: tuple[float, float, float, float],
    *,
    max_loras: int = 0,
    max_lora_rank: int = 8,
) -> StepObservation | None:
    """Return a time with its step: decodes, prompt tokens, context tokens, adapters."""
    if not _number(measured_ms) > 0:
        return None
    _, prefill_tokens, _, adapters = state
    kind = "prefills" if prefill_tokens else "decodes with adapters" if adapters else "decodes"
    return StepObservation(
        kind=f"micro-benchmark, {kind}",
        group="",
        terms=step_terms(np.array([state]), max_lora_rank, max_loras)[0],
        step_ms=float(measured_ms),
        weight=BENCHMARK_WEIGHT,
    )


def _number(text: str) -> float:
    return float(text) if text else 0.0
