"""Traces of requests, placements and jobs, for an OpenTelemetry collector; off, no exporter is loaded."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

from service.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import StatusCode, Tracer
    from starlette.types import Scope

    from service.settings import Settings

TIMEOUT_S = 5.0
"""Of an export; what a collector does not take in time is dropped."""

JOB_TIMEOUT_S = 1.0
"""The same where a job waits for it: a recalibration has hundreds of them."""

MAX_WAITING = 2048
"""Spans; more are dropped."""


class Span(Protocol):
    """What can be told of a span."""

    def set_attribute(self, key: str, value: str | float) -> None:
        """Tell one thing."""
        ...

    def update_name(self, name: str) -> None:
        """Give it another name."""
        ...

    def set_status(self, status: StatusCode) -> None:
        """Tell whether it went well."""
        ...


class _NoSpan:
    def set_attribute(self, key: str, value: str | float) -> None:
        """Tell nobody."""

    def update_name(self, name: str) -> None:
        """Name nothing."""

    def set_status(self, status: StatusCode) -> None:
        """Tell nobody."""


class _Tracing:
    """The tracing of this process; `tracer` is None while it is off."""

    tracer: Tracer | None = None
    provider: TracerProvider | None = None


_NO_SPAN = _NoSpan()
_tracing = _Tracing()


def start_tracing(settings: Settings, role: str, *, timeout_s: float = TIMEOUT_S) -> None:
    """Send spans to `otel_endpoint` from now on; nothing where there is none.

    Parameters
    ----------
    settings
        Where to send them, and what share of the traces.
    role
        Of this process, such as ``api``.
    timeout_s
        Of an export.

    Raises
    ------
    UsageError
        The extra ``otel`` is not installed.
    """
    if settings.otel_endpoint is None:
        return
    preload(settings)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415

    about = {"service.name": f"loadmaster-{role}", "service.version": version("loadmaster")}
    sampler = ParentBased(TraceIdRatioBased(settings.otel_sample_ratio))
    provider = TracerProvider(resource=Resource.create(about), sampler=sampler)
    exporter = OTLPSpanExporter(settings.otel_endpoint, timeout=timeout_s)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=MAX_WAITING))
    _tracing.provider, _tracing.tracer = provider, provider.get_tracer("loadmaster")


def preload(settings: Settings) -> None:
    """Load what sends spans, where they are to be sent: forks inherit it.

    Raises
    ------
    UsageError
        The extra ``otel`` is not installed; telling how to install it.
    """
    if settings.otel_endpoint is None:
        return
    try:
        importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ModuleNotFoundError as error:
        raise UsageError(
            "LOADMASTER_OTEL_ENDPOINT needs the extra `otel`: pip install -e '.[otel]'"
        ) from error


def stop_tracing() -> None:
    """Send what waits, within `TIMEOUT_S`, and nothing more."""
    provider, _tracing.provider, _tracing.tracer = _tracing.provider, None, None
    if provider is not None:
        provider.force_flush(round(1000 * TIMEOUT_S))
        provider.shutdown()


@contextmanager
def span(name: str, **attributes: str | float) -> Iterator[Span]:
    """Have what the block does be a span within the present one."""
    if _tracing.tracer is None:
        yield _NO_SPAN
        return
    with _tracing.tracer.start_as_current_span(name, attributes=attributes) as current:
        yield current


@contextmanager
def request_span(scope: Scope) -> Iterator[Span]:
    """Have a request be a span within that of its caller (W3C's ``traceparent``)."""
    if _tracing.tracer is None:
        yield _NO_SPAN
        return
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    parent = _parent_of(headers)
    with _tracing.tracer.start_as_current_span(scope["method"], parent, SpanKind.SERVER) as current:
        yield current


def _parent_of(headers: Mapping[str, str]) -> Context:
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    return TraceContextTextMapPropagator().extract(headers)


def tell_failure(current: Span, error_type: str) -> None:
    """Have a span count as failed, for what kind of error."""
    if _tracing.tracer is None:
        return
    from opentelemetry.trace import StatusCode  # noqa: PLC0415

    current.set_attribute("error.type", error_type)
    current.set_status(StatusCode.ERROR)


def traceparent() -> str | None:
    """Return the present span as W3C's ``traceparent``, for what goes on elsewhere, or None."""
    if _tracing.tracer is None:
        return None
    from opentelemetry.trace import get_current_span  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    if not get_current_span().get_span_context().trace_flags.sampled:
        return None
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def job_span(settings: Settings, parent: str | None, name: str, **attributes: str) -> Iterator[Span]:
    """Have a job be a span within the request that asked for it, sent before the block is left.

    For a process that ends with the job: a fork has no thread that would send it later.

    Parameters
    ----------
    settings
        Where to send it.
    parent
        What `traceparent` told where the job was queued; without it the job is no span.
    """
    if settings.otel_endpoint is None or parent is None:
        yield _NO_SPAN
        return
    start_tracing(settings, "worker", timeout_s=JOB_TIMEOUT_S)
    assert _tracing.tracer is not None, "there is an endpoint"
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    context = _parent_of({"traceparent": parent})
    try:
        with _tracing.tracer.start_as_current_span(
            name, context, SpanKind.CONSUMER, attributes=attributes
        ) as current:
            yield current
    finally:
        stop_tracing()
