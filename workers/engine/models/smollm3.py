"""SmolLM3: Llama in which every fourth layer knows no positions."""

from dataclasses import replace

from workers.engine.models.config import Config
from workers.engine.models.shape import FULL, Shape, read_layer_types, read_plain


def read_shape(config: Config) -> Shape:
    shape = read_plain(config, tied=True, theta=2_000_000.0)
    layers = len(shape.layers)
    if any(kind != FULL for kind in read_layer_types(config, [FULL] * layers)):
        raise config.unsupported("a sliding window", "none")
    interval = config.count("no_rope_layer_interval", 4)
    rotated = config.items("no_rope_layers", layers) or [(i + 1) % interval for i in range(layers)]  # 1 where there are positions
    kinds = [kind if has else replace(kind, rotation=1) for kind, has in zip(shape.layers, rotated, strict=True)]
    return replace(shape, layers=kinds, ropes=[*shape.ropes, None])
