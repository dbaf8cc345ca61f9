"""The API server in front of the engine."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twin_cases import num_examples
from twin.kernels.front_end import front_end_ready_ns

rows = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3)), max_size=30)


def ready_times(drawn, first_use_ns):
    arrival_ns = np.cumsum([gap_ns for gap_ns, _ in drawn], dtype=np.int64)
    adapter_of = np.array([adapter for _, adapter in drawn], np.int32)
    return arrival_ns.tolist(), front_end_ready_ns(arrival_ns, adapter_of, 4, first_use_ns).tolist()


@settings(max_examples=num_examples(50), deadline=None)
@given(rows, st.integers(0, 100))
def test_the_front_end_works_on_one_request_at_a_time(drawn, first_use_ns):
    arrival_ns, ready_ns = ready_times(drawn, first_use_ns)
    free_ns, seen = 0, set()
    for due_ns, (_, adapter), out_ns in zip(arrival_ns, drawn, ready_ns, strict=True):
        work_ns = 0 if adapter in seen else first_use_ns
        seen.add(adapter)
        assert out_ns == max(due_ns, free_ns) + work_ns
        free_ns = out_ns


@settings(max_examples=num_examples(50), deadline=None)
@given(rows)
def test_a_front_end_without_work_delays_nobody(drawn):
    arrival_ns, ready_ns = ready_times(drawn, 0)
    assert ready_ns == arrival_ns


@settings(max_examples=num_examples(50), deadline=None)
@given(rows, st.integers(1, 100))
def test_the_front_end_delays_by_at_most_one_first_use_for_each_adapter(drawn, first_use_ns):
    arrival_ns, ready_ns = ready_times(drawn, first_use_ns)
    assert ready_ns == sorted(ready_ns)
    most_ns = first_use_ns * len({adapter for _, adapter in drawn})
    assert all(due <= out <= due + most_ns for due, out in zip(arrival_ns, ready_ns, strict=True))
