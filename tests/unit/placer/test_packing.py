from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artifact import load_shipped
from models.features import FEATURE_NAMES, aggregate, features_of
from placer.bench import CALIBRATION_ID
from placer.bounds import workload_utilisation
from placer.families import family_workload
from placer.kernels.packing import SLOTS_FOR_ALL
from placer.packing import VARIANTS, assemble, balanced_over_fewer, build_tables, place, run
from tests.support.packing_oracle import MAX_TREE_RISK, Oracle, fewest_gpus
from tests.support.packing_problems import (
    constant_tree,
    make_calibration,
    make_noisy_tree,
    make_problem,
    make_random_workload,
    make_surrogate,
    make_workload,
    threshold_tree,
)
from tests.support.twin_cases import num_examples
from twin.calibration import load_calibration
from twin.domain import MemoryLaw, ServerConfig
from twin.memory import fits_in_memory
from twin.simulate import simulate


@st.composite
def problems(draw, max_adapters=14, *, uncertain=False):
    """Workloads of a few adapters, heavy enough for several GPUs, and a smooth or a noisy surrogate."""
    count = draw(st.integers(1, max_adapters))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    workload = make_workload(
        rng.choice([4, 8, 16, 20, 32], count),
        10 ** rng.uniform(-2, draw(st.sampled_from([0.5, 1.5, 2.0])), count),
        10 ** rng.uniform(1, 3.3, count),
        10 ** rng.uniform(0, 3, count),
    )
    if uncertain:
        workload = replace(workload, rate_rps_std=workload.rate_rps * rng.choice([0.0, 0.1, 1.0], count))
    calibration = make_calibration()
    tree = make_noisy_tree(draw(st.integers(0, 1000))) if draw(st.booleans()) else None
    surrogate = make_surrogate(calibration, tree, max_adapters=draw(st.sampled_from([3, 400])))
    return make_problem(
        workload,
        surrogate,
        calibration=calibration,
        max_gpus=draw(st.sampled_from([None, None, 1, 3])),
        starvation_risk=draw(st.sampled_from([0.01, 0.05, 0.3])),
        max_ttft_ms=draw(st.sampled_from([None, None, 60.0, 500.0])),
        max_model_len=draw(st.sampled_from([None, 2000])),
    )


def rows_of(placement):
    return [row for gpu in placement.gpus for row in gpu.rows.tolist()]


def check_laws(problem, placement):
    """What every answer obeys, asked again of the surrogate, the memory and the bound themselves."""
    oracle = Oracle(problem)
    unplaced = [adapter.row for adapter in placement.unplaced]
    assert sorted(rows_of(placement) + unplaced) == list(range(problem.workload.num_adapters))
    assert unplaced == sorted(unplaced)
    assert [gpu.gpu for gpu in placement.gpus] == list(range(placement.num_gpus))
    assert problem.max_gpus is None or placement.num_gpus <= problem.max_gpus
    for gpu in placement.gpus:
        assert oracle.accepts(gpu.rows.tolist(), gpu.max_loras)
        server = ServerConfig(
            max_loras=gpu.max_loras, max_lora_rank=gpu.max_lora_rank, max_model_len=problem.max_model_len
        )
        assert fits_in_memory(problem.calibration, server)
        assert gpu.max_lora_rank == oracle.slot_rank(gpu.rows.tolist())
        asked_again = problem.surrogate.predict(problem.workload.subset(gpu.rows), server)
        assert asked_again.starvation_probability <= MAX_TREE_RISK
        assert gpu.predicted.starvation_probability <= problem.starvation_risk
        share = oracle.risk_share(gpu.rows, gpu.max_loras)
        of_those_within = share * asked_again.starvation_probability
        assert gpu.predicted.starvation_probability == of_those_within
        assert gpu.predicted.throughput_tok_s == pytest.approx(asked_again.throughput_tok_s)
        assert gpu.predicted.ttft_ms == pytest.approx(asked_again.ttft_ms)
    if placement.feasible:
        assert placement.lower_bound <= placement.num_gpus
        assert placement.gap == placement.num_gpus - placement.lower_bound
    else:
        assert placement.gap is None


@settings(max_examples=num_examples(150), deadline=None)
@given(problems())
def test_every_answer_obeys_the_laws_of_a_plan(problem):
    check_laws(problem, place(problem))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_plan_of_many_adapters_obeys_the_laws_too(seed):
    problem = make_problem(make_random_workload(250, seed))
    placement = place(problem)
    assert placement.feasible
    assert placement.num_gpus > 1
    check_laws(problem, placement)


