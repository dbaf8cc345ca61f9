"""A trace over a fleet: replicated, shared among adapters, split into what is known and what comes."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.trace_files import SHARED_TRACES, needs_traces
from twin.domain import Adapter, Workload
from twin.errors import InvalidInputError
from twin.fleet_traces import FleetRecipe, draw_adapters, fleet_case, replicate, stream_of
from twin.traces import Trace, read_any_trace


def trace_of(count, *, every_s=1.0, adapter_ids=None):
    return Trace(
        arrival_ns=(np.arange(count) * every_s * 1e9).astype(np.int64),
        prompt_tokens=np.arange(1, count + 1, dtype=np.int32),
        output_tokens=np.full(count, 7, np.int32),
        adapter_ids=adapter_ids,
    )


def workload_of(*rates):
    return Workload.from_adapters(
        Adapter(adapter_id=f"a{row}", rank=8, rate_rps=rate, input_tokens_mean=200, output_tokens_mean=100)
        for row, rate in enumerate(rates)
    )


def test_replication_keeps_each_request_and_its_moment():
    trace = trace_of(50)
    copied = replicate(trace, 10)
    assert copied.num_requests == 500
    values, counts = np.unique(copied.arrival_ns, return_counts=True)
    assert (values == trace.arrival_ns).all()
    assert set(counts.tolist()) == {10}
    assert np.bincount(copied.prompt_tokens)[1:].tolist() == [10] * 50


def test_every_adapter_gets_a_request_and_the_rest_go_by_popularity():
    popularity = np.array([1.0, 10.0, 100.0, 1e-9])
    owners = draw_adapters(20_000, popularity, np.random.default_rng(1))
    counts = np.bincount(owners, minlength=4)
    assert counts.sum() == 20_000
    assert counts[3] == 1
    shares = popularity[:3] / popularity.sum()
    spread = 5 * (20_000 * shares * (1 - shares)) ** 0.5
    assert (np.abs(counts[:3] - 20_000 * shares) < spread + 2).all()


def test_owners_do_not_depend_on_time():
    owners = draw_adapters(20_000, np.ones(2), np.random.default_rng(1)).astype(float)
    assert abs(np.corrcoef(owners[:-1], owners[1:])[0, 1]) < 5 / 20_000**0.5
    assert abs(owners[:10_000].mean() - owners[10_000:].mean()) < 5 / 10_000**0.5


def test_a_trace_with_fewer_requests_than_adapters_is_refused():
    with pytest.raises(InvalidInputError) as refusal:
        stream_of(trace_of(2), workload_of(1, 1, 1), seed=0)
    assert refusal.value.field == "trace"


def test_a_trace_that_names_adapters_keeps_them():
    requests = stream_of(trace_of(3, adapter_ids=("a1", "a0", "a1")), workload_of(1, 5), seed=0)
    assert requests.adapter_of.tolist() == [1, 0, 1]
    with pytest.raises(InvalidInputError) as refusal:
        stream_of(trace_of(1, adapter_ids=("b",)), workload_of(1), seed=0)
    assert refusal.value.field == "trace.adapter_id"


def case(**changes):
    recipe = FleetRecipe(**({"copies": 3, "estimate_s": 400.0, "judge_s": 300.0, "seed": 2} | changes))
    return fleet_case(trace_of(1000), workload_of(*[1.0] * 50, 1e-9), recipe, max_model_len=500)


@pytest.mark.parametrize("trace_lengths", [False, True])
def test_every_request_is_before_the_judged_window_in_it_or_after_it(trace_lengths):
    drawn = case(trace_lengths=trace_lengths)
    assert (drawn.num_estimated, drawn.requests.num_requests, drawn.num_after) == (1200, 900, 900)
    assert drawn.requests.arrival_ns[0] == 0
    assert drawn.requests.arrival_ns[-1] == 299 * 10**9


def test_rates_are_those_of_the_first_window_and_an_unseen_adapter_counts_one_request():
    drawn = case()
    counts = np.round(drawn.known.rate_rps * 400.0).astype(int)
    assert drawn.known.rate_rps * 400.0 == pytest.approx(counts)
    assert counts.min() == 1
    assert counts.sum() - 1200 in {0, 1}  # the rare adapter: seen once, or not and counted once


def test_lengths_are_the_traces_own_or_drawn_by_the_adapters_laws():
    own = case(trace_lengths=True)
    assert own.requests.prompt_tokens.tolist() == np.repeat(np.arange(401, 701), 3).tolist()
    assert set(own.requests.output_tokens.tolist()) == {7}
    assert own.known.output_tokens_mean.tolist() == [7.0] * 51
    drawn = case()
    assert len(np.unique(drawn.requests.prompt_tokens)) > 100
    assert (drawn.requests.prompt_tokens + drawn.requests.output_tokens).max() <= 500
    assert drawn.known.input_tokens_mean.tolist() == [200.0] * 51


def test_means_that_a_planner_knows_are_those_of_the_first_window():
    recipe = FleetRecipe(estimate_s=400.0, judge_s=300.0, trace_lengths=True)
    known = fleet_case(trace_of(1000), workload_of(1.0), recipe).known
    assert known.input_tokens_mean.tolist() == [np.arange(1, 401).mean()]
    rare = fleet_case(
        trace_of(1000, every_s=0.001), workload_of(1.0, 1e-9), replace(recipe, estimate_s=0.002)
    )
    assert rare.known.input_tokens_mean.tolist() == [1.5, 1.5]  # unseen: the mean of all


def test_the_same_seed_gives_the_same_case():
    assert case().requests.adapter_of.tolist() == case().requests.adapter_of.tolist()
    assert case().requests.adapter_of.tolist() != case(seed=3).requests.adapter_of.tolist()


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"copies": 0}, "copies"), ({"estimate_s": 0.0}, "estimate_s"), ({"judge_s": float("inf")}, "judge_s")],
)
def test_a_recipe_names_what_is_wrong(changes, field):
    with pytest.raises(InvalidInputError) as refusal:
        case(**changes)
    assert refusal.value.field == field


def test_a_window_without_a_request_to_judge_is_refused():
    with pytest.raises(InvalidInputError) as refusal:
        case(estimate_s=5000.0)
    assert refusal.value.field == "judge_s"


@needs_traces
def test_the_published_recipe_runs_on_azures_trace():
    trace = read_any_trace(SHARED_TRACES / "azure_llm_2023_conv.csv.gz")
    recipe = FleetRecipe(copies=10, estimate_s=1750.0, judge_s=1750.0)
    drawn = fleet_case(trace, workload_of(*[1.0] * 1280), recipe, max_model_len=32_768)
    total = drawn.num_estimated + drawn.requests.num_requests + drawn.num_after
    assert total == 10 * trace.num_requests
    assert drawn.known.rate_rps.sum() == pytest.approx(drawn.num_estimated / 1750.0, rel=1e-3)
