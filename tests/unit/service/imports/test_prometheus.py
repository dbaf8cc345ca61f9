"""Rates and lengths from Prometheus' documented answers, and from the real Prometheus where there is one."""

import httpx
import orjson
import pytest

from service.errors import ImportSourceError
from service.imports.prometheus import GATEWAYS, Counters, Prometheus
from service.imports.tally import RateRule
from tests.support.prometheus_server import counter_lines, needs_prometheus, prometheus, recently_s

LITELLM = GATEWAYS[0]


def server(answers, asked=None):
    """Return a transport that answers a query by the metric in it, as Prometheus' HTTP API does."""

    def answer(request):
        form = dict(httpx.QueryParams(request.content.decode()))
        if asked is not None:
            asked.append((request.url.path, form, request.headers))
        matched = next((series for metric, series in answers.items() if f"({metric}{{" in form["query"]), [])
        kind = "matrix" if request.url.path.endswith("query_range") else "vector"
        return httpx.Response(
            200, json={"status": "success", "data": {"resultType": kind, "result": matched}}
        )

    return httpx.MockTransport(answer)


def vector(label, **values):
    return [{"metric": {label: name}, "value": [0, str(value)]} for name, value in values.items()]


def source(transport, **changes):
    return Prometheus(url="http://prometheus:9090", transport=transport, at_s=1e9, **changes)


def test_lengths_are_tokens_over_requests():
    answers = {
        LITELLM.requests: vector(LITELLM.label, a=0.5, b=2),
        LITELLM.input_tokens: vector(LITELLM.label, a=50),
        LITELLM.output_tokens: vector(LITELLM.label, a=100, b=20),
    }
    told = source(server(answers)).read()
    assert told.adapters["a"].rate_rps == 0.5
    assert (told.adapters["a"].input_tokens_mean, told.adapters["a"].output_tokens_mean) == (100, 200)
    assert (told.adapters["b"].input_tokens_mean, told.adapters["b"].output_tokens_mean) == (None, 10)


@pytest.mark.parametrize("gateway", GATEWAYS, ids=lambda gateway: gateway.name)
def test_the_gateway_is_known_by_its_counters(gateway):
    told = source(server({gateway.requests: vector(gateway.label, a=0.5)})).read()
    assert told.adapters["a"].rate_rps == 0.5


def test_a_series_that_did_not_grow_is_counted_and_left_out():
    told = source(server({LITELLM.requests: vector(LITELLM.label, a=0.5, idle=0)})).read()
    assert set(told.adapters) == {"a"}
    assert told.dropped == {"series that did not grow": 1}


def test_the_window_selector_and_end_are_those_asked_for():
    asked = []
    rule = RateRule(window_s=7200)
    transport = server({LITELLM.requests: vector(LITELLM.label, a=1)}, asked)
    source(transport, rule=rule, selector='namespace="llm"', token="secret").read()
    path, form, headers = asked[0]
    assert path == "/api/v1/query"
    assert (
        form["query"] == f'sum by (requested_model) (rate({LITELLM.requests}{{namespace="llm"}}[7200000ms]))'
    )
    assert form["time"] == "1000000000.000"
    assert headers["authorization"] == "Bearer secret"


def test_a_quantile_looks_at_slices_and_a_missing_point_is_no_traffic():
    series = [{"metric": {"model": "a"}, "values": [[0, "4"], [300, "NaN"]]}]

    def answer(request):
        is_range = request.url.path.endswith("query_range")
        result = series if is_range else vector("model", a=1)
        return httpx.Response(200, json={"status": "success", "data": {"result": result}})

    counters = Counters(name="own", label="model", requests="mine_total")
    read = source(
        httpx.MockTransport(answer), counters=counters, rule=RateRule(window_s=1200, quantile=1.0)
    ).read
    assert read().adapters["a"].rate_rps == 4
    median = source(
        httpx.MockTransport(answer), counters=counters, rule=RateRule(window_s=1200, quantile=0.5)
    ).read()
    assert median.adapters["a"].rate_rps == 1  # the median of 4, 0, 0, 0 is below the mean


def test_vllm_s_own_counters_are_refused_with_the_reason():
    transport = server({"vllm:request_success_total": vector("model_name", base=3)})
    with pytest.raises(ImportSourceError, match="base model for every adapter"):
        source(transport).read()


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(200, text="<html>"), "is no Prometheus"),
        (
            httpx.Response(400, content=orjson.dumps({"status": "error", "error": "parse error"})),
            "parse error",
        ),
        (httpx.Response(200, json=[]), "refuses"),
    ],
)
def test_what_does_not_answer_as_prometheus_is_told(response, message):
    with pytest.raises(ImportSourceError, match=message):
        source(httpx.MockTransport(lambda _request: response)).read()


@needs_prometheus
def test_the_real_prometheus_gives_the_rates_that_its_counters_grew_by(tmp_path):
    end_s = recently_s()
    lines = [
        *counter_lines(LITELLM.requests, LITELLM.label, {"sql": 0.5, "chat": 0.02}, end_s, 7200),
        *counter_lines(LITELLM.input_tokens, LITELLM.label, {"sql": 60, "chat": 10}, end_s, 7200),
        *counter_lines(LITELLM.output_tokens, LITELLM.label, {"sql": 30, "chat": 4}, end_s, 7200),
    ]
    with prometheus(tmp_path, lines) as url:
        told = Prometheus(url=url, at_s=end_s, rule=RateRule(window_s=3600, quantile=0.9)).read()
        with pytest.raises(ImportSourceError, match="refuses"):
            Prometheus(url=url, at_s=end_s, selector="not a matcher").read()
    assert told.adapters["sql"].rate_rps == pytest.approx(0.5, rel=0.01)
    assert told.adapters["sql"].input_tokens_mean == pytest.approx(120, rel=0.01)
    assert told.adapters["chat"].output_tokens_mean == pytest.approx(200, rel=0.01)
