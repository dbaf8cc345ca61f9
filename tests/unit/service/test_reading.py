import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from service.errors import InvalidRequestError, ServiceError
from service.kernels.json_scan import scan
from service.reading import read_workload
from service.schemas.workload import WorkloadSchema
from service.settings import Settings
from service.structure import MAX_DEPTH, check_structure
from tests.support import json_scan_oracle
from tests.support.workload_documents import adapter_document, workload_document
from twin.domain import MAX_RATE_RPS
from twin.errors import InvalidInputError

SETTINGS = Settings()
ODD = st.sampled_from([None, True, 0, -1, 1.5, 16, "", "x", 10**30, 1e308, MAX_RATE_RPS, [], {}, "a\x00"])
LIKELY = {
    "id": st.text(min_size=1, max_size=8),
    "rank": st.integers(1, 64),
    "rate_rps": st.floats(0.001, 10) | st.integers(1, 5),
    "input_tokens_mean": st.integers(1, 5000) | st.floats(1, 5000),
    "output_tokens_mean": st.integers(1, 5000),
    "input_tokens_cv": st.none() | st.floats(0.5, 3),
    "output_tokens_cv": st.none() | st.floats(0.5, 3),
    "arrival_cv": st.none() | st.floats(0, 3),
    "rate_rps_std": st.none() | st.floats(0, 3) | st.integers(0, 2),
    "arrival_law": st.sampled_from([None, "gamma", "weibull", "lognormal"]),
}


@st.composite
def documents(draw):
    """Workloads that are mostly sound, with at most a few odd values, fields missing or added."""
    names = list(LIKELY)[: draw(st.sampled_from([5, 5, 8, 9, 10]))]
    rows = draw(st.lists(st.fixed_dictionaries({name: LIKELY[name] for name in names}), max_size=4))
    document = {"base_model": "llama", "gpu_type": "h100", "adapters": rows}
    if draw(st.booleans()):
        document["options"] = draw(
            st.sampled_from(
                [{}, {"starvation_risk": 1}, {"starvation_risk": 0.1}, {"max_gpus": 3}, {"x": 1}, None]
            )
        )
    for _ in range(draw(st.integers(0, 2))):
        target = draw(st.sampled_from([document, *rows]))
        name = draw(st.sampled_from([*target, "weight"]))
        if draw(st.booleans()):
            target[name] = draw(ODD)
        else:
            target.pop(name, None)
    return document


def judged(read, document):
    """What a reader makes of a document: columns and options, or the error's field."""
    try:
        workload, options = read(json.dumps(document).encode())
    except (ServiceError, InvalidInputError) as error:
        return error.field
    columns = [getattr(workload, field.name) for field in fields(workload)]
    return [column.tolist() if isinstance(column, np.ndarray) else column for column in columns], options


def quickly(document):
    request = read_workload(document, SETTINGS)
    return request.workload, request.options


def by_the_schemas(document):
    request = WorkloadSchema.parse(document)
    return request.to_domain(), request.options


@settings(deadline=None)  # the machine may be busy, and the first call compiles
@given(documents())
@example(workload_document(adapters=[adapter_document(0, arrival_cv=2), adapter_document(1)]))
@example(workload_document(adapters=[adapter_document(0, rank=True)]))
@example(workload_document(adapters=[adapter_document(0, rate_rps=True)]))
@example(workload_document(adapters=[adapter_document(0), adapter_document(0)]))
def test_a_document_is_read_as_the_schemas_read_it(document):
    assume(not isinstance(document.get("adapters"), dict))  # columns have paths of their own
    assert repr(judged(quickly, document)) == repr(judged(by_the_schemas, document))


def by_columns(document):
    names = document["adapters"][0]
    return document | {"adapters": {name: [row[name] for row in document["adapters"]] for name in names}}


def test_columns_mean_what_rows_mean():
    rows = [
        adapter_document(
            number,
            arrival_cv=(None, 2)[number % 2],
            arrival_law=(None, "weibull")[number % 2],
            input_tokens_cv=1.5,
        )
        for number in range(5)
    ]
    document = workload_document(adapters=rows, options={"max_gpus": 3})
    assert repr(judged(quickly, by_columns(document))) == repr(judged(quickly, document))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rank": [8, 8, 0, 8]}, "adapters.rank[2]"),
        ({"rank": [8, 8, True, 8]}, "adapters.rank[2]"),
        ({"rank": [8, 8, 8]}, "adapters.rank"),
        ({"rank": 8}, "adapters.rank"),
        ({"rate_rps": [1, 1, 1, float("nan")]}, "adapters.rate_rps[3]"),
        ({"rate_rps": [1, None, 1, 1]}, "adapters.rate_rps[1]"),
        ({"id": ["a", "b", "c", "a"]}, "adapters.id[3]"),
        ({"id": []}, "adapters.id"),
        ({"arrival_cv": [1, 1, 1, -1]}, "adapters.arrival_cv[3]"),
        ({"arrival_cv": []}, "adapters.arrival_cv"),
        ({"rate_rps_std": [0, None, -1, 1]}, "adapters.rate_rps_std[2]"),
        ({"rate_rps_std": [0, 0, 0, float("inf")]}, "adapters.rate_rps_std[3]"),
        ({"arrival_law": [None, "gamma", "pareto", None]}, "adapters.arrival_law[2]"),
        ({"weight": [1, 1, 1, 1]}, "adapters.weight"),
    ],
)
def test_a_bad_column_is_refused_by_its_path(change, field):
    document = by_columns(workload_document(4))
    document["adapters"] |= change
    assert judged(quickly, document) == field


JSON_TEXTS = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
).map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@settings(deadline=None)  # the machine may be busy, and the first call compiles
@given(JSON_TEXTS | st.lists(st.sampled_from(list(b'[]{},:"\\a')), max_size=60).map(bytes))
def test_a_text_is_scanned_as_without_its_strings(text):
    assert scan(np.frombuffer(text, np.uint8), 10**9, 10**9) == json_scan_oracle.scan(text)


@settings(deadline=None)  # the machine may be busy, and the first call compiles
@given(JSON_TEXTS)
def test_no_fewer_values_are_counted_than_a_parser_makes(text):
    def count(value):
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + sum(map(count, parts))

    num_values, _ = scan(np.frombuffer(text, np.uint8), 10**9, 10**9)
    assert num_values >= count(json.loads(text.decode("utf-8", "surrogatepass")))


@pytest.mark.parametrize("text", [b"[" * (MAX_DEPTH + 1), b"[" + b"1," * 100, b'{"a":[' + b"[],{}," * 40])
def test_a_text_of_many_values_or_deep_nesting_is_refused(text):
    with pytest.raises(InvalidRequestError) as caught:
        check_structure(text, 99)
    assert caught.value.field == "body"


def test_strings_may_hold_any_number_of_marks():
    check_structure(json.dumps(['[{,"\\' * 1000] * 90).encode(), 99)


@pytest.mark.parametrize("arrange", [lambda document: document, by_columns])
def test_too_many_adapters_are_refused_before_they_are_read(arrange):
    document = arrange(workload_document(20_001))
    assert judged(quickly, document) == "adapters"
