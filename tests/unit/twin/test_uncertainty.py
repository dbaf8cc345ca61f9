"""Intervals of throughput: what widens them, and whether measured runs lie in them."""

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from tests.support.measured_tables import RUN, SHARED_RUNS, needs_measured_runs, write_table
from tests.support.twin_cases import HAS_JIT, calibration, server
from twin.calibration import load_calibration, shipped_calibration_ids
from twin.coverage import coverage, predict_intervals
from twin.domain import Adapter, Workload
from twin.errors import InvalidInputError
from twin.measured import read_runs
from twin.simulate import simulate
from twin.uncertainty import STEP_ERROR, ThroughputInterval, throughput_interval

HORIZON_S = 200.0

pytestmark = pytest.mark.skipif(not HAS_JIT, reason="simulated minutes need the compiler")


def interval(rate_rps, *, step_error_pct=2.5, **options):
    workload = Workload.from_adapters(
        Adapter(adapter_id=str(row), rank=8, rate_rps=rate_rps, input_tokens_mean=60, output_tokens_mean=30)
        for row in range(4)
    )
    known = calibration(errors={STEP_ERROR: step_error_pct})
    return throughput_interval(
        lambda law, seed: simulate(workload, server(), law, horizon_s=HORIZON_S, seed=seed),
        known,
        offered_tok_s=workload.offered_tok_s,
        **options,
    )


def test_an_interval_holds_its_median_and_grows_with_its_level():
    narrow, wide = interval(20.0, level=0.5), interval(20.0, level=0.95)
    assert wide.low_tok_s < narrow.low_tok_s < narrow.median_tok_s < narrow.high_tok_s < wide.high_tok_s
    assert wide.median_tok_s == narrow.median_tok_s


def test_an_overloaded_servers_interval_grows_with_the_laws_error():
    sure, unsure = (interval(200.0, step_error_pct=error_pct) for error_pct in (0.0, 10.0))
    assert unsure.high_tok_s - unsure.low_tok_s > 5 * (sure.high_tok_s - sure.low_tok_s)


def test_starvation_is_sure_where_load_is_far_from_the_border():
    assert interval(2.0).starvation_probability < 0.2
    assert interval(400.0).starvation_probability > 0.99


def test_the_same_draws_give_the_same_interval():
    assert interval(20.0, num_draws=4) == interval(20.0, num_draws=4)


@pytest.mark.parametrize("num_draws", [3, 2000])
def test_an_interval_is_as_wide_as_the_laws_error_and_a_run_of_its_own_make_it(num_draws):
    """A server whose throughput is that of its step law alone: the spread is known."""
    known = calibration(errors={STEP_ERROR: 10.0})
    workload = Workload.from_adapters(
        [Adapter(adapter_id="a", rank=8, rate_rps=1.0, input_tokens_mean=60, output_tokens_mean=30)]
    )
    served = simulate(workload, server(), known, horizon_s=1.0)
    found = throughput_interval(
        lambda law, _: replace(served, throughput_tok_s=1000 * known.step.base_ms / law.step.base_ms),
        known,
        offered_tok_s=100.0,
        num_draws=num_draws,
    )
    standard = NormalDist()
    sd = 0.1 * math.sqrt(math.pi / 2)
    if num_draws == 3:
        sd *= standard.inv_cdf(5 / 6) * math.sqrt(1 + 1 / 3)
    assert math.log(found.high_tok_s / found.low_tok_s) == pytest.approx(
        2 * standard.inv_cdf(0.95) * sd, rel=5e-3
    )
    assert found.median_tok_s == pytest.approx(1000)


def test_certain_starvation_belongs_to_the_last_band(tmp_path):
    (run,) = read_runs(write_table(tmp_path / "runs.csv", [RUN]))
    sure = ThroughputInterval(
        low_tok_s=1.0,
        median_tok_s=2.0,
        high_tok_s=3.0,
        level=0.9,
        starvation_probability=1.0,
        num_draws=3,
    )
    (band,) = coverage([(run, sure)])["starvation"]["bands"]
    assert (band["from"], band["to"], band["runs"]) == (0.8, 1.0, 1)


def test_the_share_inside_is_of_runs_whose_throughput_lies_in_their_interval(tmp_path):
    below, inside, above = read_runs(
        write_table(tmp_path / "runs.csv", [RUN | {"tot_tok_s": tok_s} for tok_s in ("239", "250", "261")])
    )
    around = ThroughputInterval(
        low_tok_s=240.0,
        median_tok_s=250.0,
        high_tok_s=260.0,
        level=0.9,
        starvation_probability=0.25,
        num_draws=3,
    )
    found = coverage([(run, around) for run in (below, inside, above)])
    (regimes,) = found["by_model"].values()
    assert regimes == {"not starved": {"runs": 3, "inside": pytest.approx(1 / 3), "width_pct": 8.0}}
    assert found["starvation"]["brier"] == pytest.approx(0.25**2)


@pytest.mark.parametrize(("options", "field"), [({"num_draws": 2}, "num_draws"), ({"level": 1.0}, "level")])
def test_an_interval_of_no_use_is_refused(options, field):
    with pytest.raises(InvalidInputError) as refusal:
        interval(1.0, **options)
    assert refusal.value.field == field


@needs_measured_runs
def test_measured_runs_lie_in_their_intervals_about_as_often_as_said():
    runs = [run for run in read_runs(SHARED_RUNS / "runs.csv") if run.outcome is not None]
    known = {c.base_model: c for c in map(load_calibration, shipped_calibration_ids())}
    found = coverage(predict_intervals(runs[::12], known, num_draws=5, threads=2))
    regimes = [regime for by_regime in found["by_model"].values() for regime in by_regime.values()]
    inside = np.average([one["inside"] for one in regimes], weights=[one["runs"] for one in regimes])
    assert found["level"] - 0.15 < inside
    assert found["starvation"]["brier"] < 0.05


@needs_measured_runs
def test_a_law_that_claims_to_be_exact_holds_less_often():
    runs = [run for run in read_runs(SHARED_RUNS / "runs.csv") if run.outcome is not None][::12]
    known = {c.base_model: c for c in map(load_calibration, shipped_calibration_ids())}
    exact = {name: replace(one, errors={}) for name, one in known.items()}

    def mean_width(calibrations):
        found = coverage(predict_intervals(runs, calibrations, num_draws=5, threads=2))
        return np.mean([one["starved"]["width_pct"] for one in found["by_model"].values()])

    assert mean_width(exact) < 0.7 * mean_width(known)
