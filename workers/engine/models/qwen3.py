"""Qwen3: Qwen2 with normalized query and key heads in place of biases."""

from dataclasses import replace

from workers.engine.models.config import Config
from workers.engine.models.qwen2 import with_windows
from workers.engine.models.shape import Shape, read_plain


def read_shape(config: Config) -> Shape:
    return replace(with_windows(config, read_plain(config, head_dim=128)), head_norms=True)
