"""Plans as JSON values, as `place` answers."""


def gpu_document(gpu, adapters, **changes):
    flags = ["--enable-lora", "--max-loras", "32", "--max-lora-rank", "16", "--max-cpu-loras", "64"]
    predicted = {"throughput_tok_s": 900, "offered_tok_s": 900, "starvation_probability": 0.01}
    return {
        "gpu": gpu,
        "max_loras": 32,
        "max_lora_rank": 16,
        "adapters": list(adapters),
        "predicted": predicted | {"itl_ms": 20, "ttft_ms": 90, "out_of_range": []},
        "binding_constraint": "none",
        "head_room": {"throughput": 0.5, "slots": 0.5, "kv_memory": 0.5},
        "vllm_args": flags,
    } | changes


def plan_document(*adapters_of_gpu, **changes):
    """Return a plan whose GPU `i` serves ``adapters_of_gpu[i]``."""
    return {
        "plan_id": "f99cf677d3d8dd1646ce5702",
        "feasible": True,
        "num_gpus": len(adapters_of_gpu),
        "lower_bound": 1,
        "gap": 0,
        "bound_rests_on": "load",
        "given_up": None,
        "starvation_probability": 0.01,
        "gpus": [gpu_document(gpu, adapters) for gpu, adapters in enumerate(adapters_of_gpu)],
        "unplaced": [],
        "surrogate_version": "041f1c9b1e68",
        "calibration_id": "h100-64gb/llama-3.1-8b-instruct/vllm-0.8.5",
        "verification": {"status": "not_asked"},
    } | changes
