"""Rotary position embedding (Su et al., 2021) and the ways in which models stretch it to longer contexts."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from headrace.errors import ModelUnavailable
from workers.engine.attention import Rotation

Rope = Mapping[str, Any]
"""Fields of `rope_parameters` in a config.json; at the least `rope_type`, one of SCALINGS, `rope_theta` and
`original_max_position_embeddings`."""


class Rotary:
    """Angles for positions: how far each pair of numbers of a head turns."""

    def __init__(self, rope: Rope | None, head_dim: int, device: torch.device) -> None:
        """`rope` None: no position turns anything. Raises ModelUnavailable for scaling that lacks a field or has one of another type."""
        frequencies, self._amplitude = torch.zeros(head_dim // 2), 1.0
        if rope is not None:
            frequencies, self._amplitude = _scaled(rope, head_dim)
        self._frequencies = frequencies.to(device)

    def __call__(self, positions: Tensor) -> Rotation:
        """(T,) → cos and sin, each (T, head_dim / 2) float32."""
        angles = positions.float()[:, None] * self._frequencies
        return angles.cos().mul_(self._amplitude), angles.sin().mul_(self._amplitude)


def _scaled(rope: Rope, head_dim: int) -> tuple[Tensor, float]:
    """(head_dim / 2,) radians for each position, and the factor on cos and sin."""
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    try:
        return SCALINGS[rope["rope_type"]](frequencies, rope)
    except KeyError as error:
        raise ModelUnavailable(f"rope scaling {rope['rope_type']!r} lacks {error}") from None
    except TypeError as error:
        raise ModelUnavailable(f"rope scaling {dict(rope)!r}: {error}") from None


def _unscaled(frequencies: Tensor, rope: Rope) -> tuple[Tensor, float]:
    return frequencies, 1.0


def _linear(frequencies: Tensor, rope: Rope) -> tuple[Tensor, float]:
    return frequencies / rope["factor"], 1.0


def _llama3(frequencies: Tensor, rope: Rope) -> tuple[Tensor, float]:
    """Long waves are stretched by `factor`, short ones kept, those between blended (Llama 3.1)."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return frequencies * keep + frequencies / factor * (1 - keep), 1.0


def _yarn(frequencies: Tensor, rope: Rope) -> tuple[Tensor, float]:
    """As `_llama3`, blended by index in place of wave length, and with sharper scores (Peng et al., 2023)."""
    factor, pairs = rope["factor"], len(frequencies)

    def index_of(turns: float) -> float:
        """The pair that makes so many turns within the original context."""
        return pairs * math.log(rope["original_max_position_embeddings"] / (turns * 2 * math.pi)) / math.log(rope["rope_theta"])

    low, high = index_of(rope.get("beta_fast") or 32), index_of(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    stretch = ((torch.arange(pairs) - low) / (high - low or 0.001)).clamp(0.0, 1.0)
    return frequencies / factor * stretch + frequencies * (1 - stretch), _yarn_amplitude(factor, rope)


def _yarn_amplitude(factor: float, rope: Rope) -> float:
    def sharpness(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if (given := rope.get("attention_factor")) is not None:
        return float(given)
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return sharpness(rope["mscale"]) / sharpness(rope["mscale_all_dim"])
    return sharpness(1.0)


SCALINGS: Mapping[str, Callable[[Tensor, Rope], tuple[Tensor, float]]] = {
    "default": _unscaled,
    # It changes the angles only of sequences that are longer than max_position_embeddings, and no sequence is.
    "dynamic": _unscaled,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
