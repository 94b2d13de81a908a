"""Products of small matrices in registers: the inner part of every matrix kernel here.

A tile is a few rows times a few vectors of columns, whose sums stay in registers for the whole depth: each step loads the vectors of the
right factor once, and one number of each row of the left one (after Goto and van de Geijn, 2008). It is written in LLVM's own language
since no loop in numba keeps sums in registers.

A sum is always made in the order of the depth, by the same instructions, however many rows there are: what a row becomes depends on nothing
but the row.
"""

from collections.abc import Iterable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils

from workers.engine.cpu.compiled import intrinsic

cgutils: Any = untyped_cgutils

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F16, _F32 = ir.HalfType(), ir.FloatType()
LANES = 8
"""Numbers: one register of AVX2. Where registers are shorter, LLVM takes two for it."""


@intrinsic
def address(_typing: Any, array: Any, offset: Any) -> Any:
    """Where an array's memory begins, and so many bytes behind it.

    A pointer, and not the integer that numba's `ctypes.data` is: LLVM makes of integers addresses relative to a null pointer when it writes
    machine code, and takes those for impossible when it optimizes that same code again, as numba has it do for what is kept on disk.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        data = context.make_array(array)(context, builder, arguments[0]).data
        return builder.gep(builder.bitcast(data, _I8.as_pointer()), [arguments[1]], source_etype=_I8)

    return types.voidptr(array, types.intp), generate


@intrinsic
def product(
    _typing: Any, most_rows: Any, vectors: Any, lanes: Any, half: Any, _rows: Any, _depth: Any, _columns: Any, _a: Any, _a_row: Any,
    _b: Any, _b_row: Any, _b_strip: Any, _c: Any, _c_row: Any, _add: Any,
) -> Any:  # fmt: skip
    """c = a · b, or c += a · b where `add` is not 0, in float32. `a`, `b`, `c` are of `address`, `..._row` bytes from one row to the next.

    The `columns`, a multiple of `vectors` · `lanes`, are computed in strips of so many; the part of `b` for a strip is `b_strip` bytes
    behind that of the one before. `half`: the numbers of `b` have 16 bits. `most_rows`, `vectors`, `lanes` and `half` are constants.
    """
    rows_at_once, width, lane_count, halves = (one.literal_value for one in (most_rows, vectors, lanes, half))

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        rows, depth, columns, a, a_row, b, b_row, b_strip, c, c_row, add = arguments[4:]
        code = _Code(builder, lane_count)

        def tile(count: int, strip: Any, first: Any) -> None:
            right, out = code.at(b, strip, b_strip), code.at(code.at(c, first, c_row), strip, 4 * width * lane_count)
            lefts = code.rows(code.at(a, first, a_row), a_row, count)
            outs = code.rows(out, c_row, count)
            sums = [[code.variable(code.floats) for _ in range(width)] for _ in range(count)]
            with builder.if_else(builder.icmp_signed("!=", add, _I64(0))) as (more, new):
                with more:
                    code.each(sums, lambda i, j: code.load(code.at(outs[i], j, 4 * lane_count), code.floats))
                with new:
                    code.each(sums, lambda _i, _j: code.floats([0.0] * lane_count))
            with cgutils.for_range(builder, depth) as loop:
                place = code.at(right, loop.index, b_row)
                parts = [code.load_floats(code.at(place, j, (2 if halves else 4) * lane_count), halves=halves) for j in range(width)]
                for left, line in zip(lefts, sums, strict=True):
                    number = code.splat(code.load(code.at(left, loop.index, 4), _F32))
                    for part, one in zip(parts, line, strict=True):
                        builder.store(code.multiply_add(number, part, builder.load(one)), one)
            for i, line in enumerate(sums):
                for j, one in enumerate(line):
                    code.store(builder.load(one), code.at(outs[i], j, 4 * lane_count))

        code.tiles(tile, columns=columns, strip=width * lane_count, rows=rows, sizes=_sizes(rows_at_once))
        return _context.get_dummy_value()

    place, number = types.voidptr, types.intp
    factors = (number, number, number, place, number, place, number, number, place, number, number)
    return types.void(most_rows, vectors, lanes, half, *factors), generate


@intrinsic
def product_int8(
    _typing: Any, most_rows: Any, vectors: Any, _rows: Any, _pairs: Any, _columns: Any, _a: Any, _a_row: Any, _b: Any, _b_strip: Any,
    _c: Any, _c_row: Any, _a_scales: Any, _b_scales: Any,
) -> Any:  # fmt: skip
    """c = a · b, each row of it times its scale in `a_scales`, each column times that in `b_scales`. See `product`.

    `a` holds int16, `b` int8, both in pairs along the depth: of each pair two products are summed to 32 bits by one instruction
    (on x86 vpmaddwd, which LLVM makes of this). There is no saturation anywhere; the caller keeps sums below 2^31.
    """
    rows_at_once, width = most_rows.literal_value, vectors.literal_value

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        rows, pairs, columns, a, a_row, b, b_strip, c, c_row, a_scales, b_scales = arguments[2:]
        code = _Code(builder, LANES)
        whole, shorts = ir.VectorType(_I32, LANES), ir.VectorType(_I16, 2 * LANES)

        def tile(count: int, strip: Any, first: Any) -> None:
            right, lefts = code.at(b, strip, b_strip), code.rows(code.at(a, first, a_row), a_row, count)
            sums = [[code.variable(whole) for _ in range(width)] for _ in range(count)]
            code.each(sums, lambda _i, _j: whole([0] * LANES))
            with cgutils.for_range(builder, pairs) as loop:
                place = code.at(right, loop.index, 2 * width * LANES)
                parts = [builder.sext(code.load(code.at(place, j, 2 * LANES), ir.VectorType(_I8, 2 * LANES)), shorts) for j in range(width)]
                for left, line in zip(lefts, sums, strict=True):
                    pair = builder.bitcast(code.splat(code.load(code.at(left, loop.index, 4), _I32)), shorts)
                    for part, one in zip(parts, line, strict=True):
                        builder.store(builder.add(builder.load(one), code.sum_of_pairs(pair, part)), one)
            out = code.at(code.at(c, first, c_row), strip, 4 * width * LANES)
            scales = code.at(b_scales, strip, 4 * width * LANES)
            for i, line in enumerate(sums):
                scale = code.splat(code.load(code.at(code.at(a_scales, first, 4), i, 4), _F32))
                for j, one in enumerate(line):
                    number = builder.fmul(builder.sitofp(builder.load(one), code.floats), scale)
                    number = builder.fmul(number, code.load(code.at(scales, j, 4 * LANES), code.floats))
                    code.store(number, code.at(code.at(out, i, c_row), j, 4 * LANES))

        code.tiles(tile, columns=columns, strip=width * LANES, rows=rows, sizes=range(rows_at_once, 0, -1))
        return _context.get_dummy_value()

    place, number = types.voidptr, types.intp
    factors = (number, number, number, place, number, place, number, place, number, place, place)
    return types.void(most_rows, vectors, *factors), generate


def _sizes(most: int) -> list[int]:
    """Of tiles: every number of rows where they are few; else halves, as attention is compiled for each shape of a model."""
    if most <= 4:
        return list(range(most, 0, -1))
    return [most, *_sizes(most // 2)]


class _Code:
    """What the two products are written in."""

    def __init__(self, builder: Any, lanes: int) -> None:
        self._builder = builder
        self._lanes = lanes
        self.floats = ir.VectorType(_F32, lanes)

    def at(self, address: Any, index: Any, stride: Any) -> Any:
        """address + index · stride, the latter two in Python's integers or the code's."""
        index, stride = (_I64(one) if isinstance(one, int) else one for one in (index, stride))
        return self._builder.gep(address, [self._builder.mul(index, stride)], source_etype=_I8)

    def rows(self, address: Any, stride: Any, count: int) -> list[Any]:
        return [self.at(address, i, stride) for i in range(count)]

    def variable(self, kind: Any) -> Any:
        """LLVM puts it into a register."""
        return cgutils.alloca_once(self._builder, kind)

    def each(self, sums: Any, value: Any) -> None:
        """Every variable i, j of `sums` becomes value(i, j)."""
        for i, line in enumerate(sums):
            for j, one in enumerate(line):
                self._builder.store(value(i, j), one)

    def load(self, address: Any, kind: Any) -> Any:
        value = self._builder.load(self._builder.bitcast(address, kind.as_pointer()))
        value.align = 1
        return value

    def load_floats(self, address: Any, *, halves: bool) -> Any:
        if not halves:
            return self.load(address, self.floats)
        return self._builder.fpext(self.load(address, ir.VectorType(_F16, self._lanes)), self.floats)

    def store(self, value: Any, address: Any) -> None:
        self._builder.store(value, self._builder.bitcast(address, value.type.as_pointer())).align = 1

    def splat(self, number: Any) -> Any:
        """A vector of so many times the same number."""
        kind = ir.VectorType(number.type, self._lanes)
        one = self._builder.insert_element(kind(ir.Undefined), number, _I32(0))
        return self._builder.shuffle_vector(one, kind(ir.Undefined), ir.VectorType(_I32, self._lanes)([0] * self._lanes))

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        kind = ir.FunctionType(self.floats, [self.floats] * 3)
        function = cgutils.get_or_insert_function(self._builder.module, kind, f"llvm.fma.v{self._lanes}f32")
        return self._builder.call(function, [a, b, c])

    def sum_of_pairs(self, a: Any, b: Any) -> Any:
        """Of 2n int16 times 2n int16: n int32, each the sum of two products next to each other."""
        count = a.type.count
        wide = ir.VectorType(_I32, count)
        both = self._builder.mul(self._builder.sext(a, wide), self._builder.sext(b, wide))

        def every_second(start: int) -> Any:
            mask = ir.VectorType(_I32, count // 2)(list(range(start, count, 2)))
            return self._builder.shuffle_vector(both, wide(ir.Undefined), mask)

        return self._builder.add(every_second(0), every_second(1))

    def tiles(self, tile: Any, *, columns: Any, strip: int, rows: Any, sizes: Iterable[int]) -> None:
        """Calls tile(count, strip, first row) for all strips of columns, and in each for as many rows at a time as the first of `sizes`
        says, then for those that are left as the next says, and so on: each size is code of its own, to be compiled.
        """
        builder = self._builder
        with cgutils.for_range(builder, builder.sdiv(columns, _I64(strip))) as strips:
            first = _I64(0)
            for size in sizes:
                count = builder.sdiv(builder.sub(rows, first), _I64(size))
                with cgutils.for_range(builder, count) as blocks:
                    tile(size, strips.index, builder.add(first, builder.mul(blocks.index, _I64(size))))
                first = builder.add(first, builder.mul(count, _I64(size)))
