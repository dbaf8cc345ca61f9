"""Shapes of base models: the ones that measurement sets name, and any from its `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twin.domain import ModelShape
from twin.errors import InvalidInputError

DTYPE_BYTES = 2
"""bfloat16 or float16, as served."""

EMBEDDING_LORA_ARCHITECTURES = frozenset({"LlamaForCausalLM", "MistralForCausalLM"})
"""Architectures whose embedding and output head get LoRA buffers in vLLM 0.8."""

KNOWN_SHAPES = {
    "llama-3.1-8b-instruct": ModelShape(
        num_layers=32,
        hidden_size=4096,
        intermediate_size=14336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=128256,
        dtype_bytes=DTYPE_BYTES,
        max_model_len=131072,
        has_embedding_lora=True,
    ),
    "qwen-2.5-7b-instruct": ModelShape(
        num_layers=28,
        hidden_size=3584,
        intermediate_size=18944,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        vocab_size=152064,
        dtype_bytes=DTYPE_BYTES,
        max_model_len=32768,
        has_embedding_lora=False,
    ),
}


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """Return the shapes that a Hugging Face `config.json` states.

    Raises
    ------
    InvalidInputError
        Naming the key that is missing.
    """
    if not isinstance(config, Mapping):
        raise InvalidInputError("config", f"must be an object, got {type(config).__name__}")
    try:
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        return ModelShape(
            num_layers=int(config["num_hidden_layers"]),
            hidden_size=hidden,
            intermediate_size=int(config["intermediate_size"]),
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads", heads)),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocab_size=int(config["vocab_size"]),
            dtype_bytes=DTYPE_BYTES,
            max_model_len=int(config["max_position_embeddings"]),
            has_embedding_lora=bool(
                EMBEDDING_LORA_ARCHITECTURES.intersection(config.get("architectures", ()))
            ),
        )
    except KeyError as error:
        raise InvalidInputError(f"config.{error.args[0]}", "is missing") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidInputError("config", f"holds a shape that is no number: {error}") from error
