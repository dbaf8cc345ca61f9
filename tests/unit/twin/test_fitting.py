"""Fits: from data that a known law made, they find that law, and refuse data that cannot tell it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.support.measured_tables import RUN, SHARED_RUNS, needs_measured_runs, write_table
from tests.support.twin_cases import HAS_JIT, STEP, calibration
from twin.calibration import load_calibration, shipped_calibration_ids
from twin.client import client_view
from twin.domain import FrontEndLaw
from twin.errors import InvalidInputError, UnidentifiableError
from twin.fitting.calibrate import (
    FIRST_USE_MS,
    LABEL_US,
    FittedCalibration,
    fit_front_end,
    without_group,
)
from twin.fitting.estimators import fit_load, fit_memory, fit_scheduler
from twin.fitting.microbenchmarks import microbenchmark_observations
from twin.fitting.points import fit_load_points
from twin.fitting.step import (
    UNMATCHED,
    StepObservation,
    match_runs,
    observations_of,
    residuals_by_kind,
    solve,
)
from twin.kernels.latency import FAR_QUEUE, step_ms
from twin.latency import STEP_TERMS, scheduler_coefficients, step_coefficients
from twin.measured import client_of, read_runs
from twin.memory import kv_tokens
from twin.shapes import KNOWN_SHAPES, shape_from_config
from twin.validate import simulate_run

MODEL = "llama-3.1-8b-instruct"


# --- Mem_max.


def launches(known, slots=(8, 64, 128), ranks=(8, 16)):
    return [
        {
            "model": MODEL,
            "max_loras": max_loras,
            "max_lora_rank": rank,
            "kv_tokens": tokens if (tokens := kv_tokens(known, max_loras, rank)) >= 131072 else "",
            "error": "" if tokens >= 131072 else "kv_smaller_than_max_len",
        }
        for max_loras in slots
        for rank in ranks
    ]


def test_the_memory_pool_is_found_again_from_launches(tmp_path):
    known = load_calibration(shipped_calibration_ids()[0])
    write_table(tmp_path / "memory_kv.csv", launches(known, slots=(8, 64, 128, 400)))
    fit = fit_memory(tmp_path, MODEL, known.model)
    block_bytes = 16 * 131072
    assert abs(fit.fitted.law.pool_bytes - known.memory.pool_bytes) <= block_bytes
    assert fit.verdict_accuracy == 1
    assert fit.max_known_rank == 16


def test_one_wild_launch_does_not_move_the_pool(tmp_path):
    known = load_calibration(shipped_calibration_ids()[0])
    rows = launches(known)
    rows[2]["kv_tokens"] = rows[2]["kv_tokens"] // 2
    write_table(tmp_path / "memory_kv.csv", rows)
    block_bytes = 16 * 131072
    found = fit_memory(tmp_path, MODEL, known.model).fitted.law.pool_bytes
    assert abs(found - known.memory.pool_bytes) <= block_bytes


def test_too_few_launches_cannot_tell_the_pool(tmp_path):
    known = load_calibration(shipped_calibration_ids()[0])
    write_table(tmp_path / "memory_kv.csv", launches(known)[:2])
    with pytest.raises(UnidentifiableError, match=r"memory\.pool_bytes"):
        fit_memory(tmp_path, MODEL, known.model)


@pytest.mark.parametrize("cell", ["many", "", "inf", "nan"])
def test_a_cell_that_is_no_number_is_refused_by_file_line_and_column(tmp_path, cell):
    known = load_calibration(shipped_calibration_ids()[0])
    rows = launches(known)
    rows[1]["max_loras"] = cell
    write_table(tmp_path / "memory_kv.csv", rows)
    with pytest.raises(InvalidInputError, match=r"measurements\.memory_kv\.csv line 3, max_loras"):
        fit_memory(tmp_path, MODEL, known.model)


# --- Lat_load.


def loads(law):
    for rank, top in ((8, 8), (8, 16), (16, 16), (8, 32), (16, 32), (32, 32)):
        cpu_ms = law.cpu_ms + law.cpu_padding_ms * (rank < top)
        disk_ms = cpu_ms + law.disk_ms + law.disk_rank_ms * rank
        for source, median_ms in (("cpu", cpu_ms), ("disk", disk_ms)):
            yield {
                "model": MODEL,
                "adapter_rank": rank,
                "max_lora_rank": top,
                "source": source,
                "median_ms": median_ms,
            }


def test_the_load_law_is_found_again_from_its_own_times(tmp_path):
    known = calibration().load
    write_table(tmp_path / "load_times.csv", loads(known))
    fitted = fit_load(tmp_path, MODEL)
    for name in ("cpu_ms", "cpu_padding_ms", "disk_ms", "disk_rank_ms"):
        assert getattr(fitted.law, name) == pytest.approx(getattr(known, name), abs=1e-9)
    assert fitted.error_pct == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("fit", [fit_load, fit_load_points])
def test_a_load_from_nowhere_is_refused_by_file_line_and_column(tmp_path, fit):
    rows = list(loads(calibration().load))
    rows[2]["source"] = "CPU"
    write_table(tmp_path / "load_times.csv", rows)
    with pytest.raises(InvalidInputError, match=r"measurements\.load_times\.csv line 4, source"):
        fit(tmp_path, MODEL)


def test_a_table_that_is_no_text_is_refused_by_file(tmp_path):
    (tmp_path / "load_times.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match=r"measurements\.load_times\.csv must be a CSV"):
        fit_load(tmp_path, MODEL)


def test_loads_of_one_rank_cannot_tell_the_padding(tmp_path):
    write_table(tmp_path / "load_times.csv", list(loads(calibration().load))[:2])
    with pytest.raises(UnidentifiableError, match=r"load\.cpu_padding_ms"):
        fit_load(tmp_path, MODEL)


# --- Lat_sched.


def scheduler_runs(law, in_batch_share, queues=(0, 500, 5000, 20_000)):
    for running in (10, 100, 400):
        for waiting in queues:
            us = law.base_us + law.running_us * running + law.scanned_us * waiting
            us += law.far_us * max(waiting - FAR_QUEUE, 0)
            yield {
                "gpu_loras": 16,
                "cpu_loras": 64,
                "avg_batch_size": running,
                "avg_waiting_queue": waiting,
                "sched_ms_per_step": us / 1e3,
                "mean_loras_by_batch": 16 * in_batch_share,
            }


def test_the_scheduler_law_is_found_again_from_runs_that_slots_bind(tmp_path):
    known = calibration().scheduler
    write_table(tmp_path / "scheduler_time.csv", scheduler_runs(known, in_batch_share=1.0))
    fitted = fit_scheduler(tmp_path).law
    assert scheduler_coefficients(fitted) == pytest.approx(scheduler_coefficients(known))


def test_runs_whose_scan_is_not_known_do_not_teach(tmp_path):
    """Memory binds them: requests wait, and the scan ends after some of them, nobody knows how many."""
    known = calibration().scheduler
    half_scanned = scheduler_runs(replace(known, scanned_us=known.scanned_us / 2), in_batch_share=0.3)
    rows = [*scheduler_runs(known, in_batch_share=1.0), *half_scanned]
    write_table(tmp_path / "scheduler_time.csv", rows)
    fitted = fit_scheduler(tmp_path).law
    assert scheduler_coefficients(fitted) == pytest.approx(scheduler_coefficients(known))


def test_short_queues_cannot_tell_the_cost_of_a_long_one(tmp_path):
    rows = scheduler_runs(calibration().scheduler, in_batch_share=1.0, queues=(0, 500, 5000))
    write_table(tmp_path / "scheduler_time.csv", rows)
    with pytest.raises(UnidentifiableError, match=r"scheduler\.far_us"):
        fit_scheduler(tmp_path)


def test_runs_that_memory_binds_cannot_tell_the_cost_of_the_scan(tmp_path):
    write_table(tmp_path / "scheduler_time.csv", scheduler_runs(calibration().scheduler, in_batch_share=0.3))
    with pytest.raises(UnidentifiableError, match=r"scheduler\.scanned_us"):
        fit_scheduler(tmp_path)


# --- Lat_model.


def observed_steps(law, *, count=60, outliers=0):
    rng = np.random.default_rng(0)
    terms = rng.uniform(0.1, 50.0, size=(count, len(STEP_TERMS)))
    terms[:, 0] = 1.0
    step_ms = terms @ step_coefficients(law)
    step_ms[:outliers] *= 2.0
    return [
        StepObservation(kind="made up", group="", terms=row, step_ms=one_ms, weight=1.0)
        for row, one_ms in zip(terms, step_ms, strict=True)
    ]


def test_the_step_law_is_found_again_from_the_steps_it_made():
    fitted = solve(observed_steps(STEP))
    assert step_coefficients(fitted.law) == pytest.approx(step_coefficients(STEP), rel=1e-6)
    assert fitted.error_pct == pytest.approx(0, abs=1e-6)


def test_a_few_wild_steps_do_not_move_the_step_law_much():
    fitted = solve(observed_steps(STEP, count=200, outliers=4))
    assert fitted.law.base_ms == pytest.approx(STEP.base_ms, rel=0.2)


def test_a_step_counts_by_its_weight():
    heavy = [replace(one, weight=1.0) for one in observed_steps(STEP)]
    light = [replace(one, step_ms=1.04 * one.step_ms, weight=0.01) for one in heavy]
    terms = np.array([one.terms for one in heavy])
    ratio = (terms @ step_coefficients(solve([*heavy, *light]).law)) / [one.step_ms for one in heavy]
    assert ratio == pytest.approx(1.0, abs=1e-3)


def test_steps_that_scatter_give_every_term_a_standard_error():
    scattered = [
        replace(one, step_ms=(1.02 if row % 2 else 0.98) * one.step_ms)
        for row, one in enumerate(observed_steps(STEP))
    ]
    fitted = solve(scattered)
    for term in STEP_TERMS:
        assert (fitted.standard_errors[f"step.{term}"] > 0) == (getattr(fitted.law, term) > 0)


def test_residuals_are_told_by_kind():
    steps = observed_steps(STEP)
    slow = [replace(one, kind="slow", step_ms=one.step_ms / 0.8) for one in steps[:10]]
    told = residuals_by_kind([*steps, *slow], STEP)
    assert told["made up"] == (60, pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))
    assert told["slow"] == (10, pytest.approx(20), pytest.approx(-20))


@pytest.mark.parametrize("hidden", STEP_TERMS[1:])
def test_a_term_that_no_step_shows_is_named(hidden):
    column = STEP_TERMS.index(hidden)
    blind = [
        replace(one, terms=np.where(np.arange(len(STEP_TERMS)) == column, 0.0, one.terms))
        for one in observed_steps(STEP)
    ]
    with pytest.raises(UnidentifiableError, match=rf"step\.{hidden}"):
        solve(blind)


def test_a_handful_of_steps_cannot_tell_the_step_law():
    with pytest.raises(UnidentifiableError, match="needs 30 steps"):
        solve(observed_steps(STEP)[:29])


def served_run(tmp_path, factor, **columns):
    """A run of a server that is slower than the shipped law says, as the twin shows it."""
    known = load_calibration(shipped_calibration_ids()[0])
    row = RUN | {"adapter_rate_counts": "0.2x12", "adapters": "12", "max_loras": "12", "duration_s": "600"}
    (run,) = read_runs(write_table(tmp_path / "runs.csv", [row | columns]))
    slower = replace(
        known, step=replace(known.step, **{n: factor * getattr(known.step, n) for n in STEP_TERMS})
    )
    made = simulate_run(run, slower)
    outcome = replace(
        run.outcome,
        throughput_tok_s=made.throughput_tok_s,
        tpot_ms=made.tpot.mean_ms,
        itl_median_ms=made.itl.p50_ms,
    )
    return replace(run, outcome=outcome), known


@pytest.mark.skipif(not HAS_JIT, reason="simulated minutes need the compiler")
@pytest.mark.parametrize("rates", ["0.2x12", "12x12"], ids=["calm", "starved"])
def test_matching_finds_how_much_slower_a_server_is_than_the_law_says(tmp_path, rates):
    measured, known = served_run(tmp_path, 1.3, adapter_rate_counts=rates)
    (matched,) = match_runs([measured], known, threads=1, rounds=8)
    assert matched.factor == pytest.approx(1.3, rel=0.01)
    assert matched.error < 0.01


@pytest.mark.skipif(not HAS_JIT, reason="simulated minutes need the compiler")
def test_a_run_without_its_tpot_or_that_stays_unmatched_does_not_teach(tmp_path):
    run, known = served_run(tmp_path, 1.0)
    silent = replace(run, outcome=replace(run.outcome, tpot_ms=math.nan))
    matched = match_runs([silent, run], known, threads=1, rounds=2)
    assert math.isnan(matched[0].error)
    assert observations_of(matched, known.step)
    assert not observations_of(matched[:1], known.step)
    assert not observations_of([replace(matched[1], error=1.01 * UNMATCHED)], known.step)


@pytest.mark.skipif(not HAS_JIT, reason="simulated minutes need the compiler")
def test_a_matched_run_tells_its_mean_and_its_median_step(tmp_path):
    measured, known = served_run(tmp_path, 1.0)
    mean, median = observations_of(match_runs([measured], known, threads=1, rounds=1), known.step)
    law = step_coefficients(known.step)
    assert mean.step_ms == pytest.approx(float(mean.terms @ law))
    assert median.step_ms == pytest.approx(float(median.terms @ law), rel=0.02)
    assert median.step_ms < mean.step_ms


def test_a_group_that_is_left_out_does_not_teach():
    other = replace(STEP, base_ms=3 * STEP.base_ms)
    observed = [
        replace(one, group=group) for group, law in (("a", STEP), ("b", other)) for one in observed_steps(law)
    ]
    fitted = FittedCalibration(calibration=calibration(), observations=tuple(observed))
    for group, law in (("b", STEP), ("a", other)):
        step = without_group(fitted, group).step
        assert step_coefficients(step) == pytest.approx(step_coefficients(law), rel=1e-6)


# --- The API server.


@pytest.mark.skipif(not HAS_JIT, reason="simulated minutes need the compiler")
def test_the_api_servers_pauses_are_found_again_from_what_clients_saw(tmp_path):
    run, known = served_run(tmp_path, 1.0)
    law = FrontEndLaw(first_use_ms=FIRST_USE_MS[4], label_us=LABEL_US[-1])
    seen = client_view(simulate_run(run, replace(known, front_end=law)), law, client_of(run))
    outcome = replace(run.outcome, itl_ms=seen.itl_ms, ttft_ms=seen.ttft_ms)
    assert fit_front_end([replace(run, outcome=outcome)], known) == law


def test_runs_that_starved_cannot_tell_the_api_servers_pauses(tmp_path):
    (run,) = read_runs(write_table(tmp_path / "runs.csv", [RUN | {"tot_tok_s": "1"}]))
    with pytest.raises(UnidentifiableError, match="front_end"):
        fit_front_end([run], load_calibration(shipped_calibration_ids()[0]))


# --- Micro-benchmarks.

BENCHMARK = {
    "model": MODEL,
    "max_num_seqs": "50",
    "in_len": "1",
    "out_len": "100",
    "adapters": "0",
    "max_loras": "",
    "rank": "",
    "failed": "False",
    "preemptions": "0",
    "adapters_in_batch_mean": "0.0",
    "expected_unique_uniform": "",
    "steps": "8202",
    "step_ms_p50": "13.4",
    "median_itl_ms": "13.4",
}


def test_micro_benchmarks_show_the_step_that_they_repeat(tmp_path):
    adapters = {"adapters": "128", "max_loras": "300", "rank": "8", "adapters_in_batch_mean": "107.2"}
    prefills = {"in_len": "100", "out_len": "1", "median_itl_ms": "0", "step_ms_p50": "54.9"}
    rows = [BENCHMARK, BENCHMARK | adapters, BENCHMARK | prefills]
    write_table(tmp_path / "step_latency_runs.csv", rows)
    decodes, with_adapters, prompts = microbenchmark_observations(tmp_path, MODEL)
    context_tokens = 50 * (1 + 50)
    states = ((50, 0, context_tokens, 0), (50, 0, context_tokens, 107.2), (1, 2047, 0, 0))
    law = step_coefficients(STEP)
    for one, state, slots in zip((decodes, with_adapters, prompts), states, (0, 300, 0), strict=True):
        assert float(one.terms @ law) == pytest.approx(step_ms(law, *state, 8, slots))
    assert [one.step_ms for one in (decodes, with_adapters, prompts)] == [13.4, 13.4, 54.9]


@pytest.mark.parametrize(
    "changes",
    [
        {"failed": "True"},
        {"preemptions": "3"},
        {"median_itl_ms": ""},
        {"model": "another"},
        {"in_len": "100", "out_len": "1", "steps": "4"},
    ],
)
def test_micro_benchmarks_that_show_no_steady_step_do_not_teach(tmp_path, changes):
    write_table(tmp_path / "step_latency_runs.csv", [BENCHMARK | changes])
    assert microbenchmark_observations(tmp_path, MODEL) == []


# --- Model shapes.


@pytest.mark.parametrize("config", [[], None, {"num_attention_heads": "many"}, {"num_attention_heads": None}])
def test_a_configuration_that_is_none_is_refused(config):
    with pytest.raises(InvalidInputError, match="config"):
        shape_from_config(config)


def test_shapes_are_read_from_a_configuration():
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    }
    assert shape_from_config(config) == KNOWN_SHAPES[MODEL]
    del config["vocab_size"]
    with pytest.raises(InvalidInputError) as refused:
        shape_from_config(config)
    assert refused.value.field == "config.vocab_size"


# --- The shipped calibrations, where the measurements are at hand.


@needs_measured_runs
@pytest.mark.parametrize("calibration_id", shipped_calibration_ids())
def test_the_shipped_memory_law_agrees_with_every_launch(calibration_id):
    known = load_calibration(calibration_id)
    fit = fit_memory(SHARED_RUNS, known.base_model, known.model)
    assert fit.fitted.law == known.memory
    assert fit.verdict_accuracy == 1
