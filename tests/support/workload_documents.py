"""Workloads as JSON values, as users send them."""

LLAMA = "llama-3.1-8b-instruct"
QWEN = "qwen-2.5-7b-instruct"
LLAMA_CALIBRATION = "h100-64gb/llama-3.1-8b-instruct/vllm-0.8.5"


def adapter_document(number, **changes):
    document = {
        "id": f"adapter-{number}",
        "rank": (8, 16, 32)[number % 3],
        "rate_rps": 0.1,
        "input_tokens_mean": 223,
        "output_tokens_mean": 197,
    }
    return document | changes


def workload_document(num_adapters=4, **changes):
    adapters = [adapter_document(number) for number in range(num_adapters)]
    return {"base_model": LLAMA, "gpu_type": "h100-64gb", "adapters": adapters} | changes


def simulation_document(num_adapters=4, **changes):
    return {"workload": workload_document(num_adapters), "max_loras": 4, "horizon_s": 60.0} | changes
