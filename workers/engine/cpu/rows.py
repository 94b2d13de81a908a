"""Work on the rows of an activation on a CPU, each kind one compiled pass where torch would make five or six.

A row's result does not depend on which other rows there are: every row goes through the same code, whichever thread has it.
"""

from typing import Any

import numba
import numpy as np
from torch import Tensor

from workers.engine.cpu.compiled import THREADS, inlined, kernel, take_threads
from workers.engine.cpu.numbers import INFINITY_BITS, LOG2E, NO_SIGN, power_of_2

_AT_LEAST = 16_384
"""Numbers for each thread."""
_GELU = np.float32(2 * 0.7978845608028654)
_GELU_CUBE = np.float32(0.044715)


class RmsNorm:
    """x / rms(x) · weight over the last axis of (T, n) float32 (Zhang and Sennrich, 2019)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps = weight.numpy(), np.float32(eps)

    def __call__(self, x: Any) -> Any:
        out = np.empty_like(x)
        _rms_norm(x, self._weight, self._eps, out, THREADS)
        return out


class HeadNorms:
    """The same over each head of queries and keys, in place, in rows (T, heads of all three kinds · head_dim)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        """`weight`: (query and key heads, head_dim)."""
        self._weight, self._eps = weight.numpy(), np.float32(eps)

    def __call__(self, qkv: Any) -> Any:
        _head_norms(qkv, self._weight, self._eps, THREADS)
        return qkv


def silu_and_mul(x: Any) -> Any:
    """(T, 2n) → (T, n) float32: silu of the first half times the second."""
    out = np.empty((len(x), x.shape[1] // 2), np.float32)
    _silu_and_mul(x, out, THREADS)
    return out


def gelu_tanh_and_mul(x: Any) -> Any:
    """(T, 2n) → (T, n) float32: gelu, in its approximation by tanh, of the first half times the second."""
    out = np.empty((len(x), x.shape[1] // 2), np.float32)
    _gelu_tanh_and_mul(x, out, THREADS)
    return out


def greatest(x: Any) -> tuple[Any, Any]:
    """Of each row of (T, n) float32 the place of its greatest number, the first of equals, and whether it is one: finite, beside no NaN."""
    places, sound = np.empty(len(x), np.int64), np.empty(len(x), np.bool_)
    _greatest(x, places, sound, THREADS)
    return places, sound


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
    return np.float32(1.0) / (np.float32(1.0) + power_of_2(-x * LOG2E))


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
def _rms_norm(x: Any, weight: Any, eps: Any, out: Any, most: Any) -> None:
    take_threads(x.size, _AT_LEAST, most)
    for i in numba.prange(len(x)):
        _normalize(x[i], weight, eps, out[i])


@kernel
def _head_norms(qkv: Any, weight: Any, eps: Any, most: Any) -> None:
    heads, dim = weight.shape
    take_threads(len(qkv) * weight.size, _AT_LEAST, most)
    for i in numba.prange(len(qkv)):
        for h in range(heads):
            head = qkv[i, h * dim : (h + 1) * dim]
            _normalize(head, weight[h], eps, head)


@kernel
def _silu_and_mul(x: Any, out: Any, most: Any) -> None:
    n = out.shape[1]
    take_threads(out.size, _AT_LEAST, most)
    for i in numba.prange(len(x)):
        _silu(x[i, :n], x[i, n:], out[i])


@kernel
def _gelu_tanh_and_mul(x: Any, out: Any, most: Any) -> None:
    n = out.shape[1]
    take_threads(out.size, _AT_LEAST, most)
    for i in numba.prange(len(x)):
        _gelu_tanh(x[i, :n], x[i, n:], out[i])


@inlined
def _order(bits: Any) -> Any:
    """Of a float's bits: an integer that is greater for a greater number. A maximum of floats is no vector code where there may be NaNs."""
    return bits ^ ((bits >> np.int32(31)) & NO_SIGN)


@inlined
def _greatest_of(bits: Any) -> Any:
    top, loudest = _order(bits[0]), bits[0] & NO_SIGN
    for j in range(len(bits)):
        top, loudest = max(top, _order(bits[j])), max(loudest, bits[j] & NO_SIGN)
    place = 0
    while _order(bits[place]) != top:
        place += 1
    return place, loudest <= INFINITY_BITS and bits[place] & NO_SIGN < INFINITY_BITS


@kernel
def _greatest(x: Any, places: Any, sound: Any, most: Any) -> None:
    take_threads(x.size, _AT_LEAST, most)
    for i in numba.prange(len(x)):
        places[i], sound[i] = _greatest_of(x[i].view(np.int32))
