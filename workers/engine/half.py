"""Half precision in compiled kernels: numba has no such type, so a page of it is an array of uint16, widened when it is read.

What a kernel calls is chosen by the type of the array: for float32 nothing is left of these functions.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload


@intrinsic
def _widen(_context: Any, _bits: Any) -> Any:
    """The number that the bits of a half are."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _narrow(_context: Any, _number: Any) -> Any:
    """The bits of the half nearest to a number."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


def put(target: Any, index: Any, number: Any) -> None:
    """target[index] = number, in whatever precision `target` has. For compiled code only."""
    raise NotImplementedError


def readable(page: Any, buffer: Any) -> Any:
    """`page` (n, m), or `buffer` of the same shape holding it as float32. For compiled code only."""
    raise NotImplementedError


@overload(put, inline="always")
def _put(target: Any, index: Any, number: Any) -> Callable[..., None]:
    if target.dtype == types.uint16:

        def put_half(target: Any, index: Any, number: Any) -> None:
            target[index] = _narrow(number)  # type: ignore[call-arg]  # the context is numba's to give

        return put_half

    def put_float(target: Any, index: Any, number: Any) -> None:
        target[index] = number

    return put_float


@overload(readable, inline="always")
def _readable(page: Any, buffer: Any) -> Callable[..., Any]:
    if page.dtype == types.uint16:

        def widened(page: Any, buffer: Any) -> Any:
            for j in range(buffer.shape[0]):
                for d in range(buffer.shape[1]):
                    buffer[j, d] = _widen(page[j, d])  # type: ignore[call-arg]  # the context is numba's to give
            return buffer

        return widened

    def same(page: Any, buffer: Any) -> Any:
        return page

    return same
