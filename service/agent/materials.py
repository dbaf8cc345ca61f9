"""What a server needs to be measured, made here: adapters, a tokenizer, small weights. Nothing is fetched.

Speed does not depend on the numbers in the matrices, so all are random. Real base models need none of
their weights either: vLLM's ``--load-format dummy`` makes them up from ``config.json``. Its CPU backend is
given small real files instead.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from service.agent.errors import MaterialsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
TARGETS = (*ATTENTION, *MLP)
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
STD = 0.02
"""Of every random matrix: large enough to be no zero, small enough to overflow nothing."""

SMALL_MODEL: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 1024,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "bfloat16",
}
"""A Llama that a processor core serves a thousand tokens a second of."""


def read_config(directory: Path) -> Mapping[str, Any]:
    """Return a model's ``config.json``.

    Raises
    ------
    MaterialsError
        It is missing or no JSON object.
    """
    path = directory / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MaterialsError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise MaterialsError(f"{path} must hold a JSON object")
    return config


def make_model(directory: Path, config: Mapping[str, Any] = SMALL_MODEL) -> Path:
    """Write a model of random weights with a tokenizer, unless it is there; return its directory.

    For a small dense Llama. Larger models are better served with ``--load-format dummy``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / CONFIG).is_file() and read_config(directory) == dict(config):
        return directory
    rng = np.random.default_rng(0)
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    weights = {
        "model.embed_tokens.weight": _random(rng, vocab, hidden),
        "lm_head.weight": _random(rng, vocab, hidden),
        "model.norm.weight": np.ones(hidden, np.float16),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}.{norm}.weight"] = np.ones(hidden, np.float16)
        for target, shape in _shapes(config).items():
            weights[f"{prefix}.{_block(target)}.{target}.weight"] = _random(rng, *shape)
    _save(weights, directory / WEIGHTS)
    make_tokenizer(directory, vocab)
    # Last: a directory with a configuration is a whole model.
    (directory / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
    return directory


def make_tokenizer(directory: Path, vocab_size: int) -> None:
    """Write a byte-level tokenizer in which every id has a text, unless there is one."""
    path = directory / "tokenizer.json"
    if path.is_file():
        return
    names = [*SPECIAL_TOKENS, *_byte_alphabet()]
    names += [f"\u0120w{number:05d}" for number in range(len(names), vocab_size)]
    vocabulary = {name: number for number, name in enumerate(names[:vocab_size])}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": SPECIAL_TOKENS[0],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def make_adapter(
    directory: Path, config: Mapping[str, Any], rank: int, *, seed: int = 0, targets: Sequence[str] = TARGETS
) -> Path:
    """Write a random adapter for a model in peft's layout, unless it is there; return its directory.

    Parameters
    ----------
    config
        The base model's ``config.json``.
    rank, seed, targets
        Of the adapter; another seed, other numbers.

    Raises
    ------
    MaterialsError
        A target that the model does not have.
    """
    if unknown := sorted(set(targets) - set(TARGETS)):
        raise MaterialsError(f"targets must be among {', '.join(TARGETS)}, got {unknown[0]!r}")
    if (directory / ADAPTER_CONFIG).is_file():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, rank])
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        for target in targets:
            rows, columns = _shapes(config)[target]
            prefix = f"base_model.model.model.layers.{layer}.{_block(target)}.{target}"
            weights[f"{prefix}.lora_A.weight"] = _random(rng, rank, columns)
            weights[f"{prefix}.lora_B.weight"] = _random(rng, rows, rank)
    _save(weights, directory / ADAPTER_WEIGHTS)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": list(targets),
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
        "base_model_name_or_path": "base",
    }
    (directory / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=1), encoding="utf-8")
    return directory


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return rows (out) and columns (in) of each projection of a layer."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    queries, keys = heads * head_dim, config.get("num_key_value_heads", heads) * head_dim
    return {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }


def _block(target: str) -> str:
    return "self_attn" if target in ATTENTION else "mlp"


def _random(rng: np.random.Generator, *shape: int) -> NDArray[np.float16]:
    return (rng.standard_normal(shape, dtype=np.float32) * STD).astype(np.float16)


def _save(weights: Mapping[str, NDArray[np.float16]], path: Path) -> None:
    try:
        from safetensors.numpy import save_file  # noqa: PLC0415 (the extra `agent`)
    except ImportError as error:
        raise MaterialsError("safetensors is not installed: pip install 'loadmaster[agent]'") from error

    save_file(dict(weights), path, metadata={"format": "pt"})


def _byte_alphabet() -> list[str]:
    """Return the characters that byte-level tokenizers write the 256 bytes as, sorted."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return sorted([chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))])
