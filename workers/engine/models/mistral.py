"""Mistral: Llama with one window for all layers, in its first version."""

from dataclasses import replace

from workers.engine.models.config import Config
from workers.engine.models.shape import Shape, read_plain


def read_shape(config: Config) -> Shape:
    shape = read_plain(config)
    if config.get("sliding_window", 4096) is None:
        return shape
    window = config.count("sliding_window", 4096)
    return replace(shape, layers=[replace(kind, window=window) for kind in shape.layers])
