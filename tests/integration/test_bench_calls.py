"""Calls of `loadmaster bench http`, to a service that runs."""

import pytest

from service.bench_calls import Call, measure_at_once
from service.bench_processes import doubled
from service.errors import UsageError


def test_calls_of_several_processes_are_counted_together(client):
    call = Call(method="GET", path="/livez")
    found = measure_at_once(str(client.base_url), call, num_connections=2, lasting_s=0.2)
    assert found["rps"] > 0
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert found["client_cores"] >= 0


def test_a_call_that_is_refused_is_no_figure(client):
    call = Call(method="POST", path="/place", body=b"{}")
    with pytest.raises(UsageError, match="422"):
        measure_at_once(str(client.base_url), call, num_connections=2, lasting_s=0.2)


@pytest.mark.parametrize(("most", "numbers"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])])
def test_processes_are_doubled_up_to_the_number_asked_for(most, numbers):
    assert doubled(most) == numbers
