"""Folders of adapters laid out as peft's `save_pretrained` and Hugging Face's cache lay them out."""

import json

LLAMA_ON_THE_HUB = "meta-llama/Llama-3.1-8B-Instruct"


def adapter_config(rank, **changes):
    """Return an `adapter_config.json` with the fields that peft 0.17 writes."""
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": LLAMA_ON_THE_HUB,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    } | changes


def write_adapter(folder, rank, **changes):
    """Write an adapter without its weights, which nothing here reads."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config(rank, **changes)))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder
