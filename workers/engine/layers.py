"""Layers without matrices: root mean square norm, rotary position embedding, gated activation."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.errors import ModelUnavailable


class RmsNorm:
    """x / rms(x) · weight over the last axis, computed in float32 (Zhang and Sennrich, 2019)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps = weight, eps

    def __call__(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(self._eps))
        return (wide * scale).to(x.dtype).mul_(self._weight)


def silu_and_mul(x: Tensor) -> Tensor:
    """(T, 2n) → (T, n): silu of the first half times the second."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


class Rotary:
    """Angles of the rotary position embedding (Su et al., 2021), with the frequency scaling of Llama 3 where the config asks for it."""

    def __init__(self, config: Mapping[str, Any], head_dim: int, device: torch.device) -> None:
        """Raises ModelUnavailable for a kind of scaling that is not supported."""
        # transformers 5 writes one `rope_parameters`; earlier versions `rope_theta` beside `rope_scaling`.
        rope = {
            "rope_theta": config.get("rope_theta", 10_000.0),
            **(config.get("rope_scaling") or {}),
            **(config.get("rope_parameters") or {}),
        }
        kind = rope.get("rope_type", rope.get("type", "default"))
        frequencies: Tensor = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
        if kind == "llama3":
            frequencies = _scale_llama3(frequencies, rope)
        elif kind != "default":
            raise ModelUnavailable(f"rope scaling {kind!r} is not supported; supported: default, llama3")
        self._frequencies = frequencies.to(device)

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(T,) → cos and sin, each (T, head_dim / 2) float32."""
        angles = positions.float()[:, None] * self._frequencies
        return angles.cos(), angles.sin()


def _scale_llama3(frequencies: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """Long waves are stretched by `factor`, short ones kept, those between blended (Llama 3.1)."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    scaled: Tensor = frequencies * keep + frequencies / factor * (1 - keep)
    return scaled
