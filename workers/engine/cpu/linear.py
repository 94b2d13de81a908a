"""Linear layers on a CPU, in fp32 and with weights in 8 bits.

Weights are laid out once in strips of columns, as `tile` reads them. A row's result is the same in any company: alone, in any batch, on any
number of threads.
"""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from workers.engine.cpu.compiled import THREADS, inlined, kernel, take_threads
from workers.engine.cpu.numbers import INFINITY_BITS, NO_SIGN, float_of_bits
from workers.engine.cpu.tile import LANES, address, product, product_int8

# Tiles: with so many sums, 12 each, and what is multiplied, the 16 registers of AVX2 are full. 4 × 3 loads least for each product, but
# weights in 8 bits need a register more to be widened.
_FLOAT_ROWS, _FLOAT_VECTORS = 4, 3
_INT8_ROWS, _INT8_VECTORS = 6, 2
_FLOAT_STRIP, _INT8_STRIP = _FLOAT_VECTORS * LANES, _INT8_VECTORS * LANES
_TOGETHER = 96
"""Rows that meet a strip of weights, which is read from the first cache for each tile of them; the rows are read from the second."""
_AT_LEAST = 150_000
"""Products for each thread."""
_GREATEST_WEIGHT = 127
_GREATEST_ACTIVATION = 32_767
_GREATEST_SUM = 2**31 - 1
_LEAST_BITS = np.int32(0x0DA2_4260)
"""Of 1e-30."""


class FloatLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight`: (out, in) float32."""
        self._width = len(weight)
        self._weight = _in_strips(weight, _FLOAT_STRIP, 1)
        self._bias = None if bias is None else bias.numpy()

    def __call__(self, x: Any) -> Any:
        """(T, in) → (T, out) float32."""
        out = np.empty((len(x), self._width), np.float32)
        _float_product(np.ascontiguousarray(x), self._weight, out, THREADS)
        return out if self._bias is None else np.add(out, self._bias, out)


class Int8Linear:
    """Weights have a scale for each output channel, activations, in 16 bits, one for each row.

    A few channels of a transformer's activations are 10 to 25 times as large as the rest. In 8 bits the rest would have two or three left;
    16 cost nothing here, since a processor without instructions for sums of 8 bits computes with 16 anyway.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight`: (out, in) float32."""
        self._width = len(weight)
        scales = weight.abs().amax(1).clamp_(min=1e-30) / _GREATEST_WEIGHT
        integers = (weight / scales[:, None]).round_().to(torch.int8)
        self._weight = _in_strips(integers, _INT8_STRIP, 2)
        self._scales = np.zeros(len(self._weight) * _INT8_STRIP, np.float32)
        self._scales[: self._width] = scales.numpy()
        # The greatest that cannot overflow a sum, whatever the activations are.
        heaviest = max(1, int(integers.abs().sum(1, dtype=torch.int64).max()))
        self._greatest = np.float32(min(_GREATEST_ACTIVATION, _GREATEST_SUM // heaviest - 1))
        self._bias = None if bias is None else bias.numpy()

    def __call__(self, x: Any) -> Any:
        """(T, in) → (T, out) float32."""
        out = np.empty((len(x), self._width), np.float32)
        _int8_product(np.ascontiguousarray(x), self._weight, self._scales, self._greatest, out, THREADS)
        return out if self._bias is None else np.add(out, self._bias, out)


def _in_strips(weight: Tensor, strip: int, group: int) -> Any:
    """(out, in) → (strips, in / group, strip, group), filled up with zeros: all columns of a strip lie next to each other at each depth."""
    width, depth = weight.shape
    strips, steps = -(-width // strip), -(-depth // group)
    full = torch.zeros((strips * strip, steps * group), dtype=weight.dtype)
    full[:width, :depth] = weight
    return full.view(strips, strip, steps, group).transpose(1, 2).contiguous().numpy()


@kernel
def _float_product(x: Any, weight: Any, out: Any, most: Any) -> None:
    rows, depth = x.shape
    threads = take_threads(rows * weight.size, _AT_LEAST, most)
    strips, width = len(weight), out.shape[1]
    whole = width // _FLOAT_STRIP
    for thread in numba.prange(threads):
        rest = np.empty((_TOGETHER, _FLOAT_STRIP), np.float32)
        begin, end = strips * thread // threads, strips * (thread + 1) // threads
        for first in range(0, rows, _TOGETHER):
            count = min(_TOGETHER, rows - first)
            a, b = address(x, first * depth * 4), address(weight, begin * depth * _FLOAT_STRIP * 4)
            product(
                _FLOAT_ROWS, _FLOAT_VECTORS, LANES, False, count, depth, (min(end, whole) - begin) * _FLOAT_STRIP, a, depth * 4,
                b, _FLOAT_STRIP * 4, depth * _FLOAT_STRIP * 4, address(out, (first * width + begin * _FLOAT_STRIP) * 4), width * 4, 0,
            )  # fmt: skip
            if end > whole:
                b = address(weight, whole * depth * _FLOAT_STRIP * 4)
                product(
                    _FLOAT_ROWS, _FLOAT_VECTORS, LANES, False, count, depth, _FLOAT_STRIP, a, depth * 4, b, _FLOAT_STRIP * 4, 0,
                    address(rest, 0), _FLOAT_STRIP * 4, 0,
                )  # fmt: skip
                out[first : first + count, whole * _FLOAT_STRIP :] = rest[:count, : width - whole * _FLOAT_STRIP]


@inlined
def _round(row: Any, greatest: Any, integers: Any) -> Any:
    """Puts a row's numbers into `integers`, the greatest as ±`greatest`. Returns what one of them is worth."""
    # By their bits, which are ordered as the numbers are: a maximum of floats is no vector code where there may be NaNs.
    bits, top = row.view(np.int32), _LEAST_BITS
    for j in range(len(row)):
        top = max(top, bits[j] & NO_SIGN)
    greatest_number = float_of_bits(np.int32(top))
    factor = greatest / greatest_number
    for j in range(len(row)):
        integers[j] = np.int16(np.floor(row[j] * factor + np.float32(0.5)))
    if len(row) < len(integers):
        integers[len(row)] = 0
    # Rounding to integers has made some number of what is none.
    return greatest_number / greatest if top < INFINITY_BITS else np.float32(np.nan)


