"""Numbers in compiled kernels: halves, and powers of two.

numba has no type for half precision, so an array of halves is one of uint16. What a kernel calls is chosen by the type of the array.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import overload

from workers.engine.attention import GREATEST_HALF
from workers.engine.cpu.compiled import inlined, intrinsic

NO_SIGN = np.int32(0x7FFF_FFFF)
LOG2E = np.float32(1.4426950408889634)
INFINITY_BITS = np.int32(0x7F80_0000)
"""The bits of a NaN are greater, but for the sign."""


@intrinsic
def _narrow(_context: Any, _number: Any) -> Any:
    """The bits of the half nearest to a number: of one too large for any the greatest there is, as in `attention.narrow`."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        number, kind = arguments[0], ir.FloatType()
        for beyond, bound in ((">", GREATEST_HALF), ("<", -GREATEST_HALF)):
            # NaN is neither, infinity is none of these numbers: both stay what they are, to be seen.
            finite = builder.fcmp_ordered("!=", number, kind(math.copysign(math.inf, bound)))
            outside = builder.and_(finite, builder.fcmp_ordered(beyond, number, kind(bound)))
            number = builder.select(outside, kind(bound), number)
        return builder.bitcast(builder.fptrunc(number, ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic
def float_of_bits(_context: Any, _bits: Any) -> Any:
    """The float32 that 32 bits are."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


def put(target: Any, index: Any, number: Any) -> None:
    """target[index] = number, in whatever precision `target` has. For compiled code only."""
    raise NotImplementedError


@overload(put, inline="always")
def _put(target: Any, index: Any, number: Any) -> Callable[..., None]:
    if target.dtype == types.uint16:

        def put_half(target: Any, index: Any, number: Any) -> None:
            target[index] = _narrow(number)

        return put_half

    def put_float(target: Any, index: Any, number: Any) -> None:
        target[index] = number

    return put_float


@inlined
def power_of_2(x: Any) -> Any:
    """2^x for -126 ≤ x ≤ 127, clipped to that, within 3e-7: a polynomial for the fraction, and the exponent written into a float's bits.

    The library's exp2 is a call for each number; a loop over this one becomes vector code.
    """
    y = min(max(x, np.float32(-126.0)), np.float32(127.0))
    whole = np.floor(y)
    f = y - whole
    p = np.float32(1.8775767e-3)
    p = p * f + np.float32(8.9893397e-3)
    p = p * f + np.float32(5.5826318e-2)
    p = p * f + np.float32(2.4015361e-1)
    p = p * f + np.float32(6.9315308e-1)
    p = p * f + np.float32(9.9999994e-1)
    return p * float_of_bits((np.int32(whole) + np.int32(127)) << np.int32(23))
