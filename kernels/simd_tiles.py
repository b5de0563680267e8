"""Tiles of `simd`: products of many rows with several columns at once, and what brings rows into lanes.

Where a matrix is multiplied by several vectors, lanes are rows: an ``i32x8`` holds one sum for each of eight rows, and
no sum is ever taken across lanes. A *tile* is one wide vector that LLVM keeps in several registers: lane = row within
`TILE_ROWS` rows, column after column. Operators and `fma` work on tiles as on any vector.

All are intrinsics for compiled code. Offsets and strides count an array's own elements; with ``NUMBA_BOUNDSCHECK=1``
every access is checked. `columns`, `steps` and the like must be constants.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

from .simd_instructions import abs_u8, madd, maddubs, sign
from .simd_memory import address_of
from .simd_types import I32, F32x8, I8x32, I16x16, I32x8, U8x32, Vector, call, constant, join, shuffle, splat

intrinsic: Any = _intrinsic  # kernels call them without the first parameter
TILE_ROWS = 16
_HALVES = TILE_ROWS // 8  # vectors that hold one column of a tile
_I8, _I64 = ir.IntType(8), ir.IntType(64)

_Values = list[ir.Value]


def tile(element: str, columns: int) -> Vector:
    """The type of a tile of `columns` columns; of int16, each row has two lanes."""
    return Vector(element, (2 if element == "i16" else 1) * TILE_ROWS * columns)


def split(builder: ir.IRBuilder, wide: ir.Value, lanes: int) -> _Values:
    """The vectors of `lanes` lanes that a wide one consists of."""
    starts = range(0, wide.type.count, lanes)
    return [shuffle(builder, wide, wide, range(start, start + lanes)) for start in starts]


class _Reader:
    """Emits loads from one array."""

    def __init__(self, context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value) -> None:
        self._where = context, builder, array_type, array
        self.builder = builder

    def place(self, memory: ir.Type, start: ir.Value, strides: ir.Value | None = None, times: int = 0) -> ir.Value:
        """Address of element start + strides * times, where a `memory` is to be read."""
        if times:
            start = self.builder.add(start, self.builder.mul(strides, ir.Constant(_I64, times)))
        return address_of(*self._where, start, memory)

    def load(self, memory: ir.Type, start: ir.Value, strides: ir.Value | None = None, times: int = 0) -> ir.Value:
        """The `memory` at element start + strides * times."""
        return load_at(self.builder, self.place(memory, start, strides, times), memory)

    def broadcast(self, vector: Vector, start: ir.Value, strides: ir.Value, times: int) -> ir.Value:
        """32 bits from there in each 32-bit lane of a vector."""
        return broadcast_at(self.builder, self.place(I32, start, strides, times), vector)


def ordered_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """a + b where it is written.

    LLVM would turn a chain of sums into a tree, which shortens the wait, and run out of registers. A fence, which
    becomes no instruction and exists for floats only, keeps it from that.
    """
    total = builder.bitcast(builder.add(a, b), F32x8.llvm)
    return builder.bitcast(call(builder, "llvm.arithmetic.fence.v8f32", F32x8.llvm, [total]), a.type)


def load_at(builder: ir.IRBuilder, place: ir.Value, memory: ir.Type, plus: int = 0) -> ir.Value:
    """The `memory` that lies `plus` bytes behind `place`."""
    place = builder.gep(place, [ir.Constant(_I64, plus)])
    return builder.load(builder.bitcast(place, memory.as_pointer()), align=1)


def broadcast_at(builder: ir.IRBuilder, place: ir.Value, vector: Vector, plus: int = 0) -> ir.Value:
    """32 bits from there in each 32-bit lane of a vector (vpbroadcastd)."""
    return builder.bitcast(splat(builder, I32x8, load_at(builder, place, I32, plus)), vector.llvm)


# ---------------------------------------------------------------------------------------------- products


@intrinsic(prefer_literal=True)
def products(typingctx, columns, steps, is_signed, q, start, half, x, x_start, x_stride):
    """Products of 4 * `steps` elements of 16 rows and some columns, summed in int16: tile of i16 (vpmaddubsw, vpaddw).

    q : a panel: each step has 4 elements of 8 rows, row by row; the other 8 rows lie `half` elements behind
    x : int8; column c has its elements at x_start + c * x_stride
    is_signed : q are int8 and the sign of q goes to x; else q are uint8. The caller sees to it that nothing overflows.
    """
    n, num_steps, signed = columns.literal_value, steps.literal_value, is_signed.literal_value

    def codegen(context, builder, sig, args):
        weights = _Reader(context, builder, sig.args[3], args[3])
        activations = _Reader(context, builder, sig.args[6], args[6])
        panel, row = (ir.VectorType(_I8, size * num_steps) for size in (32, 4))
        rows = [weights.place(panel, args[4], args[5], h) for h in range(_HALVES)]
        tokens = [activations.place(row, args[7], args[8], c) for c in range(n)]
        sums: list[ir.Value | None] = [None] * (n * _HALVES)
        for step in range(num_steps):
            w = [load_at(builder, place, U8x32.llvm, 32 * step) for place in rows]
            magnitude = [abs_u8.emit(builder, v) for v in w] if signed else w
            for c, place in enumerate(tokens):
                v = broadcast_at(builder, place, I8x32, 4 * step)
                for h in range(_HALVES):
                    product = maddubs.emit(builder, magnitude[h], sign.emit(builder, v, w[h]) if signed else v)
                    before = sums[c * _HALVES + h]
                    sums[c * _HALVES + h] = product if before is None else ordered_add(builder, before, product)
        return join(builder, sums)

    return tile("i16", n)(columns, steps, is_signed, q, types.intp, types.intp, x, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def dot_runs(typingctx, steps, scales, is_signed, q, factors, at, x, x_start):
    """Products of some runs of eight rows with one vector, times the scales, summed: i32x8 (vpmaddubsw, vpmaddwd).

    q : the runs, u8 or i8, as a panel has them; the products of 4 * `steps` elements are summed in int16
    scales : in a run of 32: 0 (all are 1), 1 or 2
    factors : int16, from element `at` one i16x16 for each scale, each row's scale twice
    x : int8, from element `x_start`
    """
    num_steps, in_run, signed = steps.literal_value, scales.literal_value, is_signed.literal_value

    def codegen(context, builder, sig, args):
        steps_of_run = 8
        reader = _Reader(context, builder, sig.args[4], args[4])
        activations = _Reader(context, builder, sig.args[6], args[6]).place(ir.VectorType(_I8, q.lanes // 8), args[7])
        total = constant(I32x8.llvm, 0)
        factor, sums = constant(I16x16.llvm, 1), None
        for step, w in enumerate(split(builder, args[3], 32)):
            if in_run and step % (steps_of_run // in_run) == 0:
                number = step * in_run // steps_of_run
                factor = reader.load(I16x16.llvm, builder.add(args[5], ir.Constant(_I64, 16 * number)))
            v = broadcast_at(builder, activations, I8x32, 4 * step)
            if signed:
                product = maddubs.emit(builder, abs_u8.emit(builder, w), sign.emit(builder, v, w))
            else:
                product = maddubs.emit(builder, w, v)
            sums = product if sums is None else ordered_add(builder, sums, product)
            if (step + 1) % num_steps == 0:
                total, sums = builder.add(total, madd.emit(builder, sums, factor)), None
        return total

    return I32x8(steps, scales, is_signed, q, factors, types.intp, x, types.intp), codegen


@intrinsic
def broadcast_pair(typingctx, x, start):
    """Two int16 of x in each 32-bit lane, as i16x16 (vpbroadcastd)."""

    def codegen(context, builder, sig, args):
        return broadcast_at(builder, _Reader(context, builder, sig.args[0], args[0]).place(I32, args[1]), I16x16)

    return I16x16(x, types.intp), codegen


@intrinsic
def broadcast_two_pairs(typingctx, x, start, stride):
    """Two int16 of x in each 32-bit lane of the lower half, those `stride` elements behind in the upper half."""

    def codegen(context, builder, sig, args):
        reader = _Reader(context, builder, sig.args[0], args[0])
        low, high = (reader.broadcast(I16x16, args[1], args[2], i) for i in range(2))
        return shuffle(builder, low, high, [*range(8), *range(24, 32)])

    return I16x16(x, types.intp, types.intp), codegen


@intrinsic
def sum_rows(typingctx, x, start):
    """Sums of eight i32x8 that lie one behind the other in x: lane i is the sum of the i-th (vphaddd, vperm2i128)."""

    def codegen(context, builder, sig, args):
        reader = _Reader(context, builder, sig.args[0], args[0])
        rows = [reader.load(I32x8.llvm, args[1], ir.Constant(_I64, 8), i) for i in range(8)]
        for _ in range(2):  # in each half of 16 bytes, neighbours are added
            rows = [_add_neighbours(builder, a, b) for a, b in zip(rows[::2], rows[1::2], strict=True)]
        low = shuffle(builder, *rows, [0, 1, 2, 3, 8, 9, 10, 11])
        return builder.add(low, shuffle(builder, *rows, [4, 5, 6, 7, 12, 13, 14, 15]))

    return I32x8(x, types.intp), codegen


def _add_neighbours(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Of each half of `a`, then of the same half of `b`: sums of lanes 0 and 1, 2 and 3."""
    even = [0, 2, 8, 10, 4, 6, 12, 14]
    return builder.add(shuffle(builder, a, b, even), shuffle(builder, a, b, [lane + 1 for lane in even]))


