"""A collector of traces, as OpenTelemetry's exporters see one."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def running_collector(messages):
    """Run a collector; yield its address and the list that the spans it gets are added to.

    Parameters
    ----------
    messages
        OpenTelemetry's module of collector messages, which an extra brings.
    """
    spans = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = messages.ExportTraceServiceRequest()
            request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
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


def attributes_of(span):
    """A span's attributes of text, by name."""
    return {row.key: row.value.string_value for row in span.attributes if row.value.string_value}
