"""A small product of `simd`: some rows of x times a matrix y, added to sums that stay in registers.

``multiply_rows(rows, lanes, x, y, ahead, count, out, columns)`` is

    for at in range(0, columns - lanes + 1, lanes):
        for i in range(count):
            out[: rows, at : at + lanes] += outer(x[: rows, i], y[i, at : at + lanes])

`rows` and `lanes` must be constants: how many sums of a column, and how many columns, are computed at once. Each sum is
a chain of `fma` with i ascending, whatever is computed beside it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, register_model

from .simd_memory import address_of, emit_prefetch, f16_to_f32
from .simd_types import HAS_AVX512, Vector, call, splat

intrinsic: Any = _intrinsic  # kernels call them without the first parameter

HAS_WIDE_REGISTERS = HAS_AVX512  # 32 of 16 lanes, not 16 of 8

_I16, _I64, _F32 = ir.IntType(16), ir.IntType(64), ir.FloatType()


class MatrixType(types.Type):
    """Numba type of rows that lie some elements apart in an array.

    It only borrows the array: counting references to it at each call takes a tenth of a decode step's attention.
    """

    def __init__(self, array: types.Array) -> None:
        self.array = array
        super().__init__(name=f"Matrix({array})")


@register_model(MatrixType)
class _MatrixModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: MatrixType) -> None:
        array = manager.lookup(kind.array).get_value_type()
        super().__init__(manager, kind, ir.LiteralStructType([array, _I64, _I64]))


@intrinsic
def matrix(typingctx, array, start, stride):
    """The rows of an array that begin at element `start`, `stride` elements apart; the array must outlive it."""
    kind = MatrixType(array)

    def codegen(context, builder, sig, args):
        value = ir.Constant(context.get_value_type(kind), ir.Undefined)
        for i, part in enumerate(args):
            value = builder.insert_value(value, part, i)
        return value

    return kind(array, types.int64, types.int64), codegen


@intrinsic
def moved(typingctx, a, rows, columns):
    """The matrix that begins so many rows and columns further on."""

    def codegen(context, builder, sig, args):
        start, stride = (builder.extract_value(args[0], i) for i in (1, 2))
        start = builder.add(builder.add(start, builder.mul(stride, args[1])), args[2])
        return builder.insert_value(args[0], start, 1)

    return a(a, types.int64, types.int64), codegen


class _Memory:
    """Emits loads and stores of elements of a matrix, float32 or float16 in uint16."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, matrix: ir.Value) -> None:
        self.context, self.builder, self.array_type = context, builder, kind.array
        self.array, self.start, self.stride = (builder.extract_value(matrix, i) for i in range(3))

    def _pointer(self, row: ir.Value, column: ir.Value, kind: ir.Type) -> ir.Value:
        at = self.builder.add(self.start, self.builder.add(self.builder.mul(self.stride, row), column))
        place = address_of(self.context, self.builder, self.array_type, self.array, at, kind)
        return self.builder.bitcast(place, kind.as_pointer())

    def load(self, row: ir.Value, column: ir.Value, kind: ir.Type) -> ir.Value:
        """A float32, or a vector of them; float16 are converted."""
        if self.array_type.dtype != types.uint16:
            return self.builder.load(self._pointer(row, column, kind), align=1)
        halves = ir.VectorType(_I16, kind.count)
        return f16_to_f32(self.builder, self.builder.load(self._pointer(row, column, halves), align=1))

    def store(self, row: ir.Value, column: ir.Value, value: ir.Value) -> None:
        self.builder.store(value, self._pointer(row, column, value.type), align=1)

    def prefetch(self, plus: ir.Value) -> None:
        """Ask for the line in which the element lies that is `plus` elements behind the first."""
        at = self.builder.add(self.start, plus)
        emit_prefetch(self.context, self.builder, self.array_type, self.array, at)


@intrinsic(prefer_literal=True)
def multiply_rows(typingctx, rows, lanes, x, y, ahead, count, out, columns):
    """See the module's text (vbroadcastss, vcvtph2ps, vfmadd). Returns how many columns are done.

    x, out : matrices of float32; y : of float32, or of float16 in uint16
    ahead : a matrix; what lies where y is read is asked for there, to come as near as L2
    """
    num_rows, num_lanes = rows.literal_value, lanes.literal_value
    vector = Vector("f32", min(num_lanes, 16 if HAS_WIDE_REGISTERS else 8))
    starts = range(0, num_lanes, vector.lanes)

    def codegen(context, builder, sig, args):
        x_rows, y_rows, next_rows, sums_out = (_Memory(context, builder, sig.args[i], args[i]) for i in (2, 3, 4, 6))
        row = [ir.Constant(_I64, r) for r in range(num_rows)]
        one, step = ir.Constant(_I64, 1), ir.Constant(_I64, num_lanes)
        end = builder.mul(builder.sdiv(args[7], step), step)
        sums = [[cgutils.alloca_once(builder, vector.llvm) for _ in starts] for _ in row]
        with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), end, step) as (at, _):
            parts = [builder.add(at, ir.Constant(_I64, start)) for start in starts]
            for r, of_row in zip(row, sums, strict=True):
                for part, total in zip(parts, of_row, strict=True):
                    builder.store(sums_out.load(r, part, vector.llvm), total)
            with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), args[5], one) as (i, _):
                next_rows.prefetch(builder.add(builder.mul(at, args[5]), builder.mul(i, step)))
                _add_products(builder, vector, x_rows, y_rows, row, parts, i, sums)
            for r, of_row in zip(row, sums, strict=True):
                for part, total in zip(parts, of_row, strict=True):
                    sums_out.store(r, part, builder.load(total))
        return end

    integer = types.int64
    return integer(rows, lanes, x, y, ahead, integer, out, integer), codegen


def _add_products(
    builder: ir.IRBuilder,
    vector: Vector,
    x: _Memory,
    y: _Memory,
    rows: list[ir.Value],
    parts: list[ir.Value],
    i: ir.Value,
    sums: list[list[ir.Value]],
) -> None:
    """sums += x[rows, i] times y[i, columns].

    Registers are scarce: the fewer of the factors are kept, and of the others there is one at a time.
    """

    def add(total: ir.Value, a: ir.Value, b: ir.Value) -> None:
        terms = a, b, builder.load(total)
        builder.store(call(builder, f"llvm.fma.v{vector.lanes}f32", vector.llvm, terms), total)

    def factor(row: ir.Value) -> ir.Value:
        return splat(builder, vector, x.load(row, i, _F32))

    if len(rows) < len(parts):
        factors = [factor(row) for row in rows]
        for p, part in enumerate(parts):
            y_part = y.load(i, part, vector.llvm)
            for r, x_row in enumerate(factors):
                add(sums[r][p], x_row, y_part)
    else:
        y_parts = [y.load(i, part, vector.llvm) for part in parts]
        for r, row in enumerate(rows):
            x_row = factor(row)
            for p, y_part in enumerate(y_parts):
                add(sums[r][p], x_row, y_part)
