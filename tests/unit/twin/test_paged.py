"""The paged twin around its kernel: the seam, refusals, calibrations, measured runs and the fit."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twin_cases import HAS_JIT, calibration, num_examples, report_as_dict, server
from twin.calibration import (
    calibration_from_json,
    load_calibration,
    shipped_calibration_ids,
)
from twin.client import ClientConditions
from twin.domain import Adapter, Workload
from twin.errors import InvalidInputError, UnidentifiableError, UnknownCalibrationError
from twin.fitting.paged import FORMS, fit_paged
from twin.paged_calibration import (
    load_paged_calibration,
    paged_calibration_from_json,
    paged_calibration_to_json,
    shipped_paged_calibration_ids,
)
from twin.paged_domain import PagedCalibration, PagedLoadLaw, PagedServerConfig, PagedStepLaw
from twin.paged_measured import (
    MeasuredPagedRun,
    PagedOutcome,
    kept_up,
    paged_workload_of,
    read_paged_runs,
    restated_itl_ms,
    restated_throughput_tok_s,
)
from twin.paged_validate import (
    baseline_paged_predictions,
    leave_one_rate_out,
    paged_figures,
    predict_paged_runs,
)
from twin.simulate import simulate, simulate_requests
from twin.workload import RequestStream

MEASURED = Path(__file__).parents[3].parent / "shared" / "data" / "slora" / "runs.csv"

HORIZON_S = 20.0 if HAS_JIT else 3.0

STEP = PagedStepLaw(
    decode_base_ms=12.0,
    decode_request_ms=0.2,
    decode_crowd_ms=0.3,
    decode_rank_ms=0.0,
    prefill_base_ms=20.0,
    prefill_token_ms=0.03,
    prefill_rank_ms=0.0,
)
COLUMNS = (
    *("adapters", "rate_per_adapter", "rank", "inter_num_prompts", "inter_duration", "inter_completed"),
    *("inter_total_output_tokens", "inter_input_throughput", "inter_output_throughput"),
    *("inter_mean_ttft_ms", "inter_median_ttft_ms", "inter_mean_itl_ms", "inter_median_itl_ms"),
    *("model", "dataset", "failed"),
)


def paged_calibration(**changes):
    values = {
        "gpu_type": "any",
        "base_model": "any",
        "engine_version": "slora",
        "pool_tokens": 20_000,
        "adapter_tokens_per_rank": 4,
        "step": STEP,
        "load": PagedLoadLaw(load_rank_ms=0.4),
        "generated_over_requested": 1.0,
        "max_known_rank": 32,
    }
    return PagedCalibration(**(values | changes))


def paged_server(**changes):
    return PagedServerConfig(**({"max_total_token_num": 20_000} | changes))


def workload(num_adapters=6, rate_rps=2.0, **changes):
    values = {"rank": 8, "input_tokens_mean": 60.0, "output_tokens_mean": 30.0} | changes
    return Workload.from_adapters(
        Adapter(adapter_id=str(row), rate_rps=rate_rps, **values) for row in range(num_adapters)
    )


def stream(prompt_tokens, output_tokens, adapter=0):
    return RequestStream(
        arrival_ns=np.zeros(1, np.int64),
        adapter_of=np.full(1, adapter, np.int32),
        prompt_tokens=np.full(1, prompt_tokens, np.int32),
        output_tokens=np.full(1, output_tokens, np.int32),
    )


# --- The seam: one `simulate`, two engines, one report.


@settings(max_examples=num_examples(40), deadline=None)
@given(
    st.builds(
        workload,
        num_adapters=st.integers(1, 8),
        rate_rps=st.sampled_from([0.05, 1.0, 10.0]),
        rank=st.sampled_from([1, 8, 32]),
        input_tokens_mean=st.floats(1, 200),
        output_tokens_mean=st.floats(1, 60),
    ),
    st.builds(
        paged_server,
        max_total_token_num=st.sampled_from([2000, 20_000]),
        running_max_req_size=st.sampled_from([1, 1000]),
        max_new_tokens=st.none() | st.integers(1, 400),
    ),
    st.integers(0, 9),
)
def test_a_paged_reports_books_balance(load, flags, seed):
    made = simulate(load, flags, paged_calibration(), horizon_s=HORIZON_S, seed=seed)
    assert 0 <= made.num_requests_completed <= made.num_requests_sent
    assert 0 <= made.throughput_tok_s <= made.offered_tok_s * (1 + 1e-12)
    assert made.kv_tokens == flags.max_total_token_num
    assert made.num_preemptions == 0
    assert 0 <= made.mean_kv_usage <= made.max_kv_usage < 1
    assert 0 <= made.mean_adapters_in_batch <= min(load.num_adapters, made.mean_num_requests_running) + 1e-9


def test_the_same_seed_gives_the_same_paged_report():
    one, other = (
        report_as_dict(simulate(workload(), paged_server(), paged_calibration(), horizon_s=HORIZON_S, seed=4))
        for _ in range(2)
    )
    assert one == other


@pytest.mark.skipif(not HAS_JIT, reason="a long overload is slow without the compiler")
def test_a_larger_pool_serves_more_in_overload():
    overload = workload(num_adapters=40, rate_rps=2.0, rank=32, input_tokens_mean=250.0)
    served = [
        simulate(
            overload, paged_server(max_total_token_num=tokens), paged_calibration(), horizon_s=60
        ).throughput_tok_s
        for tokens in (4000, 8000, 16_000)
    ]
    assert served == sorted(served)
    assert served[-1] > 1.2 * served[0]


@pytest.mark.parametrize(
    ("load", "flags", "binding"),
    [
        ({"rate_rps": 10.0}, {"max_total_token_num": 3000}, "kv_memory"),
        ({"rate_rps": 10.0}, {"running_max_req_size": 1}, "sequences"),
        ({"rate_rps": 0.02}, {}, "none"),
    ],
)
def test_what_binds_a_paged_server_is_named(load, flags, binding):
    made = simulate(
        workload(num_adapters=10, **load), paged_server(**flags), paged_calibration(), horizon_s=HORIZON_S
    )
    assert made.binding_constraint == binding


def test_declaring_more_than_is_generated_runs_fewer_requests():
    overload = workload(num_adapters=10, rate_rps=10.0)
    running = [
        simulate(
            overload,
            paged_server(max_total_token_num=3000, max_new_tokens=limit),
            paged_calibration(),
            horizon_s=HORIZON_S,
        ).mean_num_requests_running
        for limit in (None, 500)
    ]
    assert running[1] < 0.7 * running[0]


@pytest.mark.parametrize(
    ("flags", "known"),
    [(paged_server(), calibration()), (server(), paged_calibration())],
    ids=["paged server, vLLM's calibration", "vLLM's server, paged calibration"],
)
def test_a_server_of_one_engine_with_the_calibration_of_another_is_refused(flags, known):
    with pytest.raises(InvalidInputError, match="calibration must be of"):
        simulate(workload(), flags, known)
    with pytest.raises(InvalidInputError, match="calibration must be of"):
        simulate_requests(stream(10, 5), np.array([8], np.int32), flags, known, horizon_s=1.0)


def test_conditions_of_the_client_are_refused_not_ignored():
    with pytest.raises(InvalidInputError, match=r"^client must be steady"):
        simulate(workload(), paged_server(), paged_calibration(), client=ClientConditions(cold_start=True))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_total_token_num": 1}, "max_total_token_num"),
        ({"batch_max_tokens": 100}, "batch_max_tokens"),
        ({"running_max_req_size": 0}, "running_max_req_size"),
        ({"max_wait_tokens": 0}, "max_wait_tokens"),
        ({"max_req_total_len": 1}, "max_req_total_len"),
        ({"max_new_tokens": 5000}, "max_new_tokens"),
    ],
)
def test_impossible_paged_flags_are_refused_by_name(changes, field):
    with pytest.raises(InvalidInputError) as refused:
        paged_server(**changes)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("flags", "load", "field"),
    [
        ({"max_total_token_num": 20_001}, {}, "max_total_token_num"),
        ({"max_total_token_num": 130}, {"rank": 32}, "max_total_token_num"),
        ({}, {"rank": 64}, "adapters[0].rank"),
    ],
    ids=["a pool never measured", "no room beside an adapter", "a rank never measured"],
)
def test_a_paged_server_that_cannot_serve_the_workload_is_refused_by_name(flags, load, field):
    with pytest.raises(InvalidInputError) as refused:
        simulate(workload(**load), paged_server(**flags), paged_calibration())
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("requests", "field"),
    [(stream(3000, 73), "prompt_tokens"), (stream(10, 5, adapter=1), "adapter_of")],
    ids=["longer than max_req_total_len", "an adapter that is not there"],
)
def test_a_request_that_can_never_be_admitted_is_refused_by_name(requests, field):
    with pytest.raises(InvalidInputError) as refused:
        simulate_requests(
            requests, np.array([8], np.int32), paged_server(), paged_calibration(), horizon_s=1.0
        )
    assert refused.value.field == field


@settings(max_examples=num_examples(40), deadline=None)
@given(st.integers(1, 32), st.integers(200, 4000), st.integers(1, 3000))
def test_the_longest_request_allowed_is_served_alone(rank, pool, output):
    flags = paged_server(max_total_token_num=pool)
    longest = min(flags.max_req_total_len, pool - 1 - 4 * rank)
    output = min(output, longest - 1)
    ranks = np.array([rank], np.int32)
    requests = stream(longest - output, output)
    made = simulate_requests(requests, ranks, flags, paged_calibration(), horizon_s=100.0)
    assert made.num_requests_completed == 1


@pytest.mark.parametrize("name", ["decode_request_ms", "prefill_token_ms"])
def test_a_negative_coefficient_of_the_paged_law_is_refused_by_name(name):
    with pytest.raises(InvalidInputError, match=rf"step\.{name}"):
        replace(STEP, **{name: -0.1})


# --- Calibrations lie beside vLLM's and disturb nobody.


def test_a_paged_calibration_reads_back_equal():
    text = paged_calibration_to_json(paged_calibration(standard_errors={"step.decode_base_ms": 0.1}))
    assert paged_calibration_to_json(paged_calibration_from_json(text)) == text


def test_the_shipped_paged_calibration_carries_its_id_and_provenance():
    assert shipped_paged_calibration_ids()
    for calibration_id in shipped_paged_calibration_ids():
        known = load_paged_calibration(calibration_id)
        assert known.calibration_id == calibration_id
        assert {"data", "command", "date"} <= known.provenance.keys()


def test_vllms_calibrations_are_listed_without_other_engines():
    assert not set(shipped_calibration_ids()) & set(shipped_paged_calibration_ids())
    with pytest.raises(UnknownCalibrationError):
        load_calibration(shipped_paged_calibration_ids()[0])


def test_each_reader_refuses_the_other_engines_file():
    with pytest.raises(InvalidInputError, match=r"^engine"):
        calibration_from_json(paged_calibration_to_json(paged_calibration()))
    with pytest.raises(InvalidInputError, match=r"^engine"):
        paged_calibration_from_json(json.dumps({"schema_version": 1}))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"pool_tokens": 0}, "pool_tokens"),
        ({"step": None}, "step"),
        ({"load": {"load_rank_ms": 1.0, "more": 1}}, "load.more"),
        ({"more": 1}, "calibration.more"),
        ({"schema_version": 2}, "schema_version"),
    ],
)
def test_a_wrong_field_of_a_paged_calibration_is_named(change, field):
    document = json.loads(paged_calibration_to_json(paged_calibration())) | change
    with pytest.raises(InvalidInputError) as refused:
        paged_calibration_from_json(json.dumps(document))
    assert refused.value.field == field


def test_a_paged_calibration_that_is_nowhere_is_refused():
    with pytest.raises(UnknownCalibrationError, match=shipped_paged_calibration_ids()[0]):
        load_paged_calibration("/nowhere/slora.json")


# --- Measured runs.


def table_row(**changes):
    row = {
        **dict.fromkeys(COLUMNS, "10"),
        "rate_per_adapter": "0.5",
        "rank": "32",
        "inter_num_prompts": "7200",
        "inter_duration": "1440.0",
        "inter_completed": "7000",
        "inter_total_output_tokens": str(7000 * 200),
        "model": "m",
        "dataset": "dummy (250 in / 231 out)",
        "failed": "False",
    }
    return row | changes


def write_table(path, *rows, columns=COLUMNS):
    with path.open("w", newline="", encoding="utf-8") as stream_:
        writer = csv.DictWriter(stream_, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_run_table_is_read_into_configuration_and_outcome(tmp_path):
    path = write_table(
        tmp_path / "runs.csv", table_row(), table_row(inter_duration="1200.2"), table_row(failed="True")
    )
    whole, cut, failed = read_paged_runs(path)
    assert (whole.num_adapters, whole.rank, whole.input_tokens, whole.output_tokens) == (10, 32, 250, 231)
    assert (whole.sent_requests, cut.sent_requests, failed.outcome) == (7200, None, None)
    assert whole.outcome.completed_rps == 7000 / 1440
    assert whole.outcome.counted_output_tokens == 200


@pytest.mark.parametrize(
    ("row", "columns", "field"),
    [
        (table_row(inter_completed="many"), COLUMNS, "runs line 2, inter_completed"),
        (table_row(inter_duration="nan"), COLUMNS, "runs line 2, inter_duration"),
        (table_row(adapters="0"), COLUMNS, "runs line 2, adapters"),
        (table_row(adapters="1e9"), COLUMNS, "runs line 2, adapters"),
        (table_row(rate_per_adapter="-1"), COLUMNS, "runs line 2, rate_per_adapter"),
        (table_row(rank="0"), COLUMNS, "runs line 2, rank"),
        (table_row(inter_duration="0"), COLUMNS, "runs line 2, inter_duration"),
        (table_row(inter_completed="0"), COLUMNS, "runs line 2, inter_completed"),
        (table_row(dataset="long"), COLUMNS, "runs line 2, dataset"),
        (table_row(failed="True"), COLUMNS, "runs"),
        (table_row(), COLUMNS[1:], "runs.adapters"),
    ],
)
def test_a_paged_run_table_of_no_use_is_refused_by_name(tmp_path, row, columns, field):
    path = write_table(tmp_path / "runs.csv", row, columns=columns)
    with pytest.raises(InvalidInputError) as refused:
        read_paged_runs(path)
    assert refused.value.field == field


def test_a_runs_workload_sends_what_was_counted_or_else_configured(tmp_path):
    whole, cut = read_paged_runs(
        write_table(
            tmp_path / "runs.csv", table_row(inter_num_prompts="7000"), table_row(inter_duration="1200")
        )
    )
    assert paged_workload_of(whole, paged_calibration()).rate_rps.sum() == pytest.approx(7000 / 1440)
    assert paged_workload_of(cut, paged_calibration()).rate_rps.sum() == pytest.approx(5.0)


def outcome(**changes):
    values = {
        "completed_rps": 10.0,
        "throughput_tok_s": 10.0 * (250 + 115.5),
        "counted_output_tokens": 115.5,
        "itl_mean_ms": 100.0,
        "itl_median_ms": 40.0,
        "ttft_incl_unfinished_ms": 1000.0,
        "ttft_median_ms": 100.0,
    }
    return PagedOutcome(**(values | changes))


def measured_run(**changes):
    values = {
        "model": "any",
        "num_adapters": 10,
        "rate_rps": 0.5,
        "rank": 32,
        "input_tokens": 250,
        "output_tokens": 231,
        "duration_s": 300.0,
        "sent_requests": None,
        "outcome": outcome(),
    }
    return MeasuredPagedRun(**(values | changes))


def test_restating_gives_back_the_tokens_that_came_in_one_piece():
    assert restated_itl_ms(outcome(), 230.0) == pytest.approx(100.0 * 114.5 / 229)
    assert restated_throughput_tok_s(measured_run(), outcome(), 231) == pytest.approx(4810)
    assert not kept_up(outcome(), 231)
    assert kept_up(outcome(counted_output_tokens=230.0), 231)


def test_the_paged_baseline_is_capped_by_starved_runs_of_other_rates():
    light = measured_run()
    heavy = [
        measured_run(rate_rps=rate, outcome=outcome(throughput_tok_s=tok_s))
        for rate, tok_s in ((2.0, 5000.0), (4.0, 6000.0))
    ]
    predicted = [row.throughput_tok_s for row in baseline_paged_predictions([light, *heavy])]
    assert predicted == [light.ideal_tok_s, 6000.0, 5000.0]


@pytest.mark.skipif(not HAS_JIT, reason="hours of service are slow without the compiler")
@pytest.mark.skipif(not MEASURED.is_file(), reason=f"no measured runs at {MEASURED}")
def test_the_shipped_paged_calibration_explains_its_measured_runs():
    runs = read_paged_runs(MEASURED)
    known = load_paged_calibration("unknown-gpu/llama-2-7b/slora")
    figures = paged_figures(predict_paged_runs(runs, lambda _: known))
    assert figures["runs"] == 36
    assert figures["throughput_smape_half_pct"] < 2
    assert figures["throughput_restated_smape_half_pct"] < 1
    assert figures["itl_restated_smape_half_pct"] < 2
    assert figures["starvation_accuracy"] == 1.0


# --- The fit gives back the law that made its data.


def synthetic_run(num_adapters, rate_rps, known):
    run = measured_run(num_adapters=num_adapters, rate_rps=rate_rps)
    made = simulate(
        paged_workload_of(run, known),
        paged_server(max_total_token_num=known.pool_tokens),
        known,
        horizon_s=run.duration_s,
        seed=5,
    )
    completed_rps = made.num_requests_completed / run.duration_s
    return replace(
        run,
        outcome=outcome(
            completed_rps=completed_rps,
            throughput_tok_s=made.throughput_tok_s,
            counted_output_tokens=231.0,
            itl_mean_ms=made.itl.mean_ms,
            itl_median_ms=made.itl.p50_ms,
            ttft_incl_unfinished_ms=made.ttft_incl_unfinished_ms,
            ttft_median_ms=made.ttft.p50_ms,
        ),
    )


@pytest.fixture(scope="module")
def synthetic_runs():
    known = paged_calibration(pool_tokens=82_528)
    return [
        synthetic_run(num_adapters, rate_rps, known)
        for rate_rps in (0.05, 0.1, 0.4)
        for num_adapters in (8, 32, 64, 128, 256)
    ]


needs_jit = pytest.mark.skipif(not HAS_JIT, reason="a fit runs hundreds of simulations")


@needs_jit
def test_the_fit_gives_back_the_law_that_made_the_runs(synthetic_runs):
    fitted = fit_paged(synthetic_runs)
    assert fitted.step.decode_base_ms == pytest.approx(STEP.decode_base_ms, rel=0.05)
    assert fitted.step.decode_request_ms == pytest.approx(STEP.decode_request_ms, rel=0.2)
    assert 0.4 / 3 < fitted.load.load_rank_ms < 0.4 * 3  # few steps load an adapter: known to a factor
    assert fitted.errors["itl_smape_half_pct"] < 1.5
    assert set(fitted.standard_errors) == {
        ("load." if name == "load_rank_ms" else "step.") + name for name in FORMS["steps + crowd + load"]
    }


@needs_jit
def test_leaving_a_rate_out_predicts_it_by_the_other_rates(synthetic_runs):
    seen = []

    def fit(rest):
        seen.append({run.rate_rps for run in rest})
        return paged_calibration(pool_tokens=82_528)

    rows = leave_one_rate_out(synthetic_runs, fit)
    assert seen == [{0.1, 0.4}, {0.05, 0.4}, {0.05, 0.1}]
    assert len(rows) == len(synthetic_runs)


@needs_jit
def test_the_law_that_made_the_runs_predicts_them(synthetic_runs):
    rows = predict_paged_runs(synthetic_runs, lambda _: paged_calibration(pool_tokens=82_528))
    figures = paged_figures(rows)
    assert figures["itl_restated_smape_half_pct"] < 3
    assert figures["starvation_accuracy"] > 0.9


@needs_jit
def test_runs_that_never_load_beyond_one_adapter_cannot_tell_its_load():
    known = paged_calibration(pool_tokens=82_528)
    runs = [synthetic_run(1, 0.5 + 0.5 * row, known) for row in range(12)]
    with pytest.raises(UnidentifiableError, match="_ms cannot be told"):
        fit_paged(runs, form="steps + crowd + decode rank + load")


def test_too_few_runs_are_refused():
    with pytest.raises(UnidentifiableError, match=r"step\.decode_base_ms needs"):
        fit_paged([measured_run()] * 3)


def test_an_unknown_form_and_a_mixture_of_models_are_refused():
    with pytest.raises(InvalidInputError, match=r"^form"):
        fit_paged([measured_run()] * 12, form="all")
    with pytest.raises(InvalidInputError, match=r"^runs must be of one base model"):
        fit_paged([measured_run(model=str(row % 2)) for row in range(12)])