@settings(max_examples=num_examples(150), deadline=None)
@given(st.one_of(problems(), problems(uncertain=True)), st.sampled_from(VARIANTS))
def test_the_kernel_packs_as_the_rules_in_plain_python_do(problem, variant):
    packing = run(build_tables(problem), variant)
    expected = Oracle(problem).pack(variant)
    gpu_of = np.full(problem.workload.num_adapters, -1)
    for gpu, group in enumerate(expected):
        gpu_of[group.rows] = gpu
    assert np.array_equal(np.maximum(packing.fleet.gpu_of, -1), gpu_of)
    ranks = build_tables(problem).oracle.slot_ranks[packing.fleet.rank_class[: packing.num_gpus]]
    assert ranks.tolist() == [group.max_lora_rank for group in expected]


@settings(max_examples=num_examples(25), deadline=None)
@given(problems(max_adapters=6))
def test_a_plan_has_no_fewer_gpus_than_the_best_partition_and_the_bound_no_more(problem):
    placement = place(problem)
    if placement.feasible:
        fewest = fewest_gpus(Oracle(problem))
        assert placement.lower_bound <= fewest <= placement.num_gpus


def test_small_plans_are_optimal_for_nearly_all_of_fifty_workloads():
    extra = 0
    for seed in range(50):
        workload = make_random_workload(6, seed, ranks=(8, 16))
        fast = make_workload(
            workload.rank, 40 * workload.rate_rps, workload.input_tokens_mean, workload.output_tokens_mean
        )
        problem = make_problem(fast)
        placement = place(problem)
        if placement.feasible:
            extra += placement.num_gpus - fewest_gpus(Oracle(problem))
    assert extra <= 2


@settings(max_examples=num_examples(100), deadline=None)
@given(problems(), st.integers(1, 4))
def test_balancing_over_fewer_gpus_loses_no_adapter_and_goes_no_lower_than_wanted(problem, wanted):
    tables = build_tables(problem)
    filled = run(tables, VARIANTS[0])
    balanced = balanced_over_fewer(tables, filled, wanted)
    assert balanced.quality <= filled.quality
    assert balanced.num_gpus >= min(filled.num_gpus, wanted)
    check_laws(problem, assemble(problem, tables, balanced, tables.bounds))


def test_balancing_needs_fewer_gpus_where_the_lengths_of_requests_differ():
    calibration = load_calibration(CALIBRATION_ID)
    workload = family_workload("mixed-lengths", 1, 1000, calibration)
    problem = make_problem(workload, load_shipped(CALIBRATION_ID), calibration=calibration, num_trials=0)
    tables = build_tables(problem)
    filled = run(tables, VARIANTS[0])
    assert balanced_over_fewer(tables, filled, 1).quality < filled.quality


def test_the_same_problem_gets_the_same_plan():
    problem = make_problem(make_random_workload(80, 5))
    first, second = place(problem), place(problem)
    assert rows_of(first) == rows_of(second)
    assert [gpu.predicted for gpu in first.gpus] == [gpu.predicted for gpu in second.gpus]


@settings(max_examples=num_examples(40), deadline=None)
@given(problems())
def test_each_gpu_has_the_least_risk_of_the_max_loras_near_its_own(problem):
    oracle, tie = Oracle(problem), 0.005 * problem.margins.risk_share
    for gpu in place(problem).gpus:
        rows, choices = gpu.rows.tolist(), oracle.choices(gpu.rows.tolist())
        here = choices.index(gpu.max_loras)
        near = choices[max(here - 3, 0) : here + 4]
        least = min(oracle.risk(rows, max_loras) for max_loras in near)
        assert gpu.predicted.starvation_probability <= max(least + tie, oracle.risk_limit)


@pytest.mark.parametrize(("fewer_slots_risk", "prefers_fewer"), [(0.012, True), (0.03, False)])
def test_a_shorter_request_does_not_pay_for_a_larger_risk(fewer_slots_risk, prefers_fewer):
    calibration = make_calibration()
    surrogate = make_surrogate(calibration, threshold_tree("max_loras", [6], [fewer_slots_risk, 0.01]))
    problem = make_problem(make_workload([8] * 4, 0.05), surrogate, calibration=calibration)
    (gpu,) = place(problem).gpus
    assert (gpu.max_loras <= 6) == prefers_fewer


