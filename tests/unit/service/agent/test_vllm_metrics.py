"""What a vLLM server's metrics say: names and labels as the server writes them."""

import pytest

from service.agent.vllm_metrics import LORA_INFO, RUNNING, interval_between, read_exposition

TEXT = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="base"} 3.0
vllm:num_requests_running{engine="1",model_name="base"} 2.0
vllm:cache_config_info{block_size="32",cache_dtype="auto",num_gpu_blocks="199",engine="0"} 1.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a,b",waiting_lora_adapters=""} 1.7e9
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a",waiting_lora_adapters=""} 1.6e9
vllm:iteration_tokens_total_count{engine="0"} %(steps)s
vllm:prompt_tokens_total{engine="0"} %(prompts)s
vllm:generation_tokens_total{engine="0"} %(generated)s
vllm:time_to_first_token_seconds_count{engine="0"} %(started)s
vllm:time_to_first_token_seconds_sum{engine="0"} %(ttft_s)s
vllm:request_success_total{engine="0",finished_reason="stop"} 1.0
vllm:request_success_total{engine="0",finished_reason="length"} %(finished)s
%(itl)s_count{engine="0"} %(gaps)s
%(itl)s_sum{engine="0"} %(gap_s)s
not a sample
"""
BEFORE = {
    "steps": 10.0,
    "prompts": 100.0,
    "generated": 50.0,
    "started": 4.0,
    "ttft_s": 1.0,
    "finished": 2.0,
    "gaps": 46.0,
    "gap_s": 0.5,
}
AFTER = {
    "steps": 60.0,
    "prompts": 400.0,
    "generated": 450.0,
    "started": 14.0,
    "ttft_s": 1.5,
    "finished": 9.0,
    "gaps": 446.0,
    "gap_s": 4.5,
}
ITL = "vllm:inter_token_latency_seconds"


def scrape(values, at_s, itl=ITL):
    return read_exposition(TEXT % (values | {"itl": itl}), at_s)


def test_samples_of_a_name_are_summed_over_their_labels():
    assert scrape(BEFORE, 0.0).first(RUNNING) == 5


def test_the_kv_cache_is_its_blocks_times_their_size():
    seen = scrape(BEFORE, 0.0)
    assert (seen.kv_tokens, seen.block_size) == (199 * 32, 32)
    assert read_exposition("", 0.0).kv_tokens is None


@pytest.mark.parametrize("order", [1, -1])
def test_of_an_info_with_several_series_the_newest_counts(order):
    lines = (TEXT % (BEFORE | {"itl": ITL})).splitlines()[::order]
    seen = read_exposition("\n".join(lines), 0.0)
    assert seen.labels[LORA_INFO]["running_lora_adapters"] == "a,b"


@pytest.mark.parametrize("itl", [ITL, "vllm:time_per_output_token_seconds"])
def test_two_scrapes_tell_what_happened_between_them(itl):
    seen = interval_between(scrape(BEFORE, 1.0, itl), scrape(AFTER, 3.0, itl))
    assert (seen.duration_s, seen.num_steps, seen.prompt_tokens, seen.generated_tokens) == (2, 50, 300, 400)
    assert (seen.num_started, seen.num_finished) == (10, 7)
    assert seen.ttft_ms == pytest.approx(50)
    assert seen.itl_ms == pytest.approx(10)
