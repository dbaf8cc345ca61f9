"""Short runs of one kind of step: what each measured, and the step that it ran over and over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from twin.fitting.step import BENCHMARK_WEIGHT, StepObservation
from twin.fitting.tables import read_rows
from twin.kernels.latency import step_terms

if TYPE_CHECKING:
    from pathlib import Path

    from twin.fitting.tables import TableRow

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
    for row in read_rows(directory, "step_latency_runs.csv"):
        if row["model"] != base_model or row["failed"] == "True":
            continue
        decodes_only, prefills_only = row.required("in_len") == 1, row.required("out_len") == 1
        if decodes_only and not prefills_only:
            observation = _of_decodes(row)
        elif prefills_only and row.number("steps", 0.0) >= MIN_STEPS:
            observation = _observation(
                row.number("step_ms_p50"), (ONE_PROMPT_LEFT, TOKEN_BUDGET - 1, 0.0, 0.0)
            )
        else:
            observation = None
        if observation is not None:
            observations.append(observation)
    return observations


def _of_decodes(row: TableRow) -> StepObservation | None:
    if row.number("preemptions", 0.0) > 0:
        return None
    batch = row.required("max_num_seqs")
    context_tokens = batch * (row.required("in_len") + 0.5 * row.required("out_len"))
    if row.number("adapters", 0.0) == 0:
        return _observation(row.number("median_itl_ms"), (batch, 0.0, context_tokens, 0.0))
    in_batch = row.number("adapters_in_batch_mean", row.number("expected_unique_uniform", 0.0))
    slots, rank = int(row.required("max_loras")), int(row.required("rank"))
    state = (batch, 0.0, context_tokens, in_batch)
    return _observation(row.number("median_itl_ms"), state, max_loras=slots, max_lora_rank=rank)


def _observation(
    measured_ms: float,
    state: tuple[float, float, float, float],
    *,
    max_loras: int = 0,
    max_lora_rank: int = 8,
) -> StepObservation | None:
    """Return a time with its step: decodes, prompt tokens, context tokens, adapters."""
    if not measured_ms > 0:
        return None
    _, prefill_tokens, _, adapters = state
    kind = "prefills" if prefill_tokens else "decodes with adapters" if adapters else "decodes"
    return StepObservation(
        kind=f"micro-benchmark, {kind}",
        group="",
        terms=step_terms(np.array([state]), max_lora_rank, max_loras)[0],
        step_ms=measured_ms,
        weight=BENCHMARK_WEIGHT,
    )
