"""One line of an access log: which adapter was asked for, when, and with how many tokens.

Four kinds of lines are read: JSON objects (gateways, LiteLLM's standard logging payload, nginx and Envoy with
a JSON format), vLLM's own request log (``--enable-log-requests``), text lines of nginx or uvicorn with
``model=…`` beside the request, and whatever a pattern of the user's names. Fields beyond these are ignored.
"""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TOO_MANY_REQUESTS = 429
LEAP_YEARS_APART = 8
"""Two 29ths of February are no further apart than so many years."""

MAX_DEPTH = 4
"""Objects within a line's object that are looked into: payload, body, usage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRequest:
    """One request as a line tells of it; None where it does not."""

    adapter_id: str
    at_s: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotARequest:
    """Why a line is not counted, for a reader."""

    reason: str


NO_MODEL = NotARequest(reason="lines of requests that do not name the model")
NO_REQUEST = NotARequest(reason="lines without a request")
OTHER_PATH = NotARequest(reason="requests for something else than a completion")
REFUSED = NotARequest(reason="requests refused as bad (4xx, but not 429)")
BASE_MODEL = NotARequest(reason="requests for the base model")
NO_JSON = NotARequest(reason="lines that begin like JSON and are not")

_MODEL = (
    "requested_model",
    "model_group",
    "model",
    "model_name",
    "lora_name",
    "adapter",
    "gen_ai.request.model",
)
_TIME = (
    "timestamp",
    "@timestamp",
    "time",
    "ts",
    "startTime",
    "start_time",
    "time_iso8601",
    "time_local",
    "msec",
    "created_at",
    "datetime",
)
_INPUT = ("prompt_tokens", "input_tokens", "gen_ai.usage.input_tokens", "num_prompt_tokens")
_OUTPUT = ("completion_tokens", "output_tokens", "generation_tokens", "gen_ai.usage.output_tokens")
_STATUS = ("status", "status_code", "http_status", "response_code", "statusCode")
_PATH = ("path", "request_uri", "uri", "url", "endpoint", "route", "call_type", "request")

_COMPLETIONS = re.compile(
    r"completion|/responses|/messages|/generate|/embeddings|/invocations|/score|/rerank"
)
_REQUEST_LINE = re.compile(r'"?(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (\S+) HTTP/[\d.]+"?\s+(\d{3})?')
_VLLM_REQUEST = re.compile(r"Received request (\S+?):")
_VLLM_LORA = re.compile(r"""LoRARequest\(lora_name=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
_VLLM_PROMPT_IDS = re.compile(r"prompt_token_ids: \[([\d, ]*)\]")
_PAIR = re.compile(r'([A-Za-z_.]+)"?\s*[=:]\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",}]+))')
_CLF_TIME = re.compile(r"\[?(\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2} [+-]\d{4})\]?")
_ISO_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(?:[.,]\d+)?(?:Z|[+-]\d{2}:?\d{2})?")
_VLLM_TIME = re.compile(r"\b(\d{2})-(\d{2}) (\d{2}:\d{2}:\d{2})\b")

_MILLISECONDS = 1e11
_NANOSECONDS = 1e17
"""Epoch numbers beyond these count smaller units: 1e11 s is the year 5138."""


def read_line(line: str) -> LogRequest | NotARequest:
    """Return the request of a line, or why it has none."""
    text = line.strip()
    if text.startswith("{"):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            return NO_JSON
        return _from_json(record)
    if _VLLM_REQUEST.search(text):
        return _from_vllm(text)
    return _from_text(text)


def read_with(pattern: re.Pattern[str], line: str) -> LogRequest | NotARequest:
    """Return the request of a line that a pattern finds.

    Parameters
    ----------
    pattern
        With a group ``model``, and perhaps ``time``, ``input_tokens`` and ``output_tokens``.
    """
    found = pattern.search(line)
    if found is None:
        return NO_REQUEST
    groups = found.groupdict()
    if not groups.get("model"):
        return NO_MODEL
    return LogRequest(
        adapter_id=groups["model"],
        at_s=_seconds(groups.get("time")),
        input_tokens=_tokens(groups.get("input_tokens")),
        output_tokens=_tokens(groups.get("output_tokens")),
    )


def _from_json(record: Mapping[str, Any]) -> LogRequest | NotARequest:
    flat = dict(_flattened(record))
    path = _first(flat, _PATH)
    if isinstance(path, str) and ("/" in path or " " in path) and not _COMPLETIONS.search(path):
        return OTHER_PATH
    if _is_refused(_first(flat, _STATUS)):
        return REFUSED
    model = _first(flat, _MODEL) or _model_of_path(path)
    if not isinstance(model, str) or not model:
        return NO_MODEL if path is not None or _first(flat, _INPUT) is not None else NO_REQUEST
    return LogRequest(
        adapter_id=model,
        at_s=_seconds(_first(flat, _TIME)),
        input_tokens=_tokens(_first(flat, _INPUT)),
        output_tokens=_tokens(_first(flat, _OUTPUT)),
    )


def _flattened(record: Mapping[str, Any], depth: int = 0) -> Iterable[tuple[str, Any]]:
    """Yield names and values, deeper ones first, so that a dictionary of them keeps the outermost."""
    for value in record.values():
        inner = value
        if isinstance(value, str) and value.startswith("{"):  # nginx logs a body as text
            inner = _parsed(value)
        if isinstance(inner, dict) and depth < MAX_DEPTH:
            yield from _flattened(inner, depth + 1)
    for name, value in record.items():
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            yield name, value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _from_vllm(text: str) -> LogRequest | NotARequest:
    before, _, last = text.rpartition("lora_request: ")  # a prompt, which comes before, may hold anything
    name = _VLLM_LORA.match(last)
    if name is None:
        return BASE_MODEL
    ids = _VLLM_PROMPT_IDS.search(before, max(0, before.rfind("prompt_token_ids: [")))
    return LogRequest(
        adapter_id=ast.literal_eval(name.group(1)),
        at_s=_time_in(text),
        input_tokens=len(ids.group(1).split(",")) if ids and ids.group(1).strip() else None,
    )


def _from_text(text: str) -> LogRequest | NotARequest:
    request = _REQUEST_LINE.search(text)
    beside = text[: request.start(2)] + text[request.end(2) :] if request else text
    pairs = {name: quoted or plain for name, quoted, plain in _PAIR.findall(beside)}
    path = request.group(2) if request else None
    if path is not None and not _COMPLETIONS.search(path):
        return OTHER_PATH
    if _is_refused(request.group(3) if request else _first(pairs, _STATUS)):
        return REFUSED
    model = _first(pairs, _MODEL) or _model_of_path(path)
    if not model:
        return NO_MODEL if request else NO_REQUEST
    return LogRequest(
        adapter_id=model,
        at_s=_time_in(text),
        input_tokens=_tokens(_first(pairs, _INPUT)),
        output_tokens=_tokens(_first(pairs, _OUTPUT)),
    )


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((values[name] for name in names if values.get(name) not in {None, "", "-"}), None)


def _model_of_path(path: Any) -> str | None:
    """Return the model that a query names: ``/v1/completions?model=a1``."""
    if not isinstance(path, str) or "model=" not in path:
        return None
    try:
        return parse_qs(urlsplit(path.split(" ")[1] if " " in path else path).query).get("model", [None])[0]
    except (ValueError, IndexError):
        return None


def _is_refused(status: Any) -> bool:
    text = str(status)
    return len(text) == 3 and text.startswith("4") and text != str(TOO_MANY_REQUESTS)  # noqa: PLR2004


def _tokens(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _time_in(text: str) -> float | None:
    """Return the time that a text line begins with or holds, in seconds."""
    for pattern in (_CLF_TIME, _ISO_TIME):
        if found := pattern.search(text):
            return _seconds(found.group(1) if pattern is _CLF_TIME else found.group(0))
    if found := _VLLM_TIME.search(text):
        return _in_latest_year(*found.groups())
    return None


def _in_latest_year(month: str, day: str, clock: str) -> float | None:
    """Return the last such moment that is not yet to come: vLLM leaves the year out.

    A log over New Year then stays a log of days. Clocks of other zones may be ahead of ours by a day.
    """
    latest = datetime.now(UTC) + timedelta(days=1)
    for year in range(latest.year, latest.year - LEAP_YEARS_APART - 1, -1):
        seconds = _seconds(f"{year}-{month}-{day} {clock}")
        if seconds is not None and seconds <= latest.timestamp():
            return seconds
    return None


def _seconds(value: Any) -> float | None:
    """Return seconds since 1970 of a number in seconds, ms or ns, of an ISO time or of nginx's."""
    if isinstance(value, (int, float)):
        return _epoch_s(float(value))
    if not isinstance(value, str):
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return _epoch_s(float(value))
    try:
        if "/" in value:
            return datetime.strptime(value, "%d/%b/%Y:%H:%M:%S %z").timestamp()
        moment = datetime.fromisoformat(value.replace(",", "."))
    except (ValueError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _epoch_s(value: float) -> float | None:
    if not math.isfinite(value) or value < 0:
        return None
    if value > _NANOSECONDS:
        return value / 1e9
    return value / 1e3 if value > _MILLISECONDS else value
