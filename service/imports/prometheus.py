"""A workload from Prometheus: rates and mean lengths of each adapter from a gateway's counters.

vLLM's own counters (``vllm:request_success_total``, ``vllm:prompt_tokens_total`` and the rest) carry the
label ``model_name``, which is the served base model for every adapter's requests too; its one series about
adapters, ``vllm:lora_requests_info``, counts nothing. So the counters asked for are those of a gateway.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from service.errors import ImportSourceError
from service.imports.observations import Observations, Seen
from service.imports.tally import OVER_THE_WINDOW, RateRule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT_WINDOW_S = 3600.0
MAX_POINTS = 11_000
"""Prometheus refuses a range of more points."""

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The counters of one kind of gateway.

    Attributes
    ----------
    name
        What the command line calls it.
    label
        The label that holds the model a client asked for: an adapter's name.
    requests, input_tokens, output_tokens
        Names of counters; None where the gateway has none.
    """

    name: str
    label: str
    requests: str
    input_tokens: str | None = None
    output_tokens: str | None = None


GATEWAYS = (
    Counters(
        name="litellm",
        label="requested_model",
        requests="litellm_proxy_total_requests_metric_total",
        input_tokens="litellm_input_tokens_metric_total",
        output_tokens="litellm_output_tokens_metric_total",
    ),
    Counters(
        name="production-stack",
        label="model",
        requests="vllm:num_incoming_requests_total",
        input_tokens="vllm:input_tokens_total",
        output_tokens="vllm:output_tokens_total",
    ),
    Counters(
        name="inference-extension",
        label="model_name",
        requests="inference_objective_request_total",
        input_tokens="inference_objective_input_tokens_sum",
        output_tokens="inference_objective_output_tokens_sum",
    ),
    Counters(
        name="inference-extension-0",
        label="model_name",
        requests="inference_model_request_total",
        input_tokens="inference_model_input_tokens_sum",
        output_tokens="inference_model_output_tokens_sum",
    ),
)
"""LiteLLM's proxy, the router of vLLM's production stack, the endpoint picker of Kubernetes' inference
extension (and its names before version 1). The first that has series is taken."""

