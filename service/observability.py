"""Logs, metrics and request ids."""

from __future__ import annotations

import logging
import re
import sys
import time
import uuid
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from structlog.contextvars import bind_contextvars, clear_contextvars, merge_contextvars

from service.tracing import request_span, tell_failure

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from structlog.typing import EventDict

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_LATENCY_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

REQUEST_DURATION = Histogram(
    "loadmaster_http_request_duration_seconds",
    "Time from the first byte of a request to the last of its answer.",
    ("method", "route", "status"),
    buckets=_LATENCY_BUCKETS_S,
    registry=REGISTRY,
)
PLACEMENT_ADAPTERS = Counter(
    "loadmaster_placed_adapters_total", "Adapters in answered placements.", registry=REGISTRY
)
HELD_BODY_BYTES = Gauge("loadmaster_held_body_bytes", "Request bodies in memory.", registry=REGISTRY)
REFUSED = Counter(
    "loadmaster_refused_requests_total", "Answers with a problem.", ("code",), registry=REGISTRY
)
_FLEET = ("base_model", "gpu_type")
GPUS_NEEDED = Gauge("loadmaster_gpus_needed", "GPUs to ask for.", _FLEET, registry=REGISTRY)
PLAN_AGE = Gauge(
    "loadmaster_plan_age_seconds",
    "Since the plan was last known to be the workload's.",
    _FLEET,
    registry=REGISTRY,
)
PLAN_GPUS = Gauge("loadmaster_plan_gpus", "GPUs of the plan in force.", _FLEET, registry=REGISTRY)
PLAN_GAP = Gauge("loadmaster_plan_gap_gpus", "Its GPUs above the lower bound.", _FLEET, registry=REGISTRY)
PLAN_RISK = Gauge(
    "loadmaster_plan_starvation_probability",
    "The largest of its GPUs, as predicted.",
    _FLEET,
    registry=REGISTRY,
)
PLAN_UNPLACED = Gauge("loadmaster_plan_unplaced_adapters", "Without a GPU.", _FLEET, registry=REGISTRY)
PLAN_OUT_OF_RANGE = Gauge(
    "loadmaster_plan_out_of_range_gpus",
    "GPUs of the plan in force that leave what its surrogate was trained on.",
    _FLEET,
    registry=REGISTRY,
)
STORE_UP = Gauge("loadmaster_store_up", "1 when the last call to the store was answered.", registry=REGISTRY)
LOOP_ERRORS = Counter(
    "loadmaster_background_errors_total", "Failed rounds of a background loop.", ("loop",), registry=REGISTRY
)
UNQUEUED_VERIFICATIONS = Counter(
    "loadmaster_unqueued_verifications_total",
    "Answered plans that no worker replays, and why.",
    ("reason",),
    registry=REGISTRY,
)
BUILD_INFO = Gauge(
    "loadmaster_build_info", "1.", ("version", "python_version", "twin_version"), registry=REGISTRY
)
SURROGATE_INFO = Gauge(
    "loadmaster_surrogate_info",
    "1 for each surrogate that plans.",
    ("calibration_id", "surrogate_version"),
    registry=REGISTRY,
)
DRIFTED = Gauge(
    "loadmaster_calibration_drifted",
    "1 where live servers differ from the calibration.",
    ("calibration_id",),
    registry=REGISTRY,
)
DRIFT_RATIO = Gauge(
    "loadmaster_calibration_drift_ratio",
    "Measured on live servers over predicted, less 1: median of the last samples.",
    ("calibration_id", "quantity"),
    registry=REGISTRY,
)
KNOWN_ALIKE = frozenset(
    family.name
    for gauge in (
        GPUS_NEEDED,
        PLAN_AGE,
        PLAN_GAP,
        PLAN_GPUS,
        PLAN_RISK,
        PLAN_UNPLACED,
        PLAN_OUT_OF_RANGE,
        BUILD_INFO,
        SURROGATE_INFO,
        DRIFTED,
        DRIFT_RATIO,
    )
    for family in gauge.describe()
)
"""What every process on the same store tells alike."""

REFUSED_VERSIONS = Counter(
    "loadmaster_refused_versions_total",
    "Versions put in force that are damaged; what was in force before stays.",
    registry=REGISTRY,
)
RECALIBRATION_STAGE = Counter(
    "loadmaster_recalibration_stages_total",
    "Stages that recalibrations entered in this process.",
    ("stage",),
    registry=REGISTRY,
)
REFRESH_ROUNDS = Counter(
    "loadmaster_refresh_rounds_total",
    "Looks at a plan in force beside what its surrogate was taught, and what came of them.",
    ("outcome",),
    registry=REGISTRY,
)
EVENT_STREAMS = Gauge("loadmaster_event_streams", "Streams of jobs' events that are open.", registry=REGISTRY)
AUDIT_FAILURES = Counter(
    "loadmaster_audit_failures_total", "Acts that the audit log could not take.", registry=REGISTRY
)
AUTH_FAILURES = Counter(
    "loadmaster_auth_failures_total", "Requests without a valid key or token.", registry=REGISTRY
)
CHILD_RESTARTS = Counter(
    "loadmaster_child_restarts_total",
    "Child processes that ended by themselves.",
    ("child",),
    registry=REGISTRY,
)

_SECRETS = re.compile(
    r"(lm_[0-9a-f]{12})_[A-Za-z0-9_-]+|(://)[^/@\s]*@|(eyJ)[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"
)
_SAFE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Strike API keys, tokens and passwords of URLs out of whatever is logged."""
    for name, value in event.items():
        if isinstance(value, str) and ("lm_" in value or "://" in value or "eyJ" in value):
            event[name] = _SECRETS.sub(r"\1\2\3***", value)
    return event


def configure_logging(level: str, process: str | None = None) -> None:
    """Send every log line, our own and the libraries', to stderr as one JSON object.

    Parameters
    ----------
    level
        The least that is told.
    process
        This process's name among others that write to the same place.
    """

    def name_process(_logger: object, _method: str, event: EventDict) -> EventDict:
        return event if process is None else {**event, "process": process}

    shared = [
        merge_contextvars,
        name_process,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


class ObservabilityMiddleware:
    """Give each request an id that its logs and answer carry, and count it under its route.

    Plain ASGI: on the hot path a `BaseHTTPMiddleware` would cost more than the placement.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry one request through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        clear_contextvars()
        bind_contextvars(request_id=request_id.decode())
        with request_span(scope) as span:
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                duration_s = time.perf_counter() - started
                REQUEST_DURATION.labels(_method(scope), _route(scope), str(status)).observe(duration_s)
                span.update_name(f"{_method(scope)} {_route(scope)}")
                span.set_attribute("http.route", _route(scope))
                span.set_attribute("http.response.status_code", status)
                span.set_attribute("loadmaster.request_id", request_id.decode())
                if status >= 500:  # noqa: PLR2004 (what OpenTelemetry counts as a server's failure)
                    tell_failure(span, str(status))


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SAFE_REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex.encode()


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _HTTP_METHODS else "other"


def _route(scope: Scope) -> str:
    """Return the route's template: a bounded set, whatever paths are asked for."""
    route = scope.get("route")
    return getattr(route, "path", "unmatched")
