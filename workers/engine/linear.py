"""Linear layers, behind one door: what a model calls is chosen by device and precision where its weights are loaded."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.errors import ModelUnavailable

_TOGETHER = 16
"""Rows: fewer cost more for each row, more are wasted where only a few are asked for."""


class Linear(Protocol):
    def __call__(self, x: Tensor) -> Tensor:
        """(T, in) → (T, out)"""
        ...


class DenseLinear:
    """The weight as it is."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)


class PackedLinear:
    """fp32 on a CPU, the weight laid out once for oneDNN's kernels.

    On 2 cores with AVX2 it runs 576→3072 at 35, 121, 138 and 161 GFLOP/s for 1, 8, 16 and 64 rows, where F.linear reaches 22, 66, 94
    and 141; from 128 rows on they are equal.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 64)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return result


class InvariantLinear:
    """fp32 on a CPU, always the same number of rows at a time: what a row becomes depends on nothing but the row.

    A library chooses its kernel, and thereby the order in which it adds, by the number of rows.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._linear = _float_linear(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        full = F.pad(x, (0, 0, 0, -len(x) % _TOGETHER))
        return torch.cat([self._linear(rows) for rows in torch.split(full, _TOGETHER)])[: len(x)]


MakeLinear = Callable[[Tensor, Tensor | None], Linear]
"""Of a weight of shape (out, in) and a bias."""


def linear_maker(dtype: str, *, batch_invariant: bool) -> MakeLinear:
    """What makes the fastest kind for each weight, in 8 bits for a `dtype` of int8. It raises ModelUnavailable where that cannot be."""
    if dtype == "int8":
        return _int8_linear
    return InvariantLinear if batch_invariant else _float_linear


def _float_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch has no annotation here
        return PackedLinear(weight, bias)
    return DenseLinear(weight, bias)


def _int8_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    from workers.engine import int8  # numba takes a while to import and is of use on CPUs only

    if not int8.fits(weight):
        raise ModelUnavailable(
            f"int8 needs a CPU that torch's fbgemm supports and an even number of inputs, not {tuple(weight.shape)} on {weight.device}: "
            "set HEADRACE_DTYPE=fp32"
        )
    return int8.Int8Linear(weight, bias)
