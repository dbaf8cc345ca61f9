"""The domain's nouns refuse every bad value and name the field."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twin_cases import SHAPE, STEP, calibration, num_examples
from twin.domain import (
    MAX_CV,
    MAX_RANK,
    MAX_RATE_RPS,
    MAX_TOKENS,
    Adapter,
    LoadLaw,
    MemoryLaw,
    ModelShape,
    SchedulerLaw,
    ServerConfig,
    StepLaw,
    Workload,
)
from twin.errors import InvalidInputError, TwinError

GOOD = {
    "adapter_id": "a",
    "rank": 8,
    "rate_rps": 1.5,
    "input_tokens_mean": 200.0,
    "output_tokens_mean": 100.0,
}


def refusal_of(build, *arguments, **keywords):
    with pytest.raises(InvalidInputError) as refusal:
        build(*arguments, **keywords)
    assert isinstance(refusal.value, TwinError)
    assert isinstance(refusal.value, ValueError)
    assert str(refusal.value).startswith(refusal.value.field)
    return refusal.value


# --- Adapter and Workload.

BAD_NUMBERS = [0, -1, math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("rate_rps", [*BAD_NUMBERS, 1e308, MAX_RATE_RPS * 1.01])
def test_an_adapter_refuses_a_rate_that_no_server_sees(rate_rps):
    assert refusal_of(Adapter, **(GOOD | {"rate_rps": rate_rps})).field == "adapters[0].rate_rps"


@pytest.mark.parametrize("rank", [0, -8, MAX_RANK + 1])
def test_an_adapter_refuses_a_rank_that_vllm_refuses(rank):
    assert refusal_of(Adapter, **(GOOD | {"rank": rank})).field == "adapters[0].rank"


@pytest.mark.parametrize("rank", [8.5, "8", True, math.nan, None, 2**70])
def test_an_adapter_refuses_a_rank_that_is_no_integer(rank):
    assert refusal_of(Adapter, **(GOOD | {"rank": rank})).field == "rank"


@pytest.mark.parametrize("field", ["input_tokens_mean", "output_tokens_mean"])
@pytest.mark.parametrize("tokens", [*BAD_NUMBERS, 0.99, MAX_TOKENS + 1])
def test_an_adapter_refuses_a_length_that_no_model_takes(field, tokens):
    assert refusal_of(Adapter, **(GOOD | {field: tokens})).field == f"adapters[0].{field}"


@pytest.mark.parametrize("field", ["input_tokens_cv", "output_tokens_cv", "arrival_cv"])
@pytest.mark.parametrize("cv", [-0.1, math.inf, MAX_CV + 1])
def test_an_adapter_refuses_a_variation_that_no_traffic_has(field, cv):
    assert refusal_of(Adapter, **(GOOD | {field: cv})).field == f"adapters[0].{field}"


def test_an_adapter_refuses_an_arrival_cv_that_is_no_number():
    assert refusal_of(Adapter, **(GOOD | {"arrival_cv": math.nan})).field == "adapters[0].arrival_cv"


@pytest.mark.parametrize("adapter_id", ["", "x" * 257, "a\nb", "\x00", "\x7f", "\x85"])
def test_an_adapter_refuses_an_id_that_is_empty_too_long_or_holds_control_characters(adapter_id):
    assert refusal_of(Adapter, **(GOOD | {"adapter_id": adapter_id})).field == "adapters[0].id"


def test_a_workload_without_adapters_is_refused():
    assert refusal_of(Workload.from_adapters, []).field == "adapters"


def test_a_workload_names_the_row_whose_id_is_repeated():
    rows = [Adapter(**(GOOD | {"adapter_id": name})) for name in ("a", "b", "c", "b", "d")]
    refusal = refusal_of(Workload.from_adapters, rows)
    assert refusal.field == "adapters[3].id"
    assert "'b'" in refusal.message


@pytest.mark.parametrize(
    ("column", "bad"),
    [
        ("rank", 0),
        ("rate_rps", math.nan),
        ("input_tokens_mean", 0),
        ("output_tokens_mean", -3),
        ("input_tokens_cv", -1),
        ("output_tokens_cv", 1e9),
        ("arrival_cv", math.nan),
        ("rate_rps_std", -0.5),
        ("rate_rps_std", math.inf),
    ],
)
def test_a_workload_names_the_row_and_the_column_that_is_wrong(column, bad):
    columns = columns_of(4)
    columns[column] = columns.get(column, np.zeros(4)).copy()
    columns[column][2] = bad
    assert refusal_of(Workload, **columns).field == f"adapters[2].{column}"


@pytest.mark.parametrize("column", ["rank", "rate_rps", "arrival_cv", "input_tokens_cv"])
def test_a_workload_refuses_columns_of_another_length(column):
    columns = columns_of(4)
    columns[column] = columns[column][:3]
    assert refusal_of(Workload, **columns).field == column


def columns_of(count):
    rows = [Adapter(**(GOOD | {"adapter_id": str(row)})) for row in range(count)]
    workload = Workload.from_adapters(rows)
    return {name: getattr(workload, name) for name in Workload.__slots__}


def test_the_columns_of_a_workload_are_read_only():
    columns = columns_of(3)
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                column[0] = 1
            assert column.dtype == {"rank": np.int32, "arrival_law": np.int8}.get(name, np.float64)


def test_a_workload_keeps_no_array_of_its_caller():
    columns = {
        name: np.array(column) if isinstance(column, np.ndarray) else column
        for name, column in columns_of(3).items()
    }
    workload = Workload(**columns)
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            before = getattr(workload, name).copy()
            column[:] = 1
            np.testing.assert_array_equal(getattr(workload, name), before)


@pytest.mark.parametrize(
    ("laws", "field"), [([0, 256, 0], "adapters[1].arrival_law"), ([0.0] * 3, "arrival_law")]
)
def test_a_law_of_gaps_is_an_index_and_is_never_wrapped(laws, field):
    columns = columns_of(3) | {"arrival_law": np.array(laws)}
    assert refusal_of(Workload, **columns).field == field


adapters = st.lists(
    st.builds(
        Adapter,
        adapter_id=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8),
        rank=st.integers(1, MAX_RANK),
        rate_rps=st.floats(1e-6, MAX_RATE_RPS),
        input_tokens_mean=st.floats(1, MAX_TOKENS),
        output_tokens_mean=st.floats(1, MAX_TOKENS),
        input_tokens_cv=st.none() | st.floats(0, MAX_CV),
        output_tokens_cv=st.none() | st.floats(0, MAX_CV),
        arrival_cv=st.floats(0, MAX_CV),
        rate_rps_std=st.floats(0, MAX_RATE_RPS),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda adapter: adapter.adapter_id,
)


@settings(max_examples=num_examples(50), deadline=None)
@given(adapters, st.data())
def test_a_subset_is_the_workload_of_its_rows(rows, data):
    picked = data.draw(st.permutations(range(len(rows))))[: data.draw(st.integers(1, len(rows)))]
    subset = Workload.from_adapters(rows).subset(np.array(picked))
    direct = Workload.from_adapters([rows[row] for row in picked])
    assert subset.adapter_ids == direct.adapter_ids
    for name in Workload.__slots__[3:]:
        np.testing.assert_array_equal(getattr(subset, name), getattr(direct, name))


@settings(max_examples=num_examples(50), deadline=None)
@given(adapters, adapters)
def test_joined_workloads_are_the_workload_of_all_rows(first, second):
    second = [replace(row, adapter_id=f"more-{number}") for number, row in enumerate(second)]
    joined = Workload.from_adapters(first).joined(Workload.from_adapters(second))
    direct = Workload.from_adapters([*first, *second])
    assert joined.adapter_ids == direct.adapter_ids
    for name in Workload.__slots__[3:]:
        np.testing.assert_array_equal(getattr(joined, name), getattr(direct, name))


@settings(max_examples=num_examples(50), deadline=None)
@given(adapters)
def test_the_offered_load_is_the_sum_over_adapters(rows):
    offered = sum(row.rate_rps * (row.input_tokens_mean + row.output_tokens_mean) for row in rows)
    assert Workload.from_adapters(rows).offered_tok_s == pytest.approx(offered)


# --- ServerConfig.


@pytest.mark.parametrize("value", [0, -1, 2.5, True, None, "8"])
@pytest.mark.parametrize(
    "field", ["max_loras", "max_lora_rank", "max_num_seqs", "max_num_batched_tokens", "block_size"]
)
def test_a_server_refuses_a_flag_that_is_no_positive_integer(field, value):
    flags = {"max_loras": 4, "max_lora_rank": 8} | {field: value}
    refusal = refusal_of(ServerConfig, **flags)
    assert refusal.field == field
    assert repr(value) in refusal.message


def test_a_server_refuses_more_sequences_than_tokens_in_a_step():
    flags = {"max_loras": 4, "max_lora_rank": 8, "max_num_seqs": 300, "max_num_batched_tokens": 299}
    assert refusal_of(ServerConfig, **flags).field == "max_num_seqs"


def test_a_server_refuses_less_host_memory_than_slots():
    assert refusal_of(ServerConfig, max_loras=4, max_lora_rank=8, max_cpu_loras=3).field == "max_cpu_loras"


@pytest.mark.parametrize(
    "field", ["max_loras", "max_lora_rank", "max_cpu_loras", "max_num_batched_tokens", "block_size"]
)
@pytest.mark.parametrize("value", [10**7, 10**30])
def test_a_server_refuses_a_flag_beyond_any_server(field, value):
    flags = {"max_loras": 4, "max_lora_rank": 8} | {field: value}
    assert refusal_of(ServerConfig, **flags).field == field


@pytest.mark.parametrize("max_model_len", [0, -5, 1, 1.5, MAX_TOKENS + 1])
def test_a_server_refuses_a_longest_request_without_tokens(max_model_len):
    flags = {"max_loras": 4, "max_lora_rank": 8, "max_model_len": max_model_len}
    assert refusal_of(ServerConfig, **flags).field == "max_model_len"


# --- Calibration.

LAWS = {
    "step": (StepLaw, dict.fromkeys(StepLaw.__slots__, 1.0)),
    "scheduler": (SchedulerLaw, dict.fromkeys(SchedulerLaw.__slots__, 1.0)),
    "load": (LoadLaw, dict.fromkeys(LoadLaw.__slots__, 1.0)),
    "memory": (MemoryLaw, {"pool_bytes": 1e9}),
}


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, "1", None])
@pytest.mark.parametrize("name", LAWS)
def test_a_law_refuses_a_coefficient_that_is_negative_or_no_number(name, value):
    kind, coefficients = LAWS[name]
    for field in coefficients:
        assert refusal_of(kind, **(coefficients | {field: value})).field == f"{name}.{field}"


def test_a_step_that_takes_no_time_is_refused():
    coefficients = LAWS["step"][1] | {"base_ms": 0.0}
    assert refusal_of(StepLaw, **coefficients).field == "step.base_ms"


@pytest.mark.parametrize("field", [name for name in ModelShape.__slots__ if name != "has_embedding_lora"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_a_model_refuses_a_shape_that_is_no_positive_integer(field, value):
    shape = {name: getattr(SHAPE, name) for name in ModelShape.__slots__}
    assert refusal_of(ModelShape, **(shape | {field: value})).field == f"model.{field}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gpu_type", ""),
        ("base_model", "a/b"),
        ("engine_version", ""),
        ("generated_over_requested", 0.0),
        ("generated_over_requested", 1.01),
        ("generated_over_requested", math.nan),
        ("max_known_rank", 0),
    ],
)
def test_a_calibration_refuses_a_bad_field(field, value):
    assert refusal_of(calibration, **{field: value}).field == field


def test_a_calibration_is_named_by_gpu_model_and_engine():
    assert calibration().calibration_id == "toy-gpu/toy-model/toy-1"
    assert calibration().step == STEP


@settings(max_examples=num_examples(50), deadline=None)
@given(adapters, st.data())
def test_the_parts_of_an_adapter_add_up_to_it(rows, data):
    rows = [replace(row, rate_schedule=None) for row in rows]
    counts = np.array([data.draw(st.integers(1, 4)) for _ in rows])
    workload = Workload.from_adapters(rows)
    parts = workload.divided(counts)
    origin = np.repeat(np.arange(len(rows)), counts)
    np.testing.assert_allclose(np.bincount(origin, parts.rate_rps), workload.rate_rps)
    np.testing.assert_allclose(np.bincount(origin, parts.rate_rps_std), workload.rate_rps_std, atol=1e-300)
    np.testing.assert_array_equal(parts.output_tokens_mean, workload.output_tokens_mean[origin])
    whole = counts[origin] == 1
    assert [parts.adapter_ids[row] for row in np.flatnonzero(whole)] == [
        workload.adapter_ids[row] for row in origin[whole]
    ]
    np.testing.assert_array_equal(parts.arrival_cv[whole], workload.arrival_cv[origin[whole]])


def test_requests_taken_at_random_from_bursts_are_less_bursty():
    row = Adapter(
        adapter_id="a", rank=8, rate_rps=2.0, input_tokens_mean=9, output_tokens_mean=9, arrival_cv=3.0
    )
    parts = Workload.from_adapters([row]).divided(np.array([4]))
    np.testing.assert_allclose(parts.arrival_cv, math.sqrt(0.25 * 9 + 0.75))
    assert len(set(parts.adapter_ids)) == 4
