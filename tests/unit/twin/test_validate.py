"""Validation: figures by their definitions, one simulation a run, from its configuration only."""

from dataclasses import replace

import pytest

from tests.support.measured_tables import RUN, SHARED_RUNS, needs_measured_runs, write_table
from tests.support.twin_cases import HAS_JIT
from twin.calibration import load_calibration, shipped_calibration_ids
from twin.client import ClientView
from twin.measured import read_runs
from twin.noise import noise_floor
from twin.validate import (
    Prediction,
    baseline_predictions,
    figures,
    held_back_ttft_ms,
    predict_run,
    predict_runs,
    simulate_run,
    summary,
)
from twin.validation_report import write_report

CONTRACT_FIGURES = {
    "runs",
    "throughput_smape_half_pct",
    "throughput_mape_pct",
    "itl_smape_half_pct",
    "ttft_incl_unfinished_smape_half_pct",
    "ttft_completed_mape_pct",
    "starvation_accuracy",
    "starvation_f1",
    "fits_accuracy",
}


def runs(tmp_path, *changes):
    rows = [RUN | {"run_id": f"r{row}"} | change for row, change in enumerate(changes)]
    return read_runs(write_table(tmp_path / "runs.csv", rows))


def test_a_prediction_equal_to_the_outcome_has_no_error(tmp_path):
    (run,) = runs(tmp_path, {})
    exact = Prediction(
        run=run,
        fits=True,
        throughput_tok_s=250.0,
        itl_ms=20.0,
        ttft_ms=50.0,
        ttft_incl_unfinished_ms=900.0,
    )
    made = figures([exact])
    assert set(made) == CONTRACT_FIGURES
    assert made["throughput_smape_half_pct"] == made["itl_smape_half_pct"] == 0
    assert made["ttft_incl_unfinished_smape_half_pct"] == made["ttft_completed_mape_pct"] == 0
    assert made["starvation_accuracy"] == made["fits_accuracy"] == 1


def test_starvation_is_judged_by_what_the_client_meant_to_send(tmp_path):
    healthy, starved = runs(tmp_path, {"tot_tok_s": "250"}, {"tot_tok_s": "200"})
    wrong = [
        Prediction(run=healthy, fits=True, throughput_tok_s=200.0),
        Prediction(run=starved, fits=True, throughput_tok_s=200.0),
    ]
    assert figures(wrong)["starvation_accuracy"] == 0.5
    assert figures(wrong)["starvation_f1"] == pytest.approx(2 / 3)


def test_a_run_without_a_throughput_has_no_verdict_on_starvation(tmp_path):
    (run,) = runs(tmp_path, {"tot_tok_s": ""})
    made = figures([Prediction(run=run, fits=True, throughput_tok_s=1.0)])
    assert made["starvation_accuracy"] is None
    assert made["throughput_smape_half_pct"] is None


@pytest.mark.parametrize(
    "changes", [{"tot_tok_s": ""}, {"mean_itl_ms": ""}, {"failed": "True", "error": "port_bind"}]
)
def test_a_report_is_written_of_runs_that_lack_figures(tmp_path, changes):
    measured = runs(tmp_path, {"duration_s": "60"} | changes)
    known = load_calibration(shipped_calibration_ids()[0])
    predictions = predict_runs(measured, lambda _: known)
    write_report(tmp_path / "page.md", predictions, summary(predictions, measured), command="made here")
    assert "made here" in (tmp_path / "page.md").read_text()


def test_failures_of_the_infrastructure_do_not_count_for_memory(tmp_path):
    failed = {"failed": "True", "tot_tok_s": "", "adapter_rate_counts": ""}
    memory, port = runs(tmp_path, failed | {"error": "oom_torch"}, failed | {"error": "port_bind"})
    predictions = [Prediction(run=memory, fits=False), Prediction(run=port, fits=False)]
    assert figures(predictions)["fits_accuracy"] == 1
    assert figures(predictions)["runs"] == 0


def test_the_baseline_never_uses_the_run_it_predicts(tmp_path):
    alone, first, second = runs(
        tmp_path,
        {"max_loras": "3", "tot_tok_s": "1"},
        {"tot_tok_s": "100"},
        {"tot_tok_s": "120"},
    )
    predictions = baseline_predictions([alone, first, second])
    assert [row.throughput_tok_s for row in predictions] == pytest.approx([alone.ideal_tok_s, 120.0, 100.0])


