"""A measurement set made by the twin: what drills recalibrate from, for want of a measured server."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from service.services.measurements import RUNS
from twin.calibration import load_calibration, shipped_calibration_ids
from twin.client import client_view
from twin.kernels.latency import FAR_QUEUE, step_ms
from twin.latency import step_coefficients
from twin.measured import client_of, read_runs
from twin.memory import kv_tokens
from twin.validate import simulate_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from twin.domain import Calibration, LoadLaw, SchedulerLaw

Row = dict[str, Any]

MODEL = "llama-3.1-8b-instruct"
NUM_RUNS = 48
RUN_S = 600.0


def table(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Return rows as the bytes of a CSV file, columns from the first one."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def twin_tables(num_runs: int = NUM_RUNS) -> dict[str, bytes]:
    """Return tables that can be fitted, measured on the twin of a shipped calibration: seconds of work.

    Runs vary what the step law's terms tell apart.
    """
    known = load_calibration(shipped_calibration_ids()[0])
    return {
        "memory_kv.csv": table(list(_launches(known))),
        "load_times.csv": table(list(_loads(known.load))),
        "scheduler_time.csv": table(list(_scheduler_runs(known.scheduler))),
        "step_latency_runs.csv": table(list(_benchmarks(known))),
        "length_stats.csv": table(
            [{"tokenizer": "llama", "field": "output", "generated_over_requested": "1.0"}]
        ),
        RUNS: table([_run(known, number) for number in range(num_runs)]),
    }


def _launches(known: Calibration) -> Iterator[Row]:
    for max_loras in (8, 64, 128):
        for rank in (8, 16, 32):
            tokens = kv_tokens(known, max_loras, rank)
            fits = tokens >= known.model.max_model_len
            yield {
                "model": MODEL,
                "max_loras": max_loras,
                "max_lora_rank": rank,
                "kv_tokens": tokens if fits else "",
                "error": "" if fits else "kv_smaller_than_max_len",
            }


def _loads(law: LoadLaw) -> Iterator[Row]:
    for rank, top in ((8, 8), (8, 16), (16, 16), (8, 32), (16, 32), (32, 32)):
        cpu_ms = law.cpu_ms + law.cpu_padding_ms * (rank < top)
        for source, median_ms in (("cpu", cpu_ms), ("disk", cpu_ms + law.disk_ms + law.disk_rank_ms * rank)):
            yield {
                "model": MODEL,
                "adapter_rank": rank,
                "max_lora_rank": top,
                "source": source,
                "median_ms": median_ms,
            }


def _scheduler_runs(law: SchedulerLaw) -> Iterator[Row]:
    for running in (10, 100, 400):
        for waiting in (0, 500, 5000, 20_000):
            us = law.base_us + law.running_us * running + law.scanned_us * waiting
            us += law.far_us * max(waiting - FAR_QUEUE, 0)
            yield {
                "gpu_loras": 16,
                "cpu_loras": 64,
                "avg_batch_size": running,
                "avg_waiting_queue": waiting,
                "sched_ms_per_step": us / 1e3,
                "mean_loras_by_batch": 16,
            }


def _benchmarks(known: Calibration) -> Iterator[Row]:
    """Steps of decodes alone, of decodes of adapters, and of prompts, by the law itself."""
    law = step_coefficients(known.step)
    for batch in (8, 32, 64, 128, 200, 256):
        for adapters, slots, rank in ((0, 0, 8), (batch // 2, 64, 8), (batch // 2, 128, 16), (batch, 256, 8)):
            step = float(step_ms(law, batch, 0, batch * 51.0, adapters, rank, slots))
            yield _benchmark(
                max_num_seqs=batch,
                adapters=adapters,
                adapters_in_batch_mean=adapters,
                max_loras=slots or "",
                rank=rank if adapters else "",
                step_ms_p50=step,
                median_itl_ms=step,
            )
    prompts = float(step_ms(law, 1, 2047, 0.0, 0, 8, 0))
    yield _benchmark(in_len="100", out_len="1", step_ms_p50=prompts, median_itl_ms="0")


def _benchmark(**changes: object) -> Row:
    row = {
        "model": MODEL,
        "max_num_seqs": "50",
        "in_len": "1",
        "out_len": "100",
        "adapters": "0",
        "max_loras": "",
        "rank": "",
        "failed": "False",
        "preemptions": "0",
        "adapters_in_batch_mean": "0",
        "expected_unique_uniform": "",
        "steps": "8000",
    }
    return row | changes


def _run(known: Calibration, number: int) -> Row:
    """One run and what the twin says came out of it."""
    rng = np.random.default_rng(number)
    adapters = int(rng.choice([8, 16, 48, 96, 160]))
    rate_rps = float(rng.choice([0.5, 2.0, 8.0, 20.0])) / adapters
    row = {
        "model": MODEL,
        "run_id": f"r{number}",
        "workload": f"group-{number % 4}",
        "adapters": str(adapters),
        "max_loras": str(min(adapters, int(rng.choice([8, 16, 64, 128])))),
        "max_lora_rank": str(rng.choice([8, 16])),
        "lora_rank_pool": "8",
        "adapter_rate_counts": f"{rate_rps:.6f}x{adapters}",
        "duration_s": str(RUN_S),
        "pool_mean_input_len": str(rng.choice([64, 223, 700])),
        "pool_mean_output_len": str(rng.choice([32, 197, 400])),
        "sent_requests": "",
        "failed": "False",
        "error": "",
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / RUNS
        path.write_bytes(table([row]))
        (run,) = read_runs(path)
    report = simulate_run(run, known)
    seen = client_view(report, known.front_end, client_of(run))
    return row | {
        "tot_tok_s": report.throughput_tok_s,
        "mean_itl_ms": seen.itl_ms,
        "median_itl_ms": report.itl.p50_ms,
        "mean_tpot_ms": report.tpot.mean_ms,
        "mean_ttft_ms": seen.ttft_ms,
        "ttft_incl_unfinished_ms": seen.ttft_ms,
    }
