"""A small product of `simd`: some rows of x times a matrix y, added to sums that stay in registers.

``multiply_rows(rows, lanes, x, y, ahead, count, out, columns)`` is

    for at in range(0, columns - lanes + 1, lanes):
        for i in range(count):
            out[: rows, at : at + lanes] += outer(x[: rows, i], y[i, at : at + lanes])

`rows` and `lanes` must be constants: how many sums of a column, and how many columns, are computed at once. Each sum is
a chain of `fma` with i ascending, whatever is computed beside it.

y is float32, float16, or int8 with scales: an element is then its code times the scale of its group of 32, which lie
one below the other (`scaled_columns`) or side by side (`scaled_rows`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, register_model

from .kv_layout import GROUP
from .simd_memory import address_of, emit_prefetch, f16_to_f32
from .simd_types import HAS_AVX512, Vector, call, splat

intrinsic: Any = _intrinsic  # kernels call them without the first parameter

HAS_WIDE_REGISTERS = HAS_AVX512  # 32 of 16 lanes, not 16 of 8

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


class MatrixType(types.Type):
    """Numba type of rows that lie some elements apart in an array, in int8 with or without scales.

    It only borrows the array: counting references to it at each call takes a tenth of a decode step's attention.
    """

    def __init__(self, array: types.Array, scales: str = "") -> None:
        self.array, self.scales = array, scales
        super().__init__(name=f"Matrix({array}{scales and ', scaled '}{scales})")


@register_model(MatrixType)
class _MatrixModel(models.PrimitiveModel):
    """The array, and integers: start and stride; with scales also where they begin, and the first column."""

    def __init__(self, manager: Any, kind: MatrixType) -> None:
        array = manager.lookup(kind.array).get_value_type()
        integers = [_I64] * (4 if kind.scales else 2)
        super().__init__(manager, kind, ir.LiteralStructType([array, *integers]))


def _make_matrix(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
    value = ir.Constant(context.get_value_type(sig.return_type), ir.Undefined)
    for i, part in enumerate(args):
        value = builder.insert_value(value, part, i)
    return value


@intrinsic
def matrix(typingctx, array, start, stride):
    """The rows of an array that begin at element `start`, `stride` elements apart; the array must outlive it."""
    return MatrixType(array)(array, types.int64, types.int64), _make_matrix


@intrinsic
def scaled_columns(typingctx, array, start, stride, scales, column):
    """A `matrix` of int8 from `column` on; each 32 rows of a column share a scale.

    scales : byte of the array where the scales of the first rows begin; those of the next are 2 `stride` bytes behind
    """
    return MatrixType(array, "columns")(array, *(types.int64,) * 4), _make_matrix


@intrinsic
def scaled_rows(typingctx, array, start, stride, scales, column):
    """A `matrix` of int8 from `column` on; each 32 columns of a row share a scale.

    scales : byte of the array where the scales of the first row begin; those of the next are `stride` bytes behind
    """
    return MatrixType(array, "rows")(array, *(types.int64,) * 4), _make_matrix


@intrinsic
def moved(typingctx, a, rows, columns):
    """The matrix that begins so many rows and columns further on; one with scales, no rows."""

    def codegen(context, builder, sig, args):
        if a.scales:
            return builder.insert_value(args[0], builder.add(builder.extract_value(args[0], 4), args[2]), 4)
        start, stride = (builder.extract_value(args[0], i) for i in (1, 2))
        start = builder.add(builder.add(start, builder.mul(stride, args[1])), args[2])
        return builder.insert_value(args[0], start, 1)

    return a(a, types.int64, types.int64), codegen


class _Memory:
    """Emits loads and stores of elements of a matrix, float32 or float16 in uint16."""

    group = 0  # rows for which `begin_rows` prepares; 0 is all

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, matrix: ir.Value) -> None:
        self.context, self.builder, self.array_type = context, builder, kind.array
        self.array, self.start, self.stride = (builder.extract_value(matrix, i) for i in range(3))

    def _pointer(self, at: ir.Value, kind: ir.Type) -> ir.Value:
        place = address_of(self.context, self.builder, self.array_type, self.array, at, kind)
        return self.builder.bitcast(place, kind.as_pointer())

    def _element(self, row: ir.Value, column: ir.Value) -> ir.Value:
        return self.builder.add(self.start, self.builder.add(self.builder.mul(self.stride, row), column))

    def load(self, row: ir.Value, column: ir.Value, kind: ir.Type) -> ir.Value:
        """A float32, or a vector of them; float16 are converted."""
        at = self._element(row, column)
        if self.array_type.dtype != types.uint16:
            return self.builder.load(self._pointer(at, kind), align=1)
        return self._load_halves(at, kind)

    def _load_halves(self, at: ir.Value, kind: ir.Type) -> ir.Value:
        halves = ir.VectorType(_I16, kind.count) if isinstance(kind, ir.VectorType) else _I16
        return f16_to_f32(self.builder, self.builder.load(self._pointer(at, halves), align=1))

    def begin_rows(self, row: ir.Value, columns: list[ir.Value], vector: Vector) -> None:
        """Prepare for `load_vector` in these columns and in `group` rows from `row` on."""
        self.columns, self.vector = columns, vector

    def begin_row(self, row: ir.Value) -> None:
        """Prepare for `load_vector` in this row."""

    def load_vector(self, row: ir.Value, index: int) -> ir.Value:
        """The vector of this row that begins in column number `index` of those that were prepared."""
        return self.load(row, self.columns[index], self.vector.llvm)

    def store(self, row: ir.Value, column: ir.Value, value: ir.Value) -> None:
        self.builder.store(value, self._pointer(self._element(row, column), value.type), align=1)

    def prefetch(self, plus: ir.Value) -> None:
        """Ask for the line in which the element lies that is `plus` elements behind the first."""
        at = self.builder.add(self.start, plus)
        emit_prefetch(self.context, self.builder, self.array_type, self.array, at)


class _Scaled(_Memory):
    """The same of a matrix of int8 with scales, which is only read, by vectors."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, matrix: ir.Value) -> None:
        super().__init__(context, builder, kind, matrix)
        self.scales, self.column = (builder.extract_value(matrix, i) for i in (3, 4))
        self.factors: list[ir.Value] = []  # vectors, one for each column that is prepared

    def load_vector(self, row: ir.Value, index: int) -> ir.Value:
        builder, lanes = self.builder, self.vector.lanes
        at = builder.add(self._element(row, self.columns[index]), self.column)
        codes = builder.load(self._pointer(at, ir.VectorType(_I8, lanes)), align=1)
        floats = builder.sitofp(builder.sext(codes, ir.VectorType(_I32, lanes)), self.vector.llvm)
        return builder.fmul(floats, self.factors[index])


