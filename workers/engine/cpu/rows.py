"""Work on the rows of an activation on a CPU, each kind one compiled pass where torch would make five or six.

A row's result does not depend on which other rows there are: every row goes through the same code, whichever thread has it.
"""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from workers.engine.cpu.compiled import inlined, kernel, take_threads
from workers.engine.cpu.numbers import power_of_2

_AT_LEAST = 16_384
"""Numbers for each thread."""
_LOG2E = np.float32(1.4426950408889634)
_GELU = np.float32(2 * 0.7978845608028654)
_GELU_CUBE = np.float32(0.044715)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) · weight over the last axis of (T, n) float32 (Zhang and Sennrich, 2019)."""
    out = torch.empty_like(x)
    take_threads(x.numel(), _AT_LEAST)
    _rms_norm(x.numpy(), weight.numpy(), np.float32(eps), out.numpy())
    return out


def silu_and_mul(x: Tensor) -> Tensor:
    """(T, 2n) → (T, n) float32: silu of the first half times the second."""
    out = torch.empty((len(x), x.shape[1] // 2))
    take_threads(out.numel(), _AT_LEAST)
    _silu_and_mul(x.numpy(), out.numpy())
    return out


def gelu_tanh_and_mul(x: Tensor) -> Tensor:
    """(T, 2n) → (T, n) float32: gelu, in its approximation by tanh, of the first half times the second."""
    out = torch.empty((len(x), x.shape[1] // 2))
    take_threads(out.numel(), _AT_LEAST)
    _gelu_tanh_and_mul(x.numpy(), out.numpy())
    return out


@inlined
def _normalize(row: Any, weight: Any, eps: Any, out: Any) -> None:
    squares = np.float32(0.0)
    for j in range(len(row)):
        squares += row[j] * row[j]
    factor = np.float32(1.0) / np.sqrt(squares / np.float32(len(row)) + eps)
    for j in range(len(row)):
        out[j] = row[j] * factor * weight[j]


@inlined
def _sigmoid(x: Any) -> Any:
    return np.float32(1.0) / (np.float32(1.0) + power_of_2(-x * _LOG2E))


@inlined
def _silu(gate: Any, up: Any, out: Any) -> None:
    for j in range(len(out)):
        out[j] = gate[j] * _sigmoid(gate[j]) * up[j]


@inlined
def _gelu_tanh(gate: Any, up: Any, out: Any) -> None:
    """(1 + tanh(y)) / 2 is the sigmoid of 2y."""
    for j in range(len(out)):
        g = gate[j]
        out[j] = g * _sigmoid(_GELU * (g + _GELU_CUBE * g * g * g)) * up[j]


@kernel
def _rms_norm(x: Any, weight: Any, eps: Any, out: Any) -> None:
    for i in numba.prange(len(x)):
        _normalize(x[i], weight, eps, out[i])


@kernel
def _silu_and_mul(x: Any, out: Any) -> None:
    n = out.shape[1]
    for i in numba.prange(len(x)):
        _silu(x[i, :n], x[i, n:], out[i])


@kernel
def _gelu_tanh_and_mul(x: Any, out: Any) -> None:
    n = out.shape[1]
    for i in numba.prange(len(x)):
        _gelu_tanh(x[i, :n], x[i, n:], out[i])
