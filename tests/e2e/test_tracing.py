"""Spans of a request and of its placement, as a collector gets them."""

import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests.support.collector import attributes_of, running_collector
from tests.support.measurement_sets import minimal_tables
from tests.support.service_process import ROOT, run_service
from tests.support.waiting import wait_until
from tests.support.workload_documents import simulation_document, workload_document

WHY = "the extra otel is not installed"
pytest.importorskip("opentelemetry.sdk", reason=WHY)
messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=WHY)

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SPANS_S = 120.0
FAILED = 2
"""OpenTelemetry's status of a span that failed."""


@pytest.fixture
def collector():
    """A collector: its address, and the spans that it got."""
    with running_collector(messages) as (address, spans):
        yield address, spans


@contextmanager
def traced_service(directory, address):
    with run_service(
        directory / "data", LOADMASTER_OTEL_ENDPOINT=address, OTEL_BSP_SCHEDULE_DELAY="50"
    ) as service:
        service.client.headers["traceparent"] = f"00-{TRACE}-{CALLER}-01"
        yield service


def wait_for_spans(spans, wanted):
    """Wait until the caller's trace has spans of these names; the last of each, by name."""

    def found():
        return {span.name: span for span in spans if span.name in wanted and span.trace_id.hex() == TRACE}

    wait_until(lambda: found().keys() == wanted, timeout_s=SPANS_S, what=f"spans of {wanted}")
    return found()


def test_a_trace_goes_from_the_caller_through_the_request_to_the_placement(collector, tmp_path):
    address, spans = collector
    with traced_service(tmp_path, address) as service:
        service.client.post("/place", json=workload_document(4))
        found = wait_for_spans(spans, {"POST /place", "place"})
    assert found["POST /place"].parent_span_id.hex() == CALLER
    assert found["place"].parent_span_id == found["POST /place"].span_id
    attributes = {row.key: row.value for row in found["POST /place"].attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert found["POST /place"].status.code != FAILED


def test_a_job_of_a_worker_goes_on_with_the_trace_of_the_request_that_queued_it(collector, tmp_path):
    address, spans = collector
    with traced_service(tmp_path, address) as service:
        job = service.client.post("/simulate", json=simulation_document()).json()
        found = wait_for_spans(spans, {"POST /simulate", "simulate"})
    assert found["simulate"].parent_span_id == found["POST /simulate"].span_id
    assert attributes_of(found["simulate"]) == {
        "loadmaster.job_id": job["job_id"],
        "loadmaster.job_outcome": "finished",
    }


def test_a_step_of_a_recalibration_goes_on_with_its_trace_and_tells_that_it_failed(collector, tmp_path):
    address, spans = collector
    tables = {name: content.decode() for name, content in minimal_tables().items()}
    with traced_service(tmp_path, address) as service:
        known = service.client.post("/measurement-sets", json={"tables": tables}).json()
        body = {"base_model": "llama-3.1-8b-instruct", "gpu_type": "h100-test"} | {
            "measurement_set": known["measurement_set"]
        }
        job = service.client.post("/recalibrate", json=body).json()
        found = wait_for_spans(spans, {"POST /recalibrate", "recalibrate fit"})
    step = found["recalibrate fit"]
    assert step.parent_span_id == found["POST /recalibrate"].span_id
    told = attributes_of(step)
    assert told["loadmaster.recalibration_id"] == job["job_id"]
    assert (told["loadmaster.job_outcome"], step.status.code) == ("failed", FAILED)


def test_while_it_is_off_no_exporter_is_loaded():
    code = "import sys, service.serve, service.worker.process; print('opentelemetry.exporter' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