@intrinsic
def madd_rows(typingctx, sums, factors):
    """A tile of i16 times a factor for each lane of a column, neighbours added: tile of i32 (vpmaddwd)."""
    columns = sums.lanes // factors.lanes

    def codegen(context, builder, sig, args):
        scales = split(builder, args[1], 16)
        parts = split(builder, args[0], 16)
        return join(builder, [madd.emit(builder, part, scales[i % _HALVES]) for i, part in enumerate(parts)])

    return tile("i32", columns)(sums, factors), codegen


@intrinsic(prefer_literal=True)
def outer_madd(typingctx, columns, factors, x, start, stride):
    """Pairs of factors of each row times the pair of int16 of each column, added: tile of i32 (vpmaddwd).

    The pair of column c is x[start + c * stride] and its neighbour.
    """
    n = columns.literal_value

    def codegen(context, builder, sig, args):
        reader = _Reader(context, builder, sig.args[2], args[2])
        rows = split(builder, args[1], 16)
        pairs = [reader.broadcast(I16x16, args[3], args[4], c) for c in range(n)]
        return join(builder, [madd.emit(builder, row, pair) for pair in pairs for row in rows])

    return tile("i32", n)(columns, factors, x, types.intp, types.intp), codegen


# ---------------------------------------------------------------------------------------------- making tiles


