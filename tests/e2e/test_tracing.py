"""Spans of a request and of its placement, as a collector gets them."""

import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.service_process import ROOT, run_service
from tests.support.waiting import wait_until
from tests.support.workload_documents import simulation_document, workload_document

WHY = "the extra otel is not installed"
pytest.importorskip("opentelemetry.sdk", reason=WHY)
messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=WHY)

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SPANS_S = 120.0


@pytest.fixture
def collector():
    """A collector: its address, and the spans that it got, by name."""
    spans = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = messages.ExportTraceServiceRequest()
            body = self.rfile.read(int(self.headers["content-length"]))
            request.ParseFromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    spans.update({span.name: span for span in scope.spans})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def traced_service(directory, address):
    with run_service(
        directory / "data", LOADMASTER_OTEL_ENDPOINT=address, OTEL_BSP_SCHEDULE_DELAY="50"
    ) as service:
        service.client.headers["traceparent"] = f"00-{TRACE}-{CALLER}-01"
        yield service


def test_a_trace_goes_from_the_caller_through_the_request_to_the_placement(collector, tmp_path):
    address, spans = collector
    with traced_service(tmp_path, address) as service:
        service.client.post("/place", json=workload_document(4))
        wanted = {"POST /place", "place"}
        wait_until(lambda: wanted <= spans.keys(), timeout_s=SPANS_S, what=f"spans of {wanted}")
    assert {spans[name].trace_id.hex() for name in wanted} == {TRACE}
    assert spans["POST /place"].parent_span_id.hex() == CALLER
    assert spans["place"].parent_span_id == spans["POST /place"].span_id
    attributes = {row.key: row.value for row in spans["POST /place"].attributes}
    assert attributes["http.response.status_code"].int_value == 200


def test_a_job_of_a_worker_goes_on_with_the_trace_of_the_request_that_queued_it(collector, tmp_path):
    address, spans = collector
    with traced_service(tmp_path, address) as service:
        job = service.client.post("/simulate", json=simulation_document()).json()
        wanted = {"POST /simulate", "simulate"}
        wait_until(lambda: wanted <= spans.keys(), timeout_s=SPANS_S, what=f"spans of {wanted}")
    assert {spans[name].trace_id.hex() for name in wanted} == {TRACE}
    assert spans["simulate"].parent_span_id == spans["POST /simulate"].span_id
    attributes = {row.key: row.value.string_value for row in spans["simulate"].attributes}
    assert attributes == {"loadmaster.job_id": job["job_id"], "loadmaster.job_outcome": "finished"}


def test_while_it_is_off_no_exporter_is_loaded():
    code = "import sys, service.serve, service.worker.process; print('opentelemetry.exporter' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
