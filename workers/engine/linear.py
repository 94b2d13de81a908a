"""Linear layers, behind one door: what a model calls is chosen by device and precision where its weights are loaded."""

from collections.abc import Callable
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from headrace.errors import ModelUnavailable
from workers.engine.activations import Activations
from workers.engine.kernels import has_kernels


class Linear(Protocol):
    def __call__(self, x: Activations) -> Activations:
        """(T, in) → (T, out)"""
        ...


class DenseLinear:
    """The weight as it is."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)


MakeLinear = Callable[[Tensor, Tensor | None], Linear]
"""Of a weight of shape (out, in) and a bias."""


def linear_maker(dtype: str) -> MakeLinear:
    """What makes the fastest kind for each weight, in 8 bits for a `dtype` of int8, which raises ModelUnavailable where that cannot be."""
    return _int8_linear if dtype == "int8" else _float_linear


def _float_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    if not has_kernels(weight.device, weight.dtype):
        return DenseLinear(weight, bias)
    from workers.engine.cpu.linear import FloatLinear  # numba takes a while to import and is of use on CPUs only

    return FloatLinear(weight, bias)


def _int8_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    if not has_kernels(weight.device, weight.dtype):
        raise ModelUnavailable(f"HEADRACE_DTYPE=int8 is for CPUs with AVX2, FMA and F16C or of ARM, the device is {weight.device}")
    from workers.engine.cpu.linear import Int8Linear  # as above

    return Int8Linear(weight, bias)
