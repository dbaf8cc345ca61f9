"""The report's kernel against plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import report_oracle
from tests.support.report_oracle import ServedRequest
from tests.support.twin_cases import num_examples
from twin.kernels import report

NUM_ADAPTERS = 3
END_NS = 10**9


@st.composite
def served_requests(draw):
    adapter, prompt, output = draw(st.integers(0, NUM_ADAPTERS - 1)), draw(tokens), draw(tokens)
    sent_ns = draw(st.integers(0, END_NS))
    if draw(st.booleans()):
        return ServedRequest(adapter, prompt, output, sent_ns, -1, -1)
    first_ns = sent_ns + draw(st.sampled_from([1, 5, 1000]) | st.integers(1, END_NS))
    if draw(st.booleans()):
        return ServedRequest(adapter, prompt, output, sent_ns, first_ns, -1)
    up_to_the_end_ns = max(END_NS - first_ns, 1)
    decode_ns = draw(st.just(up_to_the_end_ns) | st.integers(1, END_NS)) if output > 1 else 0
    return ServedRequest(adapter, prompt, output, sent_ns, first_ns, first_ns + decode_ns)


tokens = st.sampled_from([1, 2, 7]) | st.integers(1, 2000)


@settings(max_examples=num_examples(100), deadline=None)
@given(st.lists(served_requests(), max_size=40), st.integers(0, 5))
def test_the_reports_kernel_equals_plain_python(requests, num_unsent):
    unsent = ServedRequest(0, 9, 9, -1, -1, -1)
    rows = np.array([*requests, *[unsent] * num_unsent], np.int64).reshape(-1, len(ServedRequest._fields))
    adapter_of, prompt, output = (rows[:, column].astype(np.int32) for column in range(3))
    sent_ns, first_ns, finish_ns = (np.ascontiguousarray(rows[:, column]) for column in range(3, 6))
    sums, quantiles_ms = np.zeros(report.NUM_SUMS), np.empty((3, 3))
    sent_tokens, completed_tokens = np.zeros(NUM_ADAPTERS), np.zeros(NUM_ADAPTERS)
    report.summarise(
        sent_ns,
        first_ns,
        finish_ns,
        adapter_of,
        prompt,
        output,
        len(requests),
        END_NS,
        sums,
        quantiles_ms,
        sent_tokens,
        completed_tokens,
    )
    expected_sums, expected_ms, expected_sent, expected_completed = report_oracle.summarise(
        requests, NUM_ADAPTERS, END_NS
    )
    assert {name: sums[getattr(report, name)] for name in expected_sums} == pytest.approx(expected_sums)
    assert quantiles_ms.tolist() == [pytest.approx(row, nan_ok=True) for row in expected_ms]
    assert sent_tokens.tolist() == expected_sent
    assert completed_tokens.tolist() == expected_completed


@settings(max_examples=num_examples(100), deadline=None)
@given(
    st.lists(
        st.sampled_from([0.0, 1.0, 1.0 + 2**-52]) | st.floats(0, 1e9) | st.floats(1.0, 1.0 + 1e-12),
        max_size=150,
    )
)
def test_quantiles_are_those_of_sorting(values):
    quantiles = np.zeros(3)
    report.nearest_ranks(np.array(values, np.float64), quantiles)
    expected = [report_oracle.nearest_rank(values, level) for level in report.LEVELS]
    np.testing.assert_array_equal(quantiles, expected)
