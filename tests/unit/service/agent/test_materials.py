"""Materials: files that vLLM and peft read, of exactly the shapes that the model's configuration asks for."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from service.agent.errors import MaterialsError
from service.agent.materials import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    SMALL_MODEL,
    make_adapter,
    make_model,
    read_config,
)
from service.agent.traffic import prompt_of
from twin.memory import lora_bytes_per_rank
from twin.shapes import shape_from_config


@pytest.mark.parametrize("rank", [1, 8, 64])
def test_an_adapter_has_two_matrices_of_its_rank_for_each_target_of_each_layer(tmp_path, rank):
    made = make_adapter(tmp_path / "a", SMALL_MODEL, rank)
    weights = load_file(made / ADAPTER_WEIGHTS)
    assert json.loads((made / ADAPTER_CONFIG).read_text())["r"] == rank
    assert len(weights) == 2 * 7 * SMALL_MODEL["num_hidden_layers"]
    for name, matrix in weights.items():
        assert matrix.shape[0 if ".lora_A." in name else 1] == rank


def test_an_adapter_is_as_large_as_the_twin_counts_a_slot_without_embeddings(tmp_path):
    config = SMALL_MODEL | {"architectures": ["Qwen2ForCausalLM"]}
    weights = load_file(make_adapter(tmp_path / "a", config, 8) / ADAPTER_WEIGHTS)
    assert sum(matrix.nbytes for matrix in weights.values()) == 8 * lora_bytes_per_rank(
        shape_from_config(config)
    )


def test_the_same_seed_makes_the_same_adapter_and_another_one_another(tmp_path):
    first, same, other = (
        load_file(make_adapter(tmp_path / name, SMALL_MODEL, 4, seed=seed) / ADAPTER_WEIGHTS)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_only_the_targets_asked_for_are_made(tmp_path):
    made = make_adapter(tmp_path / "a", SMALL_MODEL, 4, targets=("q_proj", "v_proj"))
    assert {name.split(".")[6] for name in load_file(made / ADAPTER_WEIGHTS)} == {"q_proj", "v_proj"}
    with pytest.raises(MaterialsError, match="embed"):
        make_adapter(tmp_path / "b", SMALL_MODEL, 4, targets=("embed",))


def test_a_model_has_every_weight_and_a_text_for_every_token(tmp_path):
    made = make_model(tmp_path / "m")
    weights = load_file(made / "model.safetensors")
    assert weights["model.embed_tokens.weight"].shape == (1024, 256)
    assert "model.layers.1.mlp.down_proj.weight" in weights
    vocabulary = json.loads((made / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(1024))
    assert read_config(made) == SMALL_MODEL


def test_a_configuration_that_is_missing_is_told_by_its_path(tmp_path):
    with pytest.raises(MaterialsError, match=r"config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize("num_tokens", [1, 17, 500])
def test_a_prompt_has_exactly_the_tokens_asked_for_and_none_is_special(num_tokens):
    prompt = prompt_of(3, num_tokens, 1024)
    assert len(prompt) == num_tokens
    assert all(300 <= token < 1024 for token in prompt)
    assert prompt != prompt_of(4, num_tokens, 1024) or num_tokens == 1
