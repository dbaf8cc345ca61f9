from dataclasses import replace

import numpy as np
import pytest

from models.artifact import Provenance, save
from models.dataset import COLUMNS, Dataset, DatasetOrigin, Design
from models.errors import DatasetError
from models.evaluation import Served, Subject, TreePredictor, evaluate_dataset, evaluate_runs, predict_run
from models.features import NUM_AGGREGATES, aggregate
from models.scenarios import scenario
from tests.support.feature_cases import a_calibration
from tests.support.tree_cases import small_surrogate
from twin.calibration import calibration_sha256
from twin.measured import MeasuredRun, RunOutcome, client_of, workload_of

CALIBRATION = a_calibration()
FIGURES = {
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
RUN = MeasuredRun(
    run_id="r1",
    model="test-model",
    group="g",
    max_loras=4,
    max_lora_rank=16,
    max_cpu_loras=8,
    rank_pool=(8, 16),
    rates_rps=(0.5,) * 8,
    input_len_mean=200.0,
    output_len_mean=100.0,
    duration_s=3600.0,
    sent_requests=None,
    outcome=RunOutcome(
        throughput_tok_s=1200.0,
        itl_ms=20.0,
        itl_median_ms=20.0,
        tpot_ms=20.0,
        ttft_ms=50.0,
        ttft_incl_unfinished_ms=60.0,
        mean_num_requests_running=8.0,
    ),
    error="",
)


class Capacity:
    """A server of 10 requests a second, whatever they are."""

    def predict(self, workload, server):
        del server
        rate = float(workload.rate_rps.sum())
        return Served(min(1.0, 10.0 / rate), workload.offered_tok_s, 20.0, 50.0)


class Perfect:
    """Says what was measured in `RUN`."""

    def predict(self, workload, server):
        del server
        return Served(1200.0 / workload.offered_tok_s, workload.offered_tok_s, 20.0, 50.0)


def subject():
    return Subject(calibration=CALIBRATION, surrogate=small_surrogate(CALIBRATION), teacher=None)


def test_a_right_prediction_is_returned_as_it_is():
    answer = predict_run(Perfect(), RUN, CALIBRATION)
    assert answer.throughput_tok_s == pytest.approx(1200.0)
    assert answer.itl_ms == 20.0
    assert answer.fits


def test_unfinished_requests_count_the_whole_window_in_the_time_to_first_token():
    run = replace(RUN, rates_rps=(2.5,) * 8, sent_requests=72_000)
    answer = predict_run(Capacity(), run, CALIBRATION)
    assert answer.ttft_ms == 50.0
    assert answer.ttft_incl_unfinished_ms == pytest.approx(0.5 * 50.0 + 0.5 * 3_600_000.0)


def test_rates_follow_the_requests_really_sent():
    run = replace(RUN, sent_requests=7_200)
    answer = predict_run(Capacity(), run, CALIBRATION)
    assert answer.throughput_tok_s == pytest.approx(2.0 * 300.0)


class Watched(Capacity):
    """Remembers the rate it was asked about last."""

    rate_rps = 0.0

    def predict(self, workload, server):
        self.rate_rps = float(workload.rate_rps.sum())
        return super().predict(workload, server)


@pytest.mark.parametrize("sent_requests", [None, 288_000])
def test_a_client_never_leaves_more_open_than_its_limit_whatever_it_counts(sent_requests):
    run, server = replace(RUN, rates_rps=(10.0,) * 8, sent_requests=sent_requests), Watched()
    answer = predict_run(server, run, CALIBRATION)
    assert answer.throughput_tok_s == pytest.approx(10.0 * 300.0, rel=1e-3)
    unfinished = (server.rate_rps - 10.0) * 3600.0
    assert unfinished == pytest.approx(client_of(run).max_unfinished_requests, rel=0.01)


def test_requests_that_the_client_could_not_send_count_as_unfinished():
    run = replace(RUN, rates_rps=(10.0,) * 8)
    answer = predict_run(Capacity(), run, CALIBRATION)
    completed = 10.0 / 80.0
    expected = completed * 50.0 + (1 - completed) * 3_600_000.0
    assert answer.ttft_incl_unfinished_ms == pytest.approx(expected, rel=1e-3)


def test_a_run_without_memory_is_predicted_to_fail():
    run = replace(RUN, max_loras=3000, max_cpu_loras=3000)
    assert not predict_run(Capacity(), run, CALIBRATION).fits


def test_a_failed_run_without_rates_says_only_whether_it_fits():
    run = replace(RUN, rates_rps=(), outcome=None, error="oom_torch")
    answer = predict_run(Capacity(), run, CALIBRATION)
    assert answer.fits
    assert answer.throughput_tok_s is None


def test_every_figure_of_the_contract_stands_under_tree_teacher_and_baseline():
    report = evaluate_runs([RUN, replace(RUN, run_id="r2")], {"test-model": subject()})
    assert report["tree"]["by_model"]["test-model"].keys() == FIGURES
    assert report["baseline"]["by_model"]["test-model"].keys() == FIGURES
    assert report["teacher"]["by_model"]["test-model"] is None
    assert report["by_model"]["test-model"]["tree"] == report["tree"]["by_model"]["test-model"]
    assert report["tree"]["by_model"]["test-model"]["runs"] == 2


def test_a_run_of_an_unknown_model_is_counted_as_skipped():
    report = evaluate_runs([RUN, replace(RUN, model="another")], {"test-model": subject()})
    assert report["skipped_runs"] == 1
    assert list(report["by_model"]) == ["test-model"]


def test_fits_accuracy_counts_launches_that_failed_for_memory_and_those_that_ran():
    too_many = replace(RUN, max_loras=3000, max_cpu_loras=3000, outcome=None, error="oom_torch", rates_rps=())
    crashed = replace(RUN, outcome=None, error="port_bind", rates_rps=())
    report = evaluate_runs([RUN, too_many, crashed], {"test-model": subject()})
    assert report["tree"]["by_model"]["test-model"]["fits_accuracy"] == 1.0
    wrong = replace(too_many, max_loras=4, max_cpu_loras=4)
    report = evaluate_runs([RUN, wrong], {"test-model": subject()})
    assert report["tree"]["by_model"]["test-model"]["fits_accuracy"] == 0.5


def test_nothing_that_came_out_of_a_run_is_an_input():
    surrogate = small_surrogate(CALIBRATION)
    other = replace(RUN, outcome=replace(RUN.outcome, throughput_tok_s=1.0, itl_ms=1.0))
    predictor = TreePredictor(surrogate=surrogate)
    one, two = (predict_run(predictor, run, CALIBRATION) for run in (RUN, other))
    assert one.throughput_tok_s == two.throughput_tok_s
    assert one.itl_ms == two.itl_ms
    workload = workload_of(RUN, CALIBRATION, seed=0)
    assert np.array_equal(workload.rate_rps, workload_of(other, CALIBRATION, seed=0).rate_rps)


def runs_of_a_seed(seed, **origin):
    """Return a data set of made-up outcomes: eight rows that fill the range, and four chosen ones."""
    design = Design(num_rows=12, seed=seed, max_adapters=4, active_share=0.3)
    columns = np.zeros((12, len(COLUMNS)))
    for row in range(12):
        drawn = scenario(CALIBRATION, seed, row, max_adapters=4)
        columns[row, -NUM_AGGREGATES:] = aggregate(drawn.workload)
        said = {
            "group": drawn.group,
            "max_loras": drawn.server.max_loras,
            "max_lora_rank": drawn.server.max_lora_rank,
            "throughput_tok_s": drawn.workload.offered_tok_s * (0.5 if row % 2 else 1.0),
            "offered_tok_s": drawn.workload.offered_tok_s,
            "starved": row % 2,
            "itl_ms": 20.0,
            "ttft_ms": 50.0,
        }
        for name, value in said.items():
            columns[row, COLUMNS.index(name)] = value
    known = {
        "calibration_id": CALIBRATION.calibration_id,
        "calibration_sha256": calibration_sha256(CALIBRATION),
        "twin_version": "any",
    }
    return Dataset(origin=DatasetOrigin(**(known | origin), design=design), columns=columns)


@pytest.fixture
def manifest(tmp_path):
    provenance = Provenance(
        calibration_sha256="0",
        twin_version="any",
        dataset_sha256="0",
        dataset_rows=1,
        dataset_seed=0,
        metrics={},
    )
    return save(subject().surrogate, tmp_path, provenance)


def test_fresh_twin_runs_judge_trees_and_formulas_by_the_rows_that_fill_the_range(manifest):
    report = evaluate_dataset(runs_of_a_seed(1), subject(), manifest)
    assert report["tree"]["rows"] == report["physics"]["rows"] == 8
    assert report["teacher"] is None
    assert sum(row["rows"] for row in report["reliability"]) == 8


def test_runs_of_the_seed_that_taught_the_surrogate_judge_nothing(manifest):
    with pytest.raises(DatasetError, match="seed: 0"):
        evaluate_dataset(runs_of_a_seed(0), subject(), manifest)


def test_runs_of_another_calibration_judge_nothing(manifest):
    with pytest.raises(DatasetError, match="another"):
        evaluate_dataset(runs_of_a_seed(1, calibration_sha256="0" * 64), subject(), manifest)