VLLM_COUNTER = "vllm:request_success_total"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """Counters on a Prometheus server, read over its HTTP API.

    Attributes
    ----------
    url
        Such as ``http://prometheus:9090``.
    counters
        Which to read; None tries `GATEWAYS`.
    rule
        Window (an hour if not given), and how it becomes a rate.
    selector
        Label matchers, such as ``namespace="llm"``, that narrow every counter.
    at_s
        End of the window, seconds since 1970; None is now.
    token
        Bearer token, where the server asks for one.
    transport
        For tests: how requests are carried.
    """

    url: str
    counters: Counters | None = None
    rule: RateRule = OVER_THE_WINDOW
    selector: str = ""
    at_s: float | None = None
    token: str | None = None
    transport: httpx.BaseTransport | None = None
    now_s: Callable[[], float] = field(default=time.time)

    def read(self) -> Observations:
        """Return rates and mean lengths; raises as `Source.read`, naming the query."""
        window_s = self.rule.window_s or DEFAULT_WINDOW_S
        at_s = self.at_s if self.at_s is not None else self.now_s()
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        with httpx.Client(
            base_url=self.url, headers=headers, timeout=TIMEOUT_S, transport=self.transport
        ) as client:
            counters, rates = self._rates(client, window_s, at_s)
            slices = self._slices(client, counters, window_s, at_s)
            inputs = self._per_second(client, counters.input_tokens, counters.label, window_s, at_s)
            outputs = self._per_second(client, counters.output_tokens, counters.label, window_s, at_s)
        silent = [name for name, rate in rates.items() if not rate > 0]
        adapters = {
            name: Seen(
                rate_rps=self.rule.of_rates(rate, slices.get(name, np.empty(0))),
                input_tokens_mean=_ratio(inputs.get(name), rate),
                output_tokens_mean=_ratio(outputs.get(name), rate),
            )
            for name, rate in rates.items()
            if rate > 0
        }
        if not adapters:
            raise ImportSourceError(
                f"{self.url}: {counters.requests} did not grow in the last {window_s:.6g} s"
            )
        return Observations(
            source=self.url,
            adapters=adapters,
            window_s=window_s,
            dropped={"series that did not grow": len(silent)} if silent else {},
            notes=(f"{counters.requests} by {counters.label}, {window_s:.6g} s",),
        )

    def _rates(
        self, client: httpx.Client, window_s: float, at_s: float
    ) -> tuple[Counters, Mapping[str, float]]:
        """Return the counters that have series, and the mean rate of each adapter."""
        tried = GATEWAYS if self.counters is None else (self.counters,)
        for counters in tried:
            rates = self._per_second(client, counters.requests, counters.label, window_s, at_s)
            if rates:
                return counters, rates
        names = ", ".join(counters.requests for counters in tried)
        told = f"{self.url}: has no series of {names} in the last {window_s:.6g} s"
        if self._per_second(client, VLLM_COUNTER, "model_name", window_s, at_s):
            told += (
                "; it has vLLM's own counters, whose model_name is the base model for every adapter's "
                "requests: ask for those of the gateway before vLLM (--requests-metric, --label), or read "
                "its log"
            )
        raise ImportSourceError(told)

    def _per_second(
        self, client: httpx.Client, metric: str | None, label: str, window_s: float, at_s: float
    ) -> dict[str, float]:
        if metric is None:
            return {}
        query = f"sum by ({label}) (rate({metric}{{{self.selector}}}[{_duration(window_s)}]))"
        result = self._ask(client, "/api/v1/query", query=query, time=f"{at_s:.3f}")
        return {
            series["metric"][label]: _number(series["value"][1])
            for series in result
            if series.get("metric", {}).get(label)
        }

    def _slices(
        self, client: httpx.Client, counters: Counters, window_s: float, at_s: float
    ) -> dict[str, np.ndarray]:
        """Return each adapter's (num_slices,) rates, none where no quantile is asked for."""
        num_slices = int(window_s / self.rule.slice_s)
        if self.rule.quantile is None or num_slices == 0:
            return {}
        if num_slices > MAX_POINTS:
            raise ImportSourceError(
                f"must leave at most {MAX_POINTS} slices of the window, got {num_slices}", field="--slice-s"
            )
        step_s = self.rule.slice_s
        metric = f"{counters.requests}{{{self.selector}}}"
        result = self._ask(
            client,
            "/api/v1/query_range",
            query=f"sum by ({counters.label}) (rate({metric}[{_duration(step_s)}]))",
            start=f"{at_s - (num_slices - 1) * step_s:.3f}",
            end=f"{at_s:.3f}",
            step=f"{step_s:.3f}",
        )
        return {
            series["metric"][counters.label]: _padded(
                [_number(value) for _, value in series["values"]], num_slices
            )
            for series in result
            if series.get("metric", {}).get(counters.label)
        }

    def _ask(self, client: httpx.Client, path: str, **parameters: str) -> list[dict[str, Any]]:
        """Return the series of an answer."""
        query = parameters["query"]
        try:
            response = client.post(path, data=parameters)
        except httpx.HTTPError as error:
            raise ImportSourceError(f"{self.url}: does not answer: {error!r}") from error
        try:
            answer = response.json()
        except ValueError as error:
            raise ImportSourceError(
                f"{self.url}: what answers {path} is no Prometheus: status {response.status_code}",
            ) from error
        if not isinstance(answer, dict) or answer.get("status") != "success":
            reason = answer.get("error") if isinstance(answer, dict) else answer
            raise ImportSourceError(f"{self.url}: refuses {query}: {str(reason)[:200]}")
        return answer["data"]["result"]


def _padded(rates: list[float], num_slices: int) -> np.ndarray:
    return np.array([*rates, *[0.0] * (num_slices - len(rates))])


def _ratio(tokens_s: float | None, rate_rps: float) -> float | None:
    """Return tokens of a request; None where they were not counted."""
    return max(1.0, tokens_s / rate_rps) if tokens_s else None


def _number(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else 0.0


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds * 1e3))}ms"
