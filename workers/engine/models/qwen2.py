"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values, and windows in the upper layers where they are switched on."""

from dataclasses import replace

from workers.engine.models.config import Config
from workers.engine.models.shape import FULL, SLIDING, Shape, read_layer_types, read_plain


def read_shape(config: Config) -> Shape:
    return with_windows(config, read_plain(config))


def with_windows(config: Config, shape: Shape) -> Shape:
    """`shape` with its layers from `max_window_layers` on, or those that `layer_types` names, looking at `sliding_window` tokens."""
    layers, window = len(shape.layers), None
    if config.get("use_sliding_window") and config.get("sliding_window", 4096) is not None:
        window = config.count("sliding_window", 4096)
    first = layers if window is None else config.count("max_window_layers", 28, least=0)
    types = read_layer_types(config, [FULL if i < first else SLIDING for i in range(layers)])
    if window is None and SLIDING in types:
        raise config.unsupported(f"{SLIDING!r} in layer_types without use_sliding_window and sliding_window")
    kinds = [replace(kind, window=window) if name == SLIDING else kind for kind, name in zip(shape.layers, types, strict=True)]
    return replace(shape, layers=kinds)
