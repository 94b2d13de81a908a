"""The shape of a decoder: all in which the supported architectures differ, and what config.json says of it the same way for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workers.engine.attention import Heads, LayerKind
from workers.engine.layers import ActivationName
from workers.engine.models.config import Config
from workers.engine.rotary import SCALINGS, Rope

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ACTIVATIONS: Mapping[str, ActivationName] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, slots=True)
class NormNames:
    """Norms of a layer, as its tensors are called. Those behind attention and MLP are not in every architecture."""

    before_attention: str = "input_layernorm"
    before_mlp: str = "post_attention_layernorm"
    after_attention: str | None = None
    after_mlp: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What a decoder is built from. Biases are not here: a projection has one where the checkpoint has."""

    hidden: int
    inner: int
    vocab: int
    heads: Heads
    layers: Sequence[LayerKind]
    ropes: Sequence[Rope | None]
    """What `LayerKind.rotation` counts; None turns nothing."""
    activation: ActivationName
    eps: float
    dtype: torch.dtype
    """Of the checkpoint, as its config.json says."""
    tied: bool
    """The embedding is the output head too."""
    norms: NormNames = NormNames()
    norms_from_one: bool = False
    """Norm weights are stored as what they exceed 1 by, and multiply in float32."""
    head_norms: bool = False
    """Query and key heads are normalized before they are rotated."""
    embedding_scale: float = 1.0


def read_plain(
    config: Config, *, head_dim: int | None = None, tied: bool = False, theta: float = 10_000.0, activation: str = "hidden_act"
) -> Shape:
    """A shape in which all layers are alike and look at everything. The parameters are an architecture's own defaults, and what it
    calls its activation; it replaces in the result what else it has different.

    Raises ModelUnavailable for a field that is missing or malformed, or that asks for what is not supported.
    """
    config.refuse_quantized()
    hidden = config.count("hidden_size")
    heads = _read_heads(config, head_dim or hidden // config.count("num_attention_heads"))
    act = config.get(activation, "silu")
    if act not in _ACTIVATIONS:
        raise config.unsupported(f"{activation}={act!r}", *_ACTIVATIONS)
    return Shape(
        hidden=hidden,
        inner=config.count("intermediate_size"),
        vocab=config.count("vocab_size"),
        heads=heads,
        layers=[LayerKind(scale=heads.dim**-0.5)] * config.count("num_hidden_layers"),
        ropes=[_read_only_rope(config, theta)],
        activation=_ACTIVATIONS[act],
        eps=config.number("rms_norm_eps", 1e-6),
        dtype=_DTYPES.get(config.get("dtype") or config.get("torch_dtype") or "", torch.float32),
        tied=bool(config.get("tie_word_embeddings", tied)),
    )


def _read_heads(config: Config, head_dim: int) -> Heads:
    query = config.count("num_attention_heads")
    heads = Heads(query, config.count("num_key_value_heads", query), config.count("head_dim", head_dim))
    if heads.query % heads.kv:
        raise config.unsupported(f"num_key_value_heads={heads.kv}", f"what divides num_attention_heads={heads.query}")
    if heads.dim % 4:
        raise config.unsupported(f"head_dim={heads.dim}", "multiples of 4")
    return heads


def read_layer_types(config: Config, default: Sequence[str]) -> Sequence[str]:
    """FULL or SLIDING for each layer: `layer_types`, or `default` where that is missing."""
    types = config.items("layer_types", len(default)) or default
    for kind in types:
        if kind not in (FULL, SLIDING):
            raise config.unsupported(f"{kind!r} in layer_types", FULL, SLIDING)
    return types


def read_rope(config: Config, scaling: Mapping[str, Any], theta: float) -> Rope:
    """A rotation, with what config.json leaves out. The oldest files have `type` for `rope_type`."""
    given = {key: value for key, value in scaling.items() if value is not None}
    rope = {
        "rope_type": given.get("type", "default"),
        "rope_theta": theta,
        "original_max_position_embeddings": config.count("max_position_embeddings"),
        "partial_rotary_factor": config.number("partial_rotary_factor", 1.0),
        **given,
    }
    if rope["rope_type"] not in SCALINGS:
        raise config.unsupported(f"rope_type={rope['rope_type']!r}", *SCALINGS)
    if rope["partial_rotary_factor"] != 1:
        raise config.unsupported(f"partial_rotary_factor={rope['partial_rotary_factor']!r}", "1")
    return rope


def _read_only_rope(config: Config, theta: float) -> Rope:
    """transformers 5 writes `rope_parameters`; earlier versions `rope_theta` beside `rope_scaling`."""
    scaling = config.mapping("rope_parameters") or config.mapping("rope_scaling")
    return read_rope(config, scaling, config.number("rope_theta", theta))
