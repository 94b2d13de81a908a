"""Llama: the plain form, which SmolLM and SmolLM2 have too."""

from workers.engine.models.config import Config
from workers.engine.models.shape import Shape, read_plain


def read_shape(config: Config) -> Shape:
    return read_plain(config)
