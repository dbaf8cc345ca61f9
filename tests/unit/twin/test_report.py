"""The report's kernel against plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import report_oracle
from tests.support.report_oracle import ServedRequest
from tests.support.twin_cases import num_examples
from twin.domain import SLOTS, TOKEN_BUDGET
from twin.kernels import engine, report
from twin.report import EngineRun, Window, make_report
from twin.workload import RequestStream

NUM_ADAPTERS = 3
START_NS, END_NS = 10**8, 10**9
late_ns = st.integers(END_NS - (END_NS - START_NS) // 4, END_NS)
"""Moments of the window's last quarter: in its last fifth unfinished requests are counted."""

tokens = st.sampled_from([1, 2, 7]) | st.integers(1, 2000)
pauses_ns = st.sampled_from([0, 1, 5, 1000, START_NS]) | st.integers(0, END_NS)


@st.composite
def served_requests(draw):
    adapter, prompt, output = draw(st.integers(0, NUM_ADAPTERS - 1)), draw(tokens), draw(tokens)
    sent_ns = draw(st.sampled_from([0, START_NS - 1, START_NS]) | st.integers(0, END_NS) | late_ns)
    admitted_ns = sent_ns + draw(pauses_ns)
    first_ns = admitted_ns + 1 + draw(pauses_ns)
    finish_ns = first_ns
    if output > 1:
        ends_ns = st.sampled_from([START_NS, START_NS + 1, END_NS, END_NS + 1])
        finish_ns = max(first_ns + 1, draw(ends_ns | late_ns))
    known = draw(st.integers(0, 3))
    times_ns = [t if place < known else -1 for place, t in enumerate((admitted_ns, first_ns, finish_ns))]
    return ServedRequest(adapter, prompt, output, sent_ns, *times_ns)


@settings(max_examples=num_examples(200), deadline=None)
@given(st.lists(served_requests(), max_size=40), st.integers(0, 5), st.sampled_from([0, START_NS]))
def test_the_reports_kernel_equals_plain_python(requests, num_unsent, start_ns):
    unsent = ServedRequest(0, 9, 9, -1, -1, -1, -1)
    rows = np.array([*requests, *[unsent] * num_unsent], np.int64).reshape(-1, len(ServedRequest._fields))
    lengths = [rows[:, column].astype(np.int32) for column in range(3)]
    times_ns = [np.ascontiguousarray(rows[:, column]) for column in range(3, 7)]
    sums, quantiles_ms = np.zeros(report.NUM_SUMS), np.empty((3, 3))
    by_adapter = np.zeros((NUM_ADAPTERS, report.NUM_BY_ADAPTER))
    unfinished = np.zeros(report.NUM_LATE, np.int64)
    report.summarise(
        *times_ns, *lengths, len(requests), start_ns, END_NS, sums, quantiles_ms, by_adapter, unfinished
    )
    assert unfinished.tolist() == report_oracle.unfinished_late(requests, start_ns, END_NS)
    expected_sums, expected_ms, expected_rows = report_oracle.summarise(
        requests, NUM_ADAPTERS, start_ns, END_NS
    )
    assert {name: sums[getattr(report, name)] for name in expected_sums} == pytest.approx(expected_sums)
    assert quantiles_ms.tolist() == [pytest.approx(row, nan_ok=True) for row in expected_ms]
    for row, expected in zip(by_adapter, expected_rows, strict=True):
        assert {name: row[getattr(report, name)] for name in expected} == expected


NOBODY = RequestStream(
    arrival_ns=np.empty(0, np.int64),
    adapter_of=np.empty(0, np.int32),
    prompt_tokens=np.empty(0, np.int32),
    output_tokens=np.empty(0, np.int32),
)


@pytest.mark.parametrize(
    ("stop", "share_of", "binding"),
    [
        (engine.STOP_QUEUE_EMPTY, "none", "none"),
        (engine.STOP_SLOTS, "slots", "slots"),
        (engine.STOP_KV, "kv_memory", "kv_memory"),
        (engine.STOP_PREEMPTED, "kv_memory", "kv_memory"),
        (engine.STOP_TOKENS, "token_budget", "throughput"),
        (engine.STOP_SEQS, "sequences", "sequences"),
    ],
)
def test_time_is_that_of_what_ended_admission_in_the_words_of_a_plan(stop, share_of, binding):
    run = EngineRun(0, 1)
    run.totals[engine.BUSY_NS] = 100.0
    run.stop_ns[stop] = 100
    window = Window(warmup_s=0.0, horizon_s=1.0)
    made = make_report(NOBODY, run, window, kv_tokens=16, block_size=16)
    assert made.constraint_shares[share_of] == 1.0
    assert sum(made.constraint_shares.values()) == 1.0
    assert made.binding_constraint == binding


@pytest.mark.parametrize(("slots_share", "cause"), [(0.5, SLOTS), (0.49, TOKEN_BUDGET)])
def test_an_adapter_starves_for_slots_where_half_of_its_waiting_was_for_one(slots_share, cause):
    count, second_ns = 20, 10**9
    waiting = RequestStream(
        arrival_ns=np.zeros(count, np.int64),
        adapter_of=np.zeros(count, np.int32),
        prompt_tokens=np.ones(count, np.int32),
        output_tokens=np.ones(count, np.int32),
    )
    run = EngineRun(count, 1)
    run.sent_ns[:] = 0
    for times_ns in (run.admitted_ns, run.first_token_ns, run.finish_ns):
        times_ns[:] = -1
    run.slots_wait_ns[0] = slots_share * count * second_ns
    run.totals[engine.NUM_SENT], run.totals[engine.BUSY_NS] = count, second_ns
    run.stop_ns[engine.STOP_TOKENS] = second_ns
    window = Window(warmup_s=0.0, horizon_s=1.0)
    made = make_report(waiting, run, window, kv_tokens=16, block_size=16)
    assert made.adapters.starving.tolist() == [True]
    assert made.adapters.cause.tolist() == [cause]


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