def test_a_runs_regime_is_what_was_measured_and_what_the_twin_says_binds(tmp_path):
    healthy, starved = runs(tmp_path, {"tot_tok_s": "250"}, {"tot_tok_s": "200"})
    predictions = [
        Prediction(run=healthy, fits=True, throughput_tok_s=250.0, binding_constraint="slots"),
        Prediction(run=starved, fits=True, throughput_tok_s=100.0, binding_constraint="kv_memory"),
    ]
    document = summary(predictions, [healthy, starved])
    regimes = document["by_regime"][healthy.model]
    assert {name: one["runs"] for name, one in regimes.items()} == {
        "not starved": 1,
        "starved, bound by kv_memory": 1,
    }
    assert regimes["not starved"]["throughput_smape_half_pct"] == 0
    assert document["baseline"]["by_regime"][healthy.model].keys() == regimes.keys()


def test_the_noise_floor_is_the_twin_against_another_draw(tmp_path):
    measured = runs(tmp_path, {"duration_s": "60"}, {"duration_s": "60", "tot_tok_s": "1"})
    known = {measured[0].model: load_calibration(shipped_calibration_ids()[0])}
    predictions = predict_runs(measured, lambda run: known[run.model])
    (floor,) = noise_floor(predictions, known, threads=1).values()
    assert floor["runs"] == 2
    assert 0 < floor["throughput_smape_half_pct"] < 50
    assert floor == noise_floor(predictions, known, threads=2)[measured[0].model]


def test_what_came_out_of_a_run_does_not_enter_its_prediction(tmp_path):
    changes = {"tot_tok_s": "1", "mean_itl_ms": "999", "mean_ttft_ms": "9", "duration_s": "60"}
    first, second = runs(tmp_path, {"duration_s": "60"}, changes)
    known = load_calibration(shipped_calibration_ids()[0])
    made = [replace(predict_run(run, known), run=first, wall_s=0.0) for run in (first, second)]
    assert made[0] == made[1]


@pytest.mark.parametrize(("num_unfinished", "counts"), [(26_000, True), (25_000, False)])
def test_requests_that_a_client_at_its_limit_could_not_send_count_the_whole_window(
    tmp_path, num_unfinished, counts
):
    (run,) = runs(tmp_path, {"sent_requests": "40000", "duration_s": "3600"})
    made = simulate_run(replace(run, duration_s=60.0), load_calibration(shipped_calibration_ids()[0]))
    report = replace(made, num_requests_sent=30_000, num_requests_completed=30_000 - num_unfinished)
    seen = ClientView(itl_ms=20.0, ttft_ms=50.0, ttft_incl_unfinished_ms=1000.0)
    held_back = (30_000 * 1000.0 + 10_000 * 3600e3) / 40_000
    assert held_back_ttft_ms(run, report, seen) == pytest.approx(held_back if counts else 1000.0)


def test_a_server_that_does_not_start_is_not_simulated(tmp_path):
    (run,) = runs(tmp_path, {"max_loras": "4000"})
    assert predict_run(run, load_calibration(shipped_calibration_ids()[0])) == Prediction(run=run, fits=False)


@needs_measured_runs
@pytest.mark.skipif(not HAS_JIT, reason="simulated hours need the compiler")
def test_the_shipped_calibrations_predict_the_measured_servers():
    measured = read_runs(SHARED_RUNS / "runs.csv")[::8]
    known = {c.base_model: c for c in map(load_calibration, shipped_calibration_ids())}
    document = summary(predict_runs(measured, lambda run: known[run.model]), measured)
    for model, made in document["by_model"].items():
        assert made["throughput_smape_half_pct"] < 1.2
        assert made["itl_smape_half_pct"] < 3.0
        assert made["starvation_accuracy"] > 0.97
        assert made["fits_accuracy"] == 1
        baseline = document["baseline"]["by_model"][model]
        assert made["throughput_smape_half_pct"] < baseline["throughput_smape_half_pct"]