@intrinsic(prefer_literal=True)
def zero_i32(typingctx, columns):
    """A tile of int32 zeros."""
    kind = tile("i32", columns.literal_value)
    return kind(columns), lambda context, builder, sig, args: constant(kind.llvm, 0)


@intrinsic(prefer_literal=True)
def load_tile(typingctx, columns, array, place):
    """A tile of float32, one column behind the other from array[place] (vmovups)."""
    kind = tile("f32", columns.literal_value)

    def codegen(context, builder, sig, args):
        return _Reader(context, builder, sig.args[1], args[1]).load(kind.llvm, args[2])

    return kind(columns, array, types.intp), codegen


@intrinsic
def load_both(typingctx, array, place):
    """32 bytes of an array's first half, from element `place`, then those of its second half: one column of rows."""
    lanes = {types.int16: 16, types.float32: 8}[array.dtype]
    kind, one = (Vector(f"{array.dtype.name[0]}{array.dtype.bitwidth}", n * lanes) for n in (_HALVES, 1))

    def codegen(context, builder, sig, args):
        reader = _Reader(context, builder, sig.args[0], args[0])
        size = context.make_array(sig.args[0])(context, builder, args[0]).nitems
        behind = builder.lshr(size, ir.Constant(_I64, 1))
        return join(builder, [reader.load(one.llvm, args[1], behind, h) for h in range(_HALVES)])

    return kind(array, types.intp), codegen


@intrinsic(prefer_literal=True)
def each_column(typingctx, columns, x, start, stride):
    """x[start + c * stride], float32, in all rows of column c (vbroadcastss)."""
    n = columns.literal_value

    def codegen(context, builder, sig, args):
        reader = _Reader(context, builder, sig.args[1], args[1])
        values = [reader.broadcast(F32x8, args[2], args[3], c) for c in range(n)]
        return join(builder, [v for v in values for _ in range(_HALVES)])

    return tile("f32", n)(columns, x, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def each_row(typingctx, columns, rows):
    """One column of float32 in every column."""
    n = columns.literal_value
    return tile("f32", n)(columns, rows), lambda context, builder, sig, args: join(builder, [args[1]] * n)


@intrinsic
def as_floats(typingctx, a):
    """int32 to float32, rounded to nearest (vcvtdq2ps)."""
    kind = Vector("f32", a.lanes)
    return kind(a), lambda context, builder, sig, args: builder.sitofp(args[0], kind.llvm)


@intrinsic
def fma_tile(typingctx, a, b, c):
    """a * b + c, rounded once (vfmadd)."""
    return a(a, a, a), lambda context, builder, sig, args: call(builder, f"llvm.fma.v{a.lanes}f32", a.llvm, args)
