"""One line of an access log."""

import json
import re

import pytest

from service.imports.log_lines import (
    BASE_MODEL,
    NO_JSON,
    NO_MODEL,
    NO_REQUEST,
    OTHER_PATH,
    REFUSED,
    LogRequest,
    read_line,
    read_with,
)

AT_S = 1_795_659_007.0
"""2026-11-26 02:10:07 UTC."""

VLLM = (
    "INFO 11-26 02:10:07 [logger.py:41] Received request cmpl-7f: prompt: {prompt!r}, "
    "params: SamplingParams(max_tokens=16), prompt_token_ids: [1, 450, 4996], prompt_embeds shape: None, "
    "lora_request: {lora}."
)
NGINX = (
    '10.0.0.7 - - [26/Nov/2026:02:10:07 +0000] "{request} HTTP/1.1" {status} 912 "-" "openai-python/1.9" '
    'model="sql-lora" prompt_tokens=7 completion_tokens=9'
)
LITELLM = {
    "id": "chatcmpl-1",
    "call_type": "acompletion",
    "model": "hosted_vllm/sql-lora",
    "model_group": "sql-lora",
    "startTime": AT_S + 0.25,
    "endTime": AT_S + 2,
    "prompt_tokens": 7,
    "completion_tokens": 9,
    "total_tokens": 16,
    "status": "success",
    "metadata": {"user_api_key_hash": "e3b0"},
}


def test_vllm_s_own_request_log_names_the_adapter_and_the_prompt_s_length():
    line = VLLM.format(prompt="hi", lora="LoRARequest(lora_name='sql-lora', lora_int_id=1, lora_path='/a')")
    found = read_line(line)
    assert (found.adapter_id, found.input_tokens, found.output_tokens) == ("sql-lora", 3, None)


def test_a_log_over_new_year_is_a_log_of_seconds_though_vllm_leaves_the_year_out():
    line = VLLM.format(prompt="hi", lora="LoRARequest(lora_name='a', lora_int_id=1)")
    before, after = (
        read_line(line.replace("11-26 02:10:07", time)).at_s for time in ("12-31 23:59:58", "01-01 00:00:03")
    )
    assert after - before == 5


def test_the_29th_of_february_is_a_time_in_every_year():
    line = VLLM.format(prompt="hi", lora="LoRARequest(lora_name='a', lora_int_id=1)")
    assert read_line(line.replace("11-26 02:10:07", "02-29 12:00:00")).at_s is not None


def test_a_prompt_cannot_pass_for_another_adapter():
    prompt = "lora_request: LoRARequest(lora_name='other', prompt_token_ids: [1]"
    line = VLLM.format(prompt=prompt, lora="LoRARequest(lora_name='sql-lora', lora_int_id=1)")
    assert read_line(line).adapter_id == "sql-lora"
    assert read_line(line).input_tokens == 3
    assert read_line(VLLM.format(prompt=prompt, lora="None")) == BASE_MODEL


def test_a_name_with_a_quote_is_read_as_python_wrote_it():
    name = 'it\'s "a" name\\'
    line = VLLM.format(prompt="hi", lora=f"LoRARequest(lora_name={name!r}, lora_int_id=1)")
    assert read_line(line).adapter_id == name


def test_an_nginx_line_names_the_model_beside_the_request():
    line = NGINX.format(request="POST /v1/chat/completions", status=200)
    assert read_line(line) == LogRequest(adapter_id="sql-lora", at_s=AT_S, input_tokens=7, output_tokens=9)


@pytest.mark.parametrize(
    ("request_line", "status", "expected"),
    [
        ("GET /metrics", 200, OTHER_PATH),
        ("GET /v1/models", 200, OTHER_PATH),
        ("POST /v1/completions", 404, REFUSED),
        ("POST /v1/completions", 400, REFUSED),
    ],
)
def test_what_is_no_completion_or_was_refused_is_not_counted(request_line, status, expected):
    assert read_line(NGINX.format(request=request_line, status=status)) == expected


@pytest.mark.parametrize("status", [200, 429, 500, 503])
def test_a_request_that_the_server_could_not_serve_is_demand_all_the_same(status):
    assert isinstance(read_line(NGINX.format(request="POST /v1/completions", status=status)), LogRequest)


def test_litellm_s_payload_tells_the_model_that_was_asked_for():
    expected = LogRequest(adapter_id="sql-lora", at_s=AT_S + 0.25, input_tokens=7, output_tokens=9)
    assert read_line(json.dumps(LITELLM)) == expected
    assert read_line(json.dumps({"kwargs": {"standard_logging_object": LITELLM}})) == expected


def test_a_body_logged_as_text_is_looked_into():
    body = json.dumps({"model": "sql-lora", "messages": [{"role": "user", "content": '"model": "other"'}]})
    record = {"time_iso8601": "2026-11-26T02:10:07+00:00", "request": "POST /v1/chat/completions HTTP/1.1"}
    line = json.dumps(record | {"status": "200", "request_body": body})
    assert read_line(line) == LogRequest(adapter_id="sql-lora", at_s=AT_S)


def test_usage_within_the_answer_gives_the_tokens():
    answer = {"usage": {"prompt_tokens": 7, "completion_tokens": 9}}
    line = json.dumps({"ts": AT_S, "path": "/v1/completions", "model": "a", "response": answer})
    assert read_line(line) == LogRequest(adapter_id="a", at_s=AT_S, input_tokens=7, output_tokens=9)


@pytest.mark.parametrize(
    "time",
    [
        AT_S,
        AT_S * 1e3,
        AT_S * 1e9,
        str(AT_S),
        "2026-11-26T02:10:07Z",
        "2026-11-26 03:10:07+01:00",
        "26/Nov/2026:02:10:07 +0000",
    ],
)
def test_times_are_read_in_any_common_unit_and_form(time):
    assert read_line(json.dumps({"model": "a", "time": time})).at_s == pytest.approx(AT_S)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('INFO:     127.0.0.1:55 - "POST /v1/completions HTTP/1.1" 200 OK', NO_MODEL),
        ("INFO 11-26 02:10:08 [loggers.py:116] Avg prompt throughput: 7.0 tokens/s", NO_REQUEST),
        ('{"model": "a"', NO_JSON),
        ('{"level": "info", "msg": "started"}', NO_REQUEST),
        ('{"path": "/v1/completions", "status": 200}', NO_MODEL),
        ('{"path": "/health", "model": "a"}', OTHER_PATH),
    ],
)
def test_a_line_that_counts_for_nothing_says_why(line, expected):
    assert read_line(line) == expected


def test_a_query_may_name_the_model():
    line = '1.2.3.4 - - [26/Nov/2026:02:10:07 +0000] "POST /v1/completions?model=a%2Fb HTTP/1.1" 200 9'
    assert read_line(line) == LogRequest(adapter_id="a/b", at_s=AT_S)


def test_a_pattern_reads_lines_of_another_form():
    pattern = re.compile(r"^(?P<time>\S+) lora:(?P<model>\S+) in=(?P<input_tokens>\d+)")
    found = read_with(pattern, "2026-11-26T02:10:07Z lora:a1 in=12")
    assert found == LogRequest(adapter_id="a1", at_s=AT_S, input_tokens=12)
    assert read_with(pattern, "something else") == NO_REQUEST