@pytest.mark.parametrize("limit", [0.00285, 0.00295])
def test_the_final_choice_keeps_the_risk_asked_for(limit):
    calibration = make_calibration()
    surrogate = make_surrogate(calibration, threshold_tree("max_loras", [6], [0.058, 0.055]))
    workload = make_workload([8] * 4, 0.05)
    problem = make_problem(workload, surrogate, calibration=calibration, starvation_risk=limit)
    (gpu,) = place(problem).gpus
    assert (gpu.max_loras <= 6) == (limit > problem.margins.risk_share_with_slots * 0.058)
    assert gpu.predicted.starvation_probability <= limit


@pytest.mark.parametrize(("num_adapters", "has_slots"), [(6, True), (24, False)])
def test_the_tree_counts_less_where_every_adapter_has_a_slot(num_adapters, has_slots):
    calibration = make_calibration()
    surrogate = make_surrogate(calibration, constant_tree(0.1))
    workload = make_workload([8] * num_adapters, 0.01)
    problem = make_problem(workload, surrogate, calibration=calibration, max_loras=8, starvation_risk=0.1)
    (gpu,) = place(problem).gpus
    margins = problem.margins
    share = margins.risk_share_with_slots if has_slots else margins.risk_share
    assert gpu.predicted.starvation_probability == pytest.approx(0.1 * share)


def test_among_equal_risks_with_slots_for_all_the_shortest_request_wins():
    calibration = make_calibration()
    surrogate = make_surrogate(calibration, threshold_tree("rho", [0.9], [0.01, 0.9]))
    problem = make_problem(make_workload([8] * 40, 0.1), surrogate, calibration=calibration)
    oracle = Oracle(problem)
    (gpu,) = place(problem).gpus
    workload = problem.workload.subset(gpu.rows)

    def request_ms(max_loras):
        predicted = surrogate.predict(workload, ServerConfig(max_loras=max_loras, max_lora_rank=8))
        return predicted.ttft_ms + predicted.itl_ms * 200

    rows = gpu.rows.tolist()

    def is_for_all(max_loras):
        row, _ = features_of(aggregate(workload), max_loras, 8, surrogate.calibration)
        return row[FEATURE_NAMES.index("slots_over_active")] >= SLOTS_FOR_ALL

    equal = [max_loras for max_loras in oracle.choices(rows) if oracle.risk(rows, max_loras) < 2]
    equal = [max_loras for max_loras in equal if is_for_all(max_loras)]
    assert len(equal) > 1
    assert request_ms(gpu.max_loras) == pytest.approx(min(map(request_ms, equal)))


def test_slots_for_all_win_over_a_shorter_request_that_the_trees_promise():
    calibration = make_calibration()
    safe = threshold_tree("rho", [0.9], [0.01, 0.9])
    promise = threshold_tree("slots_over_active", [1.0], [1e-3, 1e3])
    surrogate = make_surrogate(calibration, safe, ttft=promise)
    problem = make_problem(make_workload([8] * 40, 0.1), surrogate, calibration=calibration)
    (gpu,) = place(problem).gpus
    assert gpu.predicted.ttft_ms > 1e4
    server = ServerConfig(max_loras=gpu.max_loras, max_lora_rank=8)
    report = simulate(problem.workload, server, calibration, horizon_s=600.0, seed=1)
    assert report.ttft.mean_ms < 1e3


@pytest.mark.parametrize(
    ("changes", "rate", "count"),
    [({}, 3.0, 60), ({"throughput": threshold_tree("rho", [0.5], [1.0, 0.85])}, 3.0, 60), ({}, 0.05, 300)],
    ids=["capacity", "throughput tree", "slots"],
)
def test_a_starvation_tree_that_always_says_yes_is_not_believed_alone(changes, rate, count):
    calibration = make_calibration()
    surrogate = make_surrogate(calibration, constant_tree(0.0), **changes)
    problem = make_problem(make_workload([8] * count, rate), surrogate, calibration=calibration)
    for gpu in place(problem).gpus:
        workload = problem.workload.subset(gpu.rows)
        server = ServerConfig(max_loras=gpu.max_loras, max_lora_rank=gpu.max_lora_rank)
        row, _ = features_of(
            aggregate(workload), gpu.max_loras, gpu.max_lora_rank, problem.surrogate.calibration
        )
        assert row[FEATURE_NAMES.index("rho")] <= problem.margins.max_rho
        assert gpu.max_loras >= len(gpu.rows) or row[FEATURE_NAMES.index("slots_over_active")] >= 0.3
        assert gpu.max_loras >= len(gpu.rows) or row[FEATURE_NAMES.index("slots_over_hot")] >= 1
        assert surrogate.predict(workload, server).served_fraction >= 0.9


