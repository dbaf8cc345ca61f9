from prometheus_client import generate_latest

from service.observability import REGISTRY
from service.services.gauges import BY_FLEET, forget_plan
from service.storage.workloads import FleetKey


def test_a_withdrawn_workload_leaves_no_gauge_behind_and_others_stay():
    gone, staying = FleetKey("gone", "gpu"), FleetKey("staying", "gpu")
    for gauge in BY_FLEET[1:]:  # one of a plan's gauges may never have been set
        for key in (gone, staying):
            gauge.labels(*key).set(3)
    forget_plan(gone)
    text = generate_latest(REGISTRY).decode()
    assert 'base_model="gone"' not in text
    assert text.count('base_model="staying"') == len(BY_FLEET) - 1
    forget_plan(staying)