@kernel
def _int8_product(x: Any, weight: Any, scales: Any, greatest: Any, out: Any, most: Any) -> None:
    rows, strips, pairs, width = len(x), len(weight), weight.shape[1], out.shape[1]
    whole = width // _INT8_STRIP
    integers, row_scales = np.empty((rows, 2 * pairs), np.int16), np.empty(rows, np.float32)
    threads = take_threads(rows * weight.size, _AT_LEAST, most)
    # Not by thread as below: numba would see two loops of one length and, blind to what is read by address, make them one.
    for i in numba.prange(rows):
        row_scales[i] = _round(x[i], greatest, integers[i])
    for thread in numba.prange(threads):
        rest = np.empty((_TOGETHER, _INT8_STRIP), np.float32)
        begin, end = strips * thread // threads, strips * (thread + 1) // threads
        for first in range(0, rows, _TOGETHER):
            count = min(_TOGETHER, rows - first)
            a, b = address(integers, first * pairs * 4), address(weight, begin * pairs * _INT8_STRIP * 2)
            product_int8(
                _INT8_ROWS, _INT8_VECTORS, count, pairs, (min(end, whole) - begin) * _INT8_STRIP, a, pairs * 4, b, pairs * _INT8_STRIP * 2,
                address(out, (first * width + begin * _INT8_STRIP) * 4), width * 4, address(row_scales, first * 4),
                address(scales, begin * _INT8_STRIP * 4),
            )  # fmt: skip
            if end > whole:
                product_int8(
                    _INT8_ROWS, _INT8_VECTORS, count, pairs, _INT8_STRIP, a, pairs * 4,
                    address(weight, whole * pairs * _INT8_STRIP * 2), 0, address(rest, 0), _INT8_STRIP * 4,
                    address(row_scales, first * 4), address(scales, whole * _INT8_STRIP * 4),
                )  # fmt: skip
                out[first : first + count, whole * _INT8_STRIP :] = rest[:count, : width - whole * _INT8_STRIP]