def test_adapters_of_a_high_rank_are_kept_together_where_mixing_costs_a_gpu():
    ranks = ([8] * 10 + [32]) * 12
    calibration = make_calibration(memory=MemoryLaw(pool_bytes=24e9))
    tree = threshold_tree("slots_over_count", [0.99], [0.9, 0.01])
    surrogate = make_surrogate(calibration, tree)
    problem = make_problem(make_workload(ranks, 0.01), surrogate, calibration=calibration)
    placement = place(problem)
    check_laws(problem, placement)
    by_variant = {variant.name: run(build_tables(problem), variant).quality[1] for variant in VARIANTS}
    assert placement.num_gpus == min(by_variant.values()) < by_variant["rank-mixed"]


@pytest.mark.parametrize(
    ("prompt", "best_case_load", "code", "words"),
    [
        (150_000.0, 0.1, "request_too_long", "has 150200 tokens, a server takes 131072"),
        (220.0, 2.5, "overload", "needs 2.5 times what one GPU can do at best"),
        (220.0, 0.95, "starvation_risk", "above 0.05, with every max_loras"),
    ],
)
def test_an_adapter_that_no_gpu_carries_is_named_with_the_reason(prompt, best_case_load, code, words):
    rate = best_case_load / workload_utilisation(make_problem(make_workload([8], 1.0, prompt)))
    problem = make_problem(make_workload([8] * 3, [0.1, rate, 0.1], [220.0, prompt, 220.0]))
    placement = place(problem)
    assert rows_of(placement) == [0, 2]
    (unplaced,) = placement.unplaced
    assert (unplaced.row, unplaced.code) == (1, code)
    assert words in unplaced.reason
    assert not placement.feasible


def test_an_adapter_whose_first_token_comes_too_late_on_any_gpu_is_named_with_the_limit():
    workload = make_workload([8] * 2, 0.1, [100.0, 4000.0])
    late = place(make_problem(workload)).gpus[0].predicted.ttft_ms
    first = place(make_problem(workload.subset(np.array([0])))).gpus[0].predicted.ttft_ms
    assert first < late
    placement = place(make_problem(workload, max_ttft_ms=0.5 * (first + late), max_replicas=1))
    assert rows_of(placement) == [0]
    (unplaced,) = placement.unplaced
    assert (unplaced.row, unplaced.code) == (1, "max_ttft_ms")
    assert f"longer than {0.5 * (first + late):g} ms" in unplaced.reason


def test_adapters_beyond_the_last_gpu_are_named():
    problem = make_problem(make_workload([8] * 12, 6.0), max_gpus=1)
    placement = place(problem)
    assert placement.num_gpus == 1
    assert len(placement.unplaced) > 0
    assert {adapter.code for adapter in placement.unplaced} == {"max_gpus"}
    assert placement.unplaced[0].reason == "all 1 GPUs are full"


def test_a_gpu_without_memory_for_one_request_places_nothing_and_says_so():
    calibration = make_calibration(memory=MemoryLaw(pool_bytes=1e9))
    placement = place(make_problem(make_workload([8, 16], 0.1), calibration=calibration))
    assert placement.gpus == ()
    assert [adapter.code for adapter in placement.unplaced] == ["memory", "memory"]
    assert "131072 tokens" in placement.unplaced[0].reason


def test_a_workload_of_too_long_requests_only_has_an_empty_plan():
    placement = place(make_problem(make_workload([8], 0.1, 500_000.0)))
    assert (placement.num_gpus, placement.unplaced[0].code) == (0, "request_too_long")


@pytest.mark.parametrize("rate", [1e-300, 1e6])
def test_extreme_rates_are_answered(rate):
    placement = place(make_problem(make_workload([8, 8], rate, 1e4, 1e3)))
    assert placement.feasible == (rate < 1)


def test_what_leaves_the_trained_range_is_named_on_each_gpu():
    calibration = make_calibration()
    ranges = make_surrogate(calibration).ranges.copy()
    ranges[FEATURE_NAMES.index("input_tokens"), 1] = 300.0
    surrogate = make_surrogate(calibration, ranges=ranges)
    for tokens, named in ((200.0, ()), (400.0, ("input_tokens",))):
        problem = make_problem(make_workload([8, 8], 0.1, tokens), surrogate, calibration=calibration)
        assert [gpu.predicted.out_of_range for gpu in place(problem).gpus] == [named]
