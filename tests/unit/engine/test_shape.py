"""What a config.json says of a model's form, and how one that the engine does not run is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.errors import ModelUnavailable
from workers.engine.models.registry import read_shape
from workers.engine.models.shape import Shape
from workers.engine.rotary import Rotary

BASE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
LLAMA, MISTRAL, QWEN2, GEMMA3, SMOLLM3 = (
    {**BASE, "architectures": [f"{name}ForCausalLM"]} for name in ("Llama", "Mistral", "Qwen2", "Gemma3", "SmolLM3")
)
MIXED = ["full_attention", "sliding_attention", "chunked_attention", "full_attention"]


def shape_of(folder: Path, config: dict[str, Any]) -> Shape:
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return read_shape(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {**BASE, "architectures": ["MixtralForCausalLM"]},
            "architecture 'MixtralForCausalLM' is not supported; supported: Gemma3ForCausalLM, LlamaForCausalLM, MistralForCausalLM, "
            "Qwen2ForCausalLM, Qwen3ForCausalLM, SmolLM3ForCausalLM. HEADRACE_ENGINE=transformers serves other models",
        ),
        (BASE, "architecture None is not supported"),
        (
            {**LLAMA, "quantization_config": {"quant_method": "gptq"}},
            "quantized weights (gptq) are not supported; use the model's ",
        ),
        ({**LLAMA, "quantization_config": "fp8"}, "quantized weights (fp8) are not supported"),
        ({**LLAMA, "hidden_act": "relu"}, "hidden_act='relu' is not supported; supported: silu, gelu_pytorch_tanh"),
        ({**GEMMA3, "hidden_activation": "gelu"}, "hidden_activation='gelu' is not supported"),
        ({**GEMMA3, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0 is not supported"),
        ({**GEMMA3, "final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0 is not supported"),
        ({**GEMMA3, "use_bidirectional_attention": True}, "use_bidirectional_attention=True is not supported"),
        ({**GEMMA3, "layer_types": MIXED}, "'chunked_attention' in layer_types is not supported; supported: full_attention, sliding_"),
        ({**QWEN2, "layer_types": MIXED}, "'chunked_attention' in layer_types is not supported"),
        ({**QWEN2, "layer_types": ["full_attention"]}, "'layer_types' must be a list of 4, one for each layer, got ['full_attention']"),
        ({**QWEN2, "layer_types": ["sliding_attention"] * 4}, "'sliding_attention' in layer_types without use_sliding_window"),
        ({**SMOLLM3, "layer_types": ["sliding_attention"] * 4}, "a sliding window is not supported"),
        ({**MISTRAL, "sliding_window": 0}, "'sliding_window' must be an integer of at least 1, got 0"),
        ({**LLAMA, "hidden_size": ...}, "'hidden_size' must be an integer of at least 1, got None"),
        ({**LLAMA, "num_hidden_layers": True}, "'num_hidden_layers' must be an integer of at least 1, got True"),
        ({**LLAMA, "rms_norm_eps": "small"}, "'rms_norm_eps' must be a positive number, got 'small'"),
        ({**LLAMA, "num_key_value_heads": 3}, "num_key_value_heads=3 is not supported; supported: what divides num_attention_heads=4"),
        ({**LLAMA, "head_dim": 10}, "head_dim=10 is not supported; supported: multiples of 4"),
        (
            {**LLAMA, "rope_scaling": {"rope_type": "longrope", "long_factor": [1.0]}},
            "rope_type='longrope' is not supported; supported: default, dynamic, linear, llama3, yarn",
        ),
        ({**LLAMA, "rope_scaling": [1]}, "'rope_scaling' must be an object, got [1]"),
        ({**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported; supported: 1"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        shape_of(tmp_path, config)
    assert message in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_file_that_holds_no_object_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelUnavailable, match=r"config\.json"):
        read_shape(tmp_path)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "linear"}, "rope scaling 'linear' lacks 'factor'"),
        ({"type": "llama3", "factor": 8.0}, "rope scaling 'llama3' lacks 'low_freq_factor'"),
        ({"rope_type": "yarn", "factor": "4"}, "rope scaling .*'factor': '4'"),
    ],
)
def test_scaling_that_is_not_whole_is_named(tmp_path: Path, scaling: dict[str, Any], message: str) -> None:
    shape = shape_of(tmp_path, {**LLAMA, "rope_scaling": scaling})
    with pytest.raises(ModelUnavailable, match=message):
        Rotary(shape.ropes[0], shape.heads.dim, torch.device("cpu"))


def test_what_a_file_leaves_out_is_as_the_architecture_has_it(tmp_path: Path) -> None:
    gemma = shape_of(tmp_path, {**GEMMA3, "num_hidden_layers": 6})
    assert [kind.window for kind in gemma.layers] == [4096] * 5 + [None]
    assert (gemma.heads.dim, gemma.tied, gemma.embedding_scale) == (256, True, 8.0)
    assert [rope["rope_theta"] for rope in gemma.ropes if rope] == [1_000_000.0, 10_000.0]
    assert {kind.window for kind in shape_of(tmp_path, MISTRAL).layers} == {4096}
    assert {kind.window for kind in shape_of(tmp_path, {**MISTRAL, "sliding_window": None}).layers} == {None}
    assert {kind.window for kind in shape_of(tmp_path, {**QWEN2, "sliding_window": 8, "max_window_layers": 0}).layers} == {None}
    assert [kind.rotation for kind in shape_of(tmp_path, SMOLLM3).layers] == [0, 0, 0, 1]
