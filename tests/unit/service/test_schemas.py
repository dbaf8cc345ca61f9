import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequestError, MalformedBodyError
from service.schemas.border import MANY_FIELDS, field_path, parse
from service.schemas.simulation import SimulateRequest
from service.schemas.workload import WorkloadSchema
from tests.support.workload_documents import adapter_document, simulation_document, workload_document
from twin.domain import MAX_CV, MAX_RANK, MAX_RATE_RPS, MAX_TOKENS
from twin.traffic import ARRIVAL_LAWS


def text(**changes):
    return json.dumps(workload_document(**changes))


def finite(low, high):
    return st.floats(low, high, allow_nan=False, exclude_min=low == 0)


ADAPTERS = st.fixed_dictionaries(
    {
        "rank": st.integers(1, MAX_RANK),
        "rate_rps": finite(0, MAX_RATE_RPS),
        "input_tokens_mean": finite(1, MAX_TOKENS),
        "output_tokens_mean": st.integers(1, MAX_TOKENS),
    },
    optional={
        "input_tokens_cv": st.none() | finite(0.5, MAX_CV),
        "output_tokens_cv": st.none() | finite(0.5, MAX_CV),
        "arrival_cv": st.none() | finite(0.5, MAX_CV),
        "rate_rps_std": st.none() | finite(0, MAX_RATE_RPS),
        "arrival_law": st.none() | st.sampled_from(ARRIVAL_LAWS),
    },
)


@given(st.lists(ADAPTERS, min_size=1, max_size=5))
def test_every_number_reaches_its_column_unchanged(adapters):
    rows = [{"id": f"a{row}"} | adapter for row, adapter in enumerate(adapters)]
    workload = WorkloadSchema.parse(json.dumps(workload_document(adapters=rows))).to_domain()
    for name in ("rank", "rate_rps", "input_tokens_mean", "output_tokens_mean"):
        assert getattr(workload, name).tolist() == [row[name] for row in rows]
    missing_values = {
        "input_tokens_cv": np.nan,
        "output_tokens_cv": np.nan,
        "arrival_cv": 1.0,
        "rate_rps_std": 0,
    }
    for name, missing in missing_values.items():
        given_values = [missing if row.get(name) is None else row[name] for row in rows]
        np.testing.assert_array_equal(getattr(workload, name), given_values)
    assert [ARRIVAL_LAWS[code] for code in workload.arrival_law] == [
        row.get("arrival_law") or "gamma" for row in rows
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rate_rps": 0}, "adapters[3].rate_rps"),
        ({"rate_rps": -1}, "adapters[3].rate_rps"),
        ({"rate_rps": float("nan")}, "adapters[3].rate_rps"),
        ({"rate_rps": float("inf")}, "adapters[3].rate_rps"),
        ({"rate_rps": 1e308}, "adapters[3].rate_rps"),
        ({"rate_rps": "1"}, "adapters[3].rate_rps"),
        ({"rate_rps": None}, "adapters[3].rate_rps"),
        ({"rank": 0}, "adapters[3].rank"),
        ({"rank": 16.5}, "adapters[3].rank"),
        ({"rank": True}, "adapters[3].rank"),
        ({"rank": 10**30}, "adapters[3].rank"),
        ({"id": ""}, "adapters[3].id"),
        ({"id": "x" * 257}, "adapters[3].id"),
        ({"id": 5}, "adapters[3].id"),
        ({"arrival_cv": -0.1}, "adapters[3].arrival_cv"),
        ({"rate_rps_std": -0.1}, "adapters[3].rate_rps_std"),
        ({"rate_rps_std": float("nan")}, "adapters[3].rate_rps_std"),
        ({"rate_rps_std": True}, "adapters[3].rate_rps_std"),
        ({"arrival_law": "cauchy"}, "adapters[3].arrival_law"),
        ({"weight": 1}, "adapters[3].weight"),
    ],
)
def test_a_bad_value_is_refused_by_its_path(change, field):
    document = workload_document(adapters=[*map(adapter_document, range(3)), adapter_document(3, **change)])
    with pytest.raises(InvalidRequestError) as caught:
        WorkloadSchema.parse(json.dumps(document))
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["id", "rank", "rate_rps", "input_tokens_mean", "output_tokens_mean"])
def test_a_missing_value_is_named(name):
    adapter = adapter_document(0)
    del adapter[name]
    with pytest.raises(InvalidRequestError) as caught:
        WorkloadSchema.parse(text(adapters=[adapter]))
    assert caught.value.field == f"adapters[0].{name}"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"nope", b'{"a":1e', b"[" * 100_000, b"9" * 10_000])
def test_what_is_no_json_is_refused_as_the_body(body):
    with pytest.raises((MalformedBodyError, InvalidRequestError)) as caught:
        WorkloadSchema.parse(body)
    assert caught.value.field == "body"


@pytest.mark.parametrize("body", [b"null", b"[]", b"3", b'"x"'])
def test_json_that_is_no_object_is_refused_as_the_body(body):
    with pytest.raises(InvalidRequestError) as caught:
        WorkloadSchema.parse(body)
    assert caught.value.field == "body"


def test_the_message_shows_the_value_but_not_all_of_it():
    with pytest.raises(InvalidRequestError) as caught:
        WorkloadSchema.parse(text(gpu_type="x" * 100_000))
    assert len(caught.value.detail) < 500


def test_the_first_of_many_errors_is_enough():
    document = workload_document(adapters=[adapter_document(0, rank=-1)] * 50_000)
    with pytest.raises(InvalidRequestError) as caught:
        WorkloadSchema.parse(json.dumps(document))
    assert caught.value.field == "adapters[0].rank"


def _field_of_crowd(document):
    with pytest.raises(InvalidRequestError) as caught:
        WorkloadSchema.parse(json.dumps(document))
    assert "at most 64 fields" in caught.value.detail
    return caught.value.field


def test_an_object_with_very_many_fields_is_refused_by_its_path():
    crowd = dict.fromkeys(map(str, range(MANY_FIELDS + 1)), 1)
    assert _field_of_crowd(workload_document() | crowd) == "body"
    assert _field_of_crowd(workload_document(options=crowd)) == "options"
    assert _field_of_crowd(workload_document(adapters=[adapter_document(0), crowd])) == "adapters[1]"


def test_many_colons_in_sound_values_are_no_many_fields():
    adapters = [adapter_document(row, id=f"{row}{':' * 250}") for row in range(1 + MANY_FIELDS // 250)]
    assert len(WorkloadSchema.parse(text(adapters=adapters)).adapters) == len(adapters)


@pytest.mark.parametrize("value", ["{}", "[{}]", '"x"', "1"])
def test_a_refused_list_or_object_is_told_by_its_length_alone(value):
    with pytest.raises(InvalidRequestError) as caught:
        WorkloadSchema.parse(f'{{"base_model": [{",".join([value] * 1000)}]}}')
    assert "an array of length 1000" in caught.value.detail


def test_a_path_is_written_as_users_write_it():
    assert field_path(("adapters", 3, "rate_rps")) == "adapters[3].rate_rps"


def test_without_max_lora_rank_the_smallest_slot_that_takes_every_adapter_is_simulated():
    adapters = [adapter_document(0, rank=8), adapter_document(1, rank=17)]
    document = simulation_document(workload=workload_document(adapters=adapters))
    assert parse(SimulateRequest, json.dumps(document)).server_config().max_lora_rank == 32
