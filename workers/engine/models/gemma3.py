"""Gemma 3, text only: of six layers five have a window and angles of their own, and there are norms behind attention and MLP too."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workers.engine.attention import LayerKind
from workers.engine.models.config import Config
from workers.engine.models.shape import FULL, SLIDING, NormNames, Shape, read_layer_types, read_plain, read_rope
from workers.engine.rotary import Rope

_NORMS = NormNames(
    after_attention="post_attention_layernorm",
    before_mlp="pre_feedforward_layernorm",
    after_mlp="post_feedforward_layernorm",
)


def read_shape(config: Config) -> Shape:
    config.refuse("use_bidirectional_attention", "attn_logit_softcapping", "final_logit_softcapping")
    shape = read_plain(config, head_dim=256, tied=True, activation="hidden_activation")
    layers, pattern = len(shape.layers), config.count("sliding_window_pattern", 6)
    types = read_layer_types(config, [SLIDING if (i + 1) % pattern else FULL for i in range(layers)])
    scale = config.number("query_pre_attn_scalar", 256.0) ** -0.5
    kinds = {FULL: LayerKind(scale), SLIDING: LayerKind(scale, window=config.count("sliding_window", 4096), rotation=1)}
    return replace(
        shape,
        layers=[kinds[kind] for kind in types],
        ropes=_read_ropes(config),
        norms=_NORMS,
        norms_from_one=True,
        head_norms=True,
        embedding_scale=shape.hidden**0.5,
    )


def _read_ropes(config: Config) -> list[Rope]:
    """transformers 5 has one for each type of layer; earlier versions a base for each, and scaling of that which sees everything."""
    by_type = config.mapping("rope_parameters")
    full: Mapping[str, Any] = {**(by_type.get(FULL) or {}), **config.mapping("rope_scaling")}
    return [
        read_rope(config, full, config.number("rope_theta", 1_000_000.0)),
        read_rope(config, by_type.get(SLIDING) or {}, config.number("rope_local_base_freq", 10_000.0)),
    ]