class _ScaledColumns(_Scaled):
    group = GROUP

    def begin_rows(self, row: ir.Value, columns: list[ir.Value], vector: Vector) -> None:
        super().begin_rows(row, columns, vector)
        builder, two = self.builder, ir.Constant(_I64, 2)
        bytes_before = builder.mul(two, builder.mul(self.stride, builder.udiv(row, ir.Constant(_I64, GROUP))))
        first = builder.add(self.scales, bytes_before)
        places = (builder.mul(two, builder.add(self.column, column)) for column in columns)
        self.factors = [self._load_halves(builder.add(first, place), vector.llvm) for place in places]


class _ScaledRows(_Scaled):
    def begin_row(self, row: ir.Value) -> None:
        """Vectors that are computed together lie in one group: it begins with a multiple of their lanes."""
        builder = self.builder
        group = builder.udiv(builder.add(self.column, self.columns[0]), ir.Constant(_I64, GROUP))
        place = builder.add(self.scales, builder.mul(ir.Constant(_I64, 2), group))
        scale = self._load_halves(builder.add(place, builder.mul(self.stride, row)), _F32)
        self.factors = [splat(builder, self.vector, scale)] * len(self.columns)


_READERS = {"": _Memory, "columns": _ScaledColumns, "rows": _ScaledRows}


@contextmanager
def _rows_in_groups(builder: ir.IRBuilder, group: int, count: ir.Value) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The code in it is for rows from the first to the last (excluded), of all `count` or of each group in turn."""
    zero, step = ir.Constant(_I64, 0), ir.Constant(_I64, group)
    if not group:
        yield zero, count
        return
    with cgutils.for_range_slice(builder, zero, count, step) as (first, _):
        behind = builder.add(first, step)
        yield first, builder.select(builder.icmp_signed("<", behind, count), behind, count)


@intrinsic(prefer_literal=True)
def multiply_rows(typingctx, rows, lanes, x, y, ahead, count, out, columns):
    """See the module's text (vbroadcastss, vcvtph2ps, vfmadd). Returns how many columns are done.

    x, out : matrices of float32
    y : of float32, of float16 in uint16, or of int8 with scales, which then begins with a multiple of `lanes`
    ahead : a matrix; what lies where y is read is asked for there, to come as near as L2
    """
    num_rows, num_lanes = rows.literal_value, lanes.literal_value
    vector = Vector("f32", min(num_lanes, 16 if HAS_WIDE_REGISTERS else 8))
    starts = range(0, num_lanes, vector.lanes)

    def codegen(context, builder, sig, args):
        x_rows, next_rows, sums_out = (_Memory(context, builder, sig.args[i], args[i]) for i in (2, 4, 6))
        y_rows = _READERS[y.scales](context, builder, y, args[3])
        row = [ir.Constant(_I64, r) for r in range(num_rows)]
        one, step = ir.Constant(_I64, 1), ir.Constant(_I64, num_lanes)
        end = builder.mul(builder.sdiv(args[7], step), step)
        sums = [[cgutils.alloca_once(builder, vector.llvm) for _ in starts] for _ in row]
        with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), end, step) as (at, _):
            parts = [builder.add(at, ir.Constant(_I64, start)) for start in starts]
            for r, of_row in zip(row, sums, strict=True):
                for part, total in zip(parts, of_row, strict=True):
                    builder.store(sums_out.load(r, part, vector.llvm), total)
            with _rows_in_groups(builder, y_rows.group, args[5]) as (first, last):
                y_rows.begin_rows(first, parts, vector)
                with cgutils.for_range_slice(builder, first, last, one) as (i, _):
                    next_rows.prefetch(builder.add(builder.mul(at, args[5]), builder.mul(i, step)))
                    _add_products(builder, vector, x_rows, y_rows, row, i, sums)
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

    y.begin_row(i)
    parts = range(len(sums[0]))
    if len(rows) < len(parts):
        factors = [factor(row) for row in rows]
        for p in parts:
            y_part = y.load_vector(i, p)
            for r, x_row in enumerate(factors):
                add(sums[r][p], x_row, y_part)
    else:
        y_parts = [y.load_vector(i, p) for p in parts]
        for r, row in enumerate(rows):
            x_row = factor(row)
            for p, y_part in enumerate(y_parts):
                add(sums[r][p], x_row, y_part)
